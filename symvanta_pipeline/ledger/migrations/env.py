"""Runs the revisions on the connection that ``ledger.database`` hands over.

Belongs here: what Alembic must be told. Does not belong here: opening connections, settings, logging set-up.
"""

from alembic import context

_given = context.config.attributes

context.configure(
    connection=_given["connection"],
    version_table=_given["version_table"],
    on_version_apply=_given["on_version_apply"],
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
