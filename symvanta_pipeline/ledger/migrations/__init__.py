"""Alembic's environment for the ledger's tables; run by ``ledger.database.migrate`` alone, without an alembic.ini."""
