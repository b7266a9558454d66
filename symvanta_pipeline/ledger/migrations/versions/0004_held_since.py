"""Since when a customer is held, whatever its attempts met in between: waiting must not release a brake.

Revision ID: 0004
Revises: 0003
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; who is held by a brake now is so since the time that the outcome says."""
    op.execute(
        """
        ALTER TABLE outcomes ADD COLUMN held_since timestamptz;
        UPDATE outcomes SET held_since = since WHERE outcome = 'held' AND hash IS NOT NULL;
        COMMENT ON COLUMN outcomes.held_since IS
            'When a brake first held what was not accepted since; windows are counted back from then.';
        """
    )
