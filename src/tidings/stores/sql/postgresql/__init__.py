"""PostgreSQL 13 and later: the statements that carry an invariant, one module per table or group of tables."""
