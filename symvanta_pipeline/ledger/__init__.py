"""The pipeline's own tables: connections, token vault, accepted snapshots, what the connect app keeps, and the locks.

Belongs here: every statement against the pipeline's own PostgreSQL, except the rate budget's (``vanta.budget``).
Does not belong here: Sym's database, HTTP, Dagster.
"""
