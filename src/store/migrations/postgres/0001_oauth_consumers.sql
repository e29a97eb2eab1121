-- The records of OAuth consumers. Documented in docs/store.md; the SQLite twin must keep the same columns.
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
    hold                    TEXT,
    phc                     TEXT,
    secret_problem          TEXT,
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
    revoked_generation      BIGINT,
    previous_phc            TEXT,
    previous_phc_until      TEXT,
    updated_at              TEXT    NOT NULL,
    version                 BIGINT  NOT NULL,
    checksum                TEXT    NOT NULL,
    change                  BIGINT  NOT NULL DEFAULT 0,
    UNIQUE (cluster_id, uid),
    CHECK ((phc IS NULL) <> (secret_problem IS NULL))
);
CREATE INDEX oauth_consumers_change ON oauth_consumers (change);

-- What may sign in, for the server's own code.
CREATE VIEW oauth_consumers_signin AS
    SELECT consumer_key, name, namespace, phc FROM oauth_consumers WHERE state = 'Approved' AND phc IS NOT NULL;

-- The feed: `head` grows with every change of a row, in commit order, whoever makes it; `change` is the head at which a row
-- was last changed; `reload` is the head below which a reader has to start over, because a key is gone.
CREATE TABLE feed (
    id       INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    store_id TEXT    NOT NULL,
    head     BIGINT  NOT NULL,
    reload   BIGINT  NOT NULL
);
INSERT INTO feed (id, store_id, head, reload) VALUES (1, gen_random_uuid()::text, 0, 0);

-- Updating the one row of the feed makes writers wait for each other until they commit: so commit order is feed order.
CREATE FUNCTION oauth_consumers_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE feed SET head = head + 1 RETURNING head INTO NEW.change;
    IF TG_OP = 'UPDATE' AND NEW.consumer_key <> OLD.consumer_key THEN
        UPDATE feed SET reload = head;
    END IF;
    PERFORM pg_notify('oauth_consumers', NEW.change::text);
    RETURN NEW;
END $$;
CREATE TRIGGER oauth_consumers_changed BEFORE INSERT OR UPDATE ON oauth_consumers
    FOR EACH ROW EXECUTE FUNCTION oauth_consumers_changed();

CREATE FUNCTION oauth_consumers_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE feed SET head = head + 1, reload = head + 1;
    PERFORM pg_notify('oauth_consumers', 'reload');
    RETURN OLD;
END $$;
CREATE TRIGGER oauth_consumers_deleted AFTER DELETE ON oauth_consumers
    FOR EACH ROW EXECUTE FUNCTION oauth_consumers_deleted();
