-- Who vouches for which records. A store that was restored, or has failed over and lost its last commits, holds records that
-- may be wrong: until the controller of an installation has compared them all, they admit nobody. Documented in docs/store.md.
CREATE TABLE resyncs (
    cluster_id   TEXT NOT NULL,
    installation TEXT NOT NULL,
    incarnation  TEXT NOT NULL,
    PRIMARY KEY (cluster_id, installation)
);

-- The head at which `resyncs` was last written.
ALTER TABLE feed ADD COLUMN resynced BIGINT NOT NULL DEFAULT 0;

-- Where the feed stands, and which life of the store this is: another server, database or table (a dump that was read back) or
-- timeline (a failover, a restore to a point in time) is another life. Fails on a standby, which is behind.
-- `compared` tells whether any controller has compared its records in this life.
CREATE VIEW feed_state AS
    SELECT f.store_id, f.head, f.reload, f.resynced, l.incarnation, l.timeline,
           EXISTS (SELECT 1 FROM resyncs r WHERE r.incarnation = l.incarnation) AS compared
    FROM feed f,
         (SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint AS timeline) t,
         LATERAL (SELECT t.timeline,
                         concat_ws('/', s.system_identifier, d.oid, 'feed'::regclass::oid, t.timeline) AS incarnation
                  FROM pg_control_system() s, pg_database d
                  WHERE d.datname = current_database()) l
    WHERE f.id = 1; -- there is no other, but the planner has to know

-- Readers start over, because what they may believe has changed.
CREATE FUNCTION resyncs_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE feed SET head = head + 1, reload = head + 1, resynced = head + 1;
    PERFORM pg_notify('oauth_consumers', 'reload');
    RETURN NULL;
END $$;
CREATE TRIGGER resyncs_changed AFTER INSERT OR UPDATE OR DELETE ON resyncs
    FOR EACH ROW EXECUTE FUNCTION resyncs_changed();

-- A tombstone that goes is no news for readers that have seen it: it admitted nobody before.
CREATE OR REPLACE FUNCTION oauth_consumers_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE feed SET head = head + 1, reload = CASE WHEN OLD.state = 'Removed' THEN greatest(reload, OLD.change) ELSE head + 1 END;
    PERFORM pg_notify('oauth_consumers', 'reload');
    RETURN OLD;
END $$;

-- TRUNCATE runs no triggers of rows.
CREATE TRIGGER oauth_consumers_truncated AFTER TRUNCATE ON oauth_consumers
    FOR EACH STATEMENT EXECUTE FUNCTION resyncs_changed();
CREATE TRIGGER resyncs_truncated AFTER TRUNCATE ON resyncs
    FOR EACH STATEMENT EXECUTE FUNCTION resyncs_changed();
