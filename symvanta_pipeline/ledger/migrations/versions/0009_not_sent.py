"""An intent whose body never left says so, instead of passing for one that Vanta refused.

Revision ID: 0009
Revises: 0008
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_INTENTS = """
ALTER TABLE intents
    DROP CONSTRAINT intents_outcome_check,
    ADD CONSTRAINT intents_outcome_check
        CHECK (outcome IN ('accepted', 'refused', 'not_sent', 'unknown', 'superseded'));
COMMENT ON COLUMN intents.outcome IS
    'accepted, refused (each attempt, by Vanta), not_sent (no attempt was made), unknown (no clear answer), superseded '
    '(a later push was accepted).';
"""


def upgrade() -> None:
    """Allow the new word; rows that are there stay as they are."""
    op.execute(_INTENTS)
