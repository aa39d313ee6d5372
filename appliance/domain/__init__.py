"""Plain data that every plane speaks of: payloads, flashblocks, positions, health and errors. No I/O, no clock."""
