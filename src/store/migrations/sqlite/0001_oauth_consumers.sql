-- The records of OAuth consumers. Documented in docs/store.md; the PostgreSQL twin must keep the same columns.
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
    hold                    TEXT,
    phc                     TEXT,
    secret_problem          TEXT,
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
    revoked_generation      INTEGER,
    previous_phc            TEXT,
    previous_phc_until      TEXT,
    updated_at              TEXT    NOT NULL,
    version                 INTEGER NOT NULL,
    checksum                TEXT    NOT NULL,
    change                  INTEGER NOT NULL DEFAULT 0,
    UNIQUE (cluster_id, uid),
    CHECK ((phc IS NULL) <> (secret_problem IS NULL))
) STRICT;
CREATE INDEX oauth_consumers_change ON oauth_consumers (change);

-- What may sign in, for the server's own code.
CREATE VIEW oauth_consumers_signin AS
    SELECT consumer_key, name, namespace, phc FROM oauth_consumers WHERE state = 'Approved' AND phc IS NOT NULL;

-- The feed: `head` grows with every change of a row, in commit order, whoever makes it; `change` is the head at which a row
-- was last changed; `reload` is the head below which a reader has to start over, because a key is gone.
CREATE TABLE feed (
    id       INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    store_id TEXT    NOT NULL,
    head     INTEGER NOT NULL,
    reload   INTEGER NOT NULL
) STRICT;
INSERT INTO feed (id, store_id, head, reload) VALUES (1, lower(hex(randomblob(16))), 0, 0);

CREATE TRIGGER oauth_consumers_inserted AFTER INSERT ON oauth_consumers BEGIN
    UPDATE feed SET head = head + 1;
    UPDATE oauth_consumers SET change = (SELECT head FROM feed) WHERE consumer_key = NEW.consumer_key;
END;
CREATE TRIGGER oauth_consumers_updated AFTER UPDATE ON oauth_consumers WHEN NEW.change = OLD.change BEGIN
    UPDATE feed SET head = head + 1, reload = CASE WHEN NEW.consumer_key = OLD.consumer_key THEN reload ELSE head + 1 END;
    UPDATE oauth_consumers SET change = (SELECT head FROM feed) WHERE consumer_key = NEW.consumer_key;
END;
CREATE TRIGGER oauth_consumers_deleted AFTER DELETE ON oauth_consumers BEGIN
    UPDATE feed SET head = head + 1, reload = head + 1;
END;
