-- Replication between hosts: who this log is, how far it is committed, how far other logs were followed.

-- One row. `log_id` names this file to other hosts: positions mean something only together with it.
-- `committed` is the last position that was known to be committed, NULL while the log is not replicated: then
-- all of it is. It is written with the next transaction, so it may lag behind what was shown. `recovering` is 1 while
-- this log has not voted yet: the host is new, or lost the log that it voted with.
CREATE TABLE replication (
    id         INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    log_id     TEXT    NOT NULL,
    committed  INTEGER,
    recovering INTEGER NOT NULL DEFAULT 1
) STRICT;

INSERT INTO replication (id, log_id, committed) VALUES (1, lower(hex(randomblob(16))), NULL);

-- For each peer that is followed: everything up to `position` of its log has been dealt with.
CREATE TABLE cursors (
    peer     TEXT    NOT NULL PRIMARY KEY, -- its host_id
    log_id   TEXT    NOT NULL,
    position INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Payloads that end before `at`: this host takes nothing of them from there on, unless it is committed elsewhere.
CREATE TABLE closed (
    id         INTEGER NOT NULL PRIMARY KEY,
    payload_id TEXT    NOT NULL UNIQUE,
    at         INTEGER NOT NULL
) STRICT;

-- Digest over the payload's bodies 0 .. idx; NULL in entries of an earlier version, and then computed when needed.
ALTER TABLE entries ADD COLUMN prefix BLOB;
