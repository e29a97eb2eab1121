-- Who vouches for which records. A store that was restored, or has failed over and lost its last commits, holds records that
-- may be wrong: until the controller of an installation has compared them all, they admit nobody. Documented in docs/store.md.
CREATE TABLE resyncs (
    cluster_id   TEXT NOT NULL,
    installation TEXT NOT NULL,
    incarnation  TEXT NOT NULL,
    PRIMARY KEY (cluster_id, installation)
) STRICT;

-- The head at which `resyncs` was last written.
ALTER TABLE feed ADD COLUMN resynced INTEGER NOT NULL DEFAULT 0;

-- Where the feed stands, and which life of the store this is. A file cannot tell that it was restored: so a controller that
-- opens one removes all resyncs, and `timeline` stays 0. `compared` tells whether any controller has compared its records.
CREATE VIEW feed_state AS
    SELECT store_id, head, reload, resynced, store_id AS incarnation, 0 AS timeline,
           EXISTS (SELECT 1 FROM resyncs WHERE resyncs.incarnation = feed.store_id) AS compared
    FROM feed;

-- Readers start over, because what they may believe has changed.
CREATE TRIGGER resyncs_inserted AFTER INSERT ON resyncs BEGIN
    UPDATE feed SET head = head + 1, reload = head + 1, resynced = head + 1;
END;
CREATE TRIGGER resyncs_updated AFTER UPDATE ON resyncs BEGIN
    UPDATE feed SET head = head + 1, reload = head + 1, resynced = head + 1;
END;
CREATE TRIGGER resyncs_deleted AFTER DELETE ON resyncs BEGIN
    UPDATE feed SET head = head + 1, reload = head + 1, resynced = head + 1;
END;

-- A tombstone that goes is no news for readers that have seen it: it admitted nobody before.
DROP TRIGGER oauth_consumers_deleted;
CREATE TRIGGER oauth_consumers_deleted AFTER DELETE ON oauth_consumers BEGIN
    UPDATE feed SET head = head + 1, reload = CASE WHEN OLD.state = 'Removed' THEN max(reload, OLD.change) ELSE head + 1 END;
END;
