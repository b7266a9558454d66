"""With which consent the latest attempt was made: one that a reconnect overtook says nothing of the new consent.

Revision ID: 0008
Revises: 0007
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; of attempts until now the times tell it, as they did before."""
    op.execute(
        """
        ALTER TABLE outcomes ADD COLUMN generation bigint NOT NULL DEFAULT 0 CHECK (generation >= 0);
        UPDATE outcomes SET generation = connections.generation - (outcomes.at < connections.connected_at)::int
            FROM connections WHERE connections.organization_id = outcomes.organization_id;
        COMMENT ON COLUMN outcomes.generation IS
            'Of the connection when the attempt began: who connected since then still waits for the first one; 0: '
            'nobody recorded it.';
        """
    )
