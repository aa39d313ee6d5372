-- What operators decided while the process ran. Times are wall clock, in seconds since 1970.

-- Every throw of the execution mode's switch; the newest row is where it stands.
CREATE TABLE mode_changes (
    id     INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    mode   TEXT    NOT NULL CHECK (mode IN ('enabled', 'dry_run', 'disabled')),
    before TEXT    NOT NULL CHECK (before IN ('enabled', 'dry_run', 'disabled')),
    at     REAL    NOT NULL,
    who    TEXT    NOT NULL
) STRICT;
