-- The records of OAuth consumers. Documented in docs/reference/store.md. The SQLite migration must keep the same columns.
CREATE TABLE oauth_consumers (
    consumer_key            TEXT    NOT NULL PRIMARY KEY,
    cluster_id              TEXT    NOT NULL,
    uid                     TEXT    NOT NULL,
    installation            TEXT    NOT NULL,
    namespace               TEXT    NOT NULL,
    object                  TEXT    NOT NULL,
    name                    TEXT    NOT NULL,
    generation              BIGINT  NOT NULL,
    state                   TEXT    NOT NULL CHECK (state IN
        ('AwaitingApproval', 'Approved', 'Disapproved', 'OnHold', 'Revoked', 'OutOfScope', 'Removed')),
    unproved_generation     BIGINT,
    hold                    TEXT,
    phc                     TEXT,
    secret_problem          TEXT,
    secret_floor            BIGINT  NOT NULL,
    secret_name             TEXT,
    secret_key              TEXT,
    secret_uid              TEXT,
    secret_resource_version TEXT,
    decision_approved       BOOLEAN,
    decision_by             TEXT,
    decision_at             TEXT,
    decision_generation     BIGINT,
    revoked_at              TEXT,
    revoked_reason          TEXT,
    revoked_disapproved     BOOLEAN,
    reserved                BOOLEAN NOT NULL,
    updated_at              TEXT    NOT NULL,
    version                 BIGINT  NOT NULL,
    checksum                TEXT    NOT NULL,
    sequence                BIGINT  NOT NULL DEFAULT 0,
    UNIQUE (cluster_id, uid),
    CHECK ((phc IS NULL) <> (secret_problem IS NULL))
);
CREATE INDEX oauth_consumers_sequence ON oauth_consumers (sequence);
CREATE INDEX oauth_consumers_tombstones ON oauth_consumers (cluster_id, sequence) WHERE state = 'Removed';

-- The consumers that may sign in, for other programs.
CREATE VIEW oauth_consumers_signin AS
    SELECT consumer_key, name, namespace, phc FROM oauth_consumers WHERE state = 'Approved' AND phc IS NOT NULL;

-- The feed. `sequence` grows with every change of a row, in commit order, by any program. A record has the value of its last
-- change.
-- A reader that is behind `reload` reads all records again, because a key is gone. `last_verification` is the value at the last
-- change of `verifications`.
CREATE TABLE feed (
    id                INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    store_id          TEXT    NOT NULL,
    sequence          BIGINT  NOT NULL,
    reload            BIGINT  NOT NULL,
    last_verification BIGINT  NOT NULL
);
INSERT INTO feed (id, store_id, sequence, reload, last_verification) VALUES (1, gen_random_uuid()::text, 0, 0, 0);

-- The epoch in which an installation has compared all its records with their objects. After a restore, or a failover that lost
-- commits, records may be wrong. They let no consumer in until their installation has compared them.
CREATE TABLE verifications (
    cluster_id   TEXT NOT NULL,
    installation TEXT NOT NULL,
    epoch        TEXT NOT NULL,
    PRIMARY KEY (cluster_id, installation)
);

-- The controllers that run: one row for each process. If the beat of a row no longer changes, the process has ended.
CREATE TABLE controllers (
    instance     TEXT   NOT NULL PRIMARY KEY,
    cluster_id   TEXT   NOT NULL,
    installation TEXT   NOT NULL,
    namespaces   TEXT   NOT NULL,
    period_ms    BIGINT NOT NULL,
    beat         BIGINT NOT NULL,
    seen_at      TEXT   NOT NULL
);

