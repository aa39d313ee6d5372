-- The flashblock log: entries in append order, their payloads, what retention removed, what was refused.
-- Times are wall clock, in seconds since 1970. Positions start at 1 and are never reused.

CREATE TABLE payloads (
    payload_id     TEXT    NOT NULL PRIMARY KEY,
    block_number   INTEGER NOT NULL,
    builder        TEXT    NOT NULL, -- whose index 0 this was
    state          TEXT    NOT NULL CHECK (state IN ('building', 'sealed', 'landed', 'dropped')),
    block_hash     TEXT,             -- of the block that getPayload answered, where it is known
    first_position INTEGER NOT NULL,
    last_position  INTEGER NOT NULL,
    entries        INTEGER NOT NULL, -- indices 0 .. entries - 1 are held
    bytes          INTEGER NOT NULL, -- what retention counts for the payload
    opened_at      REAL    NOT NULL,
    appended_at    REAL    NOT NULL,
    sealed_at      REAL,
    ended_at       REAL              -- landed or dropped
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX payloads_by_position ON payloads (first_position);
CREATE INDEX payloads_by_block ON payloads (block_number, first_position);

CREATE TABLE entries (
    position    INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    payload_id  TEXT    NOT NULL REFERENCES payloads (payload_id) DEFERRABLE INITIALLY DEFERRED,
    idx         INTEGER NOT NULL,
    encoding    TEXT    NOT NULL CHECK (encoding IN ('text', 'brotli')),
    builder     TEXT    NOT NULL,
    received_at REAL    NOT NULL,
    checksum    INTEGER NOT NULL, -- CRC-32 of body: SQLite has no checksum of its own
    body        BLOB    NOT NULL, -- exactly as it was received
    UNIQUE (payload_id, idx)
) STRICT;

-- One row, absent until retention has removed something. Everything up to `position` is gone.
CREATE TABLE pruned (
    id                   INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    position             INTEGER NOT NULL,
    payload_id           TEXT    NOT NULL,
    block_number         INTEGER NOT NULL,
    idx                  INTEGER NOT NULL,
    highest_block_number INTEGER NOT NULL, -- the greatest key that was removed: not the last one after a reorg
    highest_idx          INTEGER NOT NULL
) STRICT;

-- Evidence: second bodies for a key that was already held.
CREATE TABLE refused (
    id          INTEGER NOT NULL PRIMARY KEY,
    payload_id  TEXT    NOT NULL,
    idx         INTEGER NOT NULL,
    encoding    TEXT    NOT NULL,
    builder     TEXT    NOT NULL,
    received_at REAL    NOT NULL,
    digest      BLOB    NOT NULL, -- SHA-256 of body
    body        BLOB    NOT NULL,
    UNIQUE (payload_id, idx, digest)
) STRICT;
