"""A chaos run: publishers, workers and operators at work while processes die and stop and the database goes away, and a ledger at the end.

`python -m chaos` starts a PostgreSQL cluster of its own (or takes a SQLite file), so that what it breaks is nobody else's. The schedule of
faults and what the handlers do wrong follow from a seed; how the processes meet them is up to the machine.
"""
