"""How long each departure took from Sym to Vanta, with the push that told of it.

Revision ID: 0007
Revises: 0006
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column and a small index of the pushes that have any; older pushes stay as they are, with NULL."""
    op.execute(
        """
        ALTER TABLE accepted_snapshots
            ADD COLUMN departure_seconds double precision[] CHECK (0 <= ALL (departure_seconds));
        CREATE INDEX accepted_snapshots_departures ON accepted_snapshots (accepted_at)
            WHERE cardinality(departure_seconds) > 0;
        COMMENT ON COLUMN accepted_snapshots.departure_seconds IS
            'From the deactivation in Sym to accepted_at, of each account that this push deactivated at Vanta; NULL: '
            'nobody recorded it.';
        """
    )
