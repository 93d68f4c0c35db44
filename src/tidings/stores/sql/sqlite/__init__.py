"""SQLite 3.35 and later, in WAL mode: the statements that carry an invariant, one module per table or group of tables."""
