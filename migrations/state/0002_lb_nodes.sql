-- Nodes of the load balancer that were added while it ran; those of the configuration are not here.
-- A URL may hold credentials: it is where requests go, so that it cannot be kept in another form.
CREATE TABLE lb_nodes (
    url     TEXT NOT NULL PRIMARY KEY,
    workers INTEGER CHECK (workers > 0),
    at      REAL NOT NULL,
    who     TEXT NOT NULL
) STRICT, WITHOUT ROWID;