-- The head of the feed, and the store's epoch. A new epoch begins with another server, database or table (a restored dump),
-- another timeline (a failover, a restore to a point in time), or a start of the server (a snapshot of its disk).
-- `rank` orders the epochs of a `lineage`: it is the timeline. `verified` tells whether any installation has verified its records
-- in this epoch. The view fails on a standby, which is behind.
CREATE VIEW feed_state AS
    -- Materialized, so that it is not computed for each record.
    WITH state AS MATERIALIZED (
        SELECT sequence, reload, last_verification, lineage, rank,
               concat_ws('/', lineage, rank, extract(epoch FROM pg_postmaster_start_time())) AS epoch
        FROM feed,
             LATERAL (SELECT concat_ws('/', store_id, system_identifier, oid, 'feed'::regclass::oid) AS lineage
                      FROM pg_control_system(), pg_database WHERE datname = current_database()) l,
             (SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint AS rank) r
        WHERE id = 1) -- the only row, which the planner does not know
    SELECT sequence, reload, last_verification, epoch, lineage, rank,
           EXISTS (SELECT 1 FROM verifications WHERE verifications.epoch = state.epoch) AS verified
    FROM state;

-- A statement that writes records first locks the feed's only row until it commits, so commit order is feed order. It counts its
-- rows in a setting of the transaction and writes the sequence once. To update one row many thousand times gets slower each time.
CREATE FUNCTION oauth_consumers_counts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('oauth_consumers.sequence', (SELECT sequence::text FROM feed WHERE id = 1 FOR UPDATE), true);
    RETURN NULL;
END $$;
CREATE TRIGGER oauth_consumers_counts BEFORE INSERT OR UPDATE OR DELETE ON oauth_consumers
    FOR EACH STATEMENT EXECUTE FUNCTION oauth_consumers_counts();

CREATE FUNCTION oauth_consumers_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.sequence = current_setting('oauth_consumers.sequence')::bigint + 1;
    PERFORM set_config('oauth_consumers.sequence', NEW.sequence::text, true);
    IF TG_OP = 'UPDATE' AND NEW.consumer_key <> OLD.consumer_key THEN
        UPDATE feed SET reload = NEW.sequence;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER oauth_consumers_changed BEFORE INSERT OR UPDATE ON oauth_consumers
    FOR EACH ROW EXECUTE FUNCTION oauth_consumers_changed();

CREATE FUNCTION oauth_consumers_counted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE feed SET sequence = current_setting('oauth_consumers.sequence')::bigint
        WHERE sequence <> current_setting('oauth_consumers.sequence')::bigint;
    IF FOUND THEN
        PERFORM pg_notify('oauth_consumers', current_setting('oauth_consumers.sequence'));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER oauth_consumers_counted AFTER INSERT OR UPDATE ON oauth_consumers
    FOR EACH STATEMENT EXECUTE FUNCTION oauth_consumers_counted();

-- Readers that have seen a tombstone do not miss it. Readers that have not must start over, and so must a controller that found
-- no record before the tombstone: its insert names the sequence it read. So `reload` rises to the tombstone's sequence.
CREATE FUNCTION oauth_consumers_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    gone BIGINT;
    others BOOLEAN;
BEGIN
    SELECT max(sequence), bool_or(state <> 'Removed') INTO gone, others FROM deleted;
    IF gone IS NOT NULL THEN
        UPDATE feed SET sequence = sequence + 1, reload = CASE WHEN others THEN sequence + 1 ELSE greatest(reload, gone) END;
        PERFORM pg_notify('oauth_consumers', 'reload');
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER oauth_consumers_deleted AFTER DELETE ON oauth_consumers REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION oauth_consumers_deleted();

-- Readers start over, because other records are verified now.
CREATE FUNCTION verifications_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE feed SET sequence = sequence + 1, reload = sequence + 1, last_verification = sequence + 1;
    PERFORM pg_notify('oauth_consumers', 'reload');
    RETURN NULL;
END $$;
CREATE TRIGGER verifications_changed AFTER INSERT OR UPDATE OR DELETE ON verifications
    FOR EACH STATEMENT EXECUTE FUNCTION verifications_changed();

-- TRUNCATE runs no row triggers.
CREATE TRIGGER oauth_consumers_truncated AFTER TRUNCATE ON oauth_consumers
    FOR EACH STATEMENT EXECUTE FUNCTION verifications_changed();
CREATE TRIGGER verifications_truncated AFTER TRUNCATE ON verifications
    FOR EACH STATEMENT EXECUTE FUNCTION verifications_changed();
