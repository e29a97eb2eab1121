-- The records of OAuth consumers. Documented in docs/reference/store.md. The PostgreSQL migration must keep the same columns.
CREATE TABLE oauth_consumers (
    consumer_key            TEXT    NOT NULL PRIMARY KEY,
    cluster_id              TEXT    NOT NULL,
    uid                     TEXT    NOT NULL,
    installation            TEXT    NOT NULL,
    namespace               TEXT    NOT NULL,
    object                  TEXT    NOT NULL,
    name                    TEXT    NOT NULL,
    generation              INTEGER NOT NULL,
    state                   TEXT    NOT NULL CHECK (state IN
        ('AwaitingApproval', 'Approved', 'Disapproved', 'OnHold', 'Revoked', 'OutOfScope', 'Removed')),
    unproved_generation     INTEGER,
    hold                    TEXT,
    phc                     TEXT,
    secret_problem          TEXT,
    secret_floor            INTEGER NOT NULL,
    secret_name             TEXT,
    secret_key              TEXT,
    secret_uid              TEXT,
    secret_resource_version TEXT,
    decision_approved       INTEGER,
    decision_by             TEXT,
    decision_at             TEXT,
    decision_generation     INTEGER,
    revoked_at              TEXT,
    revoked_reason          TEXT,
    revoked_disapproved     INTEGER,
    reserved                INTEGER NOT NULL,
    updated_at              TEXT    NOT NULL,
    version                 INTEGER NOT NULL,
    checksum                TEXT    NOT NULL,
    sequence                INTEGER NOT NULL DEFAULT 0,
    UNIQUE (cluster_id, uid),
    CHECK ((phc IS NULL) <> (secret_problem IS NULL))
) STRICT;
CREATE INDEX oauth_consumers_sequence ON oauth_consumers (sequence);
CREATE INDEX oauth_consumers_tombstones ON oauth_consumers (cluster_id, sequence) WHERE state = 'Removed';

-- The consumers that may sign in, for other programs.
CREATE VIEW oauth_consumers_signin AS
    SELECT consumer_key, name, namespace, phc FROM oauth_consumers WHERE state = 'Approved' AND phc IS NOT NULL;

-- The feed. `sequence` grows with every change of a row, in commit order, by any program. A record has the value of its last
-- change.
-- A reader that is behind `reload` reads all records again, because a key is gone. `last_verification` is the value at the last
-- change of `verifications`. Nothing shows that a file was restored, so a controller that opens it sets a new `opened`.
CREATE TABLE feed (
    id                INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    store_id          TEXT    NOT NULL,
    sequence          INTEGER NOT NULL,
    reload            INTEGER NOT NULL,
    last_verification INTEGER NOT NULL,
    opened            TEXT    NOT NULL
) STRICT;
INSERT INTO feed (id, store_id, sequence, reload, last_verification, opened) VALUES (1, lower(hex(randomblob(16))), 0, 0, 0, '');

-- The epoch in which an installation has compared all its records with their objects. After a restore, or a failover that lost
-- commits, records may be wrong. They let no consumer in until their installation has compared them.
CREATE TABLE verifications (
    cluster_id   TEXT NOT NULL,
    installation TEXT NOT NULL,
    epoch        TEXT NOT NULL,
    PRIMARY KEY (cluster_id, installation)
) STRICT;

-- The controllers that run: one row for each process. If the beat of a row no longer changes, the process has ended.
CREATE TABLE controllers (
    instance     TEXT   NOT NULL PRIMARY KEY,
    cluster_id   TEXT   NOT NULL,
    installation TEXT   NOT NULL,
    namespaces   TEXT   NOT NULL,
    period_ms    INTEGER NOT NULL,
    beat         INTEGER NOT NULL,
    seen_at      TEXT   NOT NULL
) STRICT;

-- The head of the feed, and the store's epoch. A new epoch begins when a controller opens the file. Epochs of a file have no
-- order, so `rank` is 0. `verified` tells whether any installation has verified its records in this epoch.
CREATE VIEW feed_state AS
    SELECT sequence, reload, last_verification, store_id || '/' || opened AS epoch, store_id AS lineage, 0 AS rank,
           EXISTS (SELECT 1 FROM verifications WHERE verifications.epoch = store_id || '/' || opened) AS verified
    FROM feed;

CREATE TRIGGER oauth_consumers_inserted AFTER INSERT ON oauth_consumers BEGIN
    UPDATE feed SET sequence = sequence + 1;
    UPDATE oauth_consumers SET sequence = (SELECT sequence FROM feed) WHERE consumer_key = NEW.consumer_key;
END;
CREATE TRIGGER oauth_consumers_updated AFTER UPDATE ON oauth_consumers WHEN NEW.sequence = OLD.sequence BEGIN
    UPDATE feed SET sequence = sequence + 1, reload = CASE WHEN NEW.consumer_key = OLD.consumer_key THEN reload ELSE sequence + 1 END;
    UPDATE oauth_consumers SET sequence = (SELECT sequence FROM feed) WHERE consumer_key = NEW.consumer_key;
END;

-- Readers that have seen a tombstone do not miss it. Readers that have not must start over, and so must a controller that found
-- no record before the tombstone: its insert names the sequence it read. So `reload` rises to the tombstone's sequence.
CREATE TRIGGER oauth_consumers_deleted AFTER DELETE ON oauth_consumers BEGIN
    UPDATE feed SET sequence = sequence + 1, reload = CASE WHEN OLD.state = 'Removed' THEN max(reload, OLD.sequence) ELSE sequence + 1 END;
END;

-- Readers start over, because other records are verified now.
CREATE TRIGGER verifications_inserted AFTER INSERT ON verifications BEGIN
    UPDATE feed SET sequence = sequence + 1, reload = sequence + 1, last_verification = sequence + 1;
END;
CREATE TRIGGER verifications_updated AFTER UPDATE ON verifications BEGIN
    UPDATE feed SET sequence = sequence + 1, reload = sequence + 1, last_verification = sequence + 1;
END;
CREATE TRIGGER verifications_deleted AFTER DELETE ON verifications BEGIN
    UPDATE feed SET sequence = sequence + 1, reload = sequence + 1, last_verification = sequence + 1;
END;
