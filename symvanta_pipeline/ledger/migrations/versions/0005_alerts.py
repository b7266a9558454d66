"""What was announced of each customer, and the messages that wait for their targets.

Revision ID: 0005
Revises: 0004
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_ANNOUNCED = """
CREATE TABLE announced (
    organization_id uuid PRIMARY KEY,
    state text NOT NULL CHECK (state ~ '^[a-z]+$'),
    kind text NOT NULL,
    since timestamptz NOT NULL,
    told text[] NOT NULL CHECK (cardinality(told) > 0),
    relapsed boolean NOT NULL,
    at timestamptz NOT NULL,
    closed_at timestamptz
);
COMMENT ON TABLE announced IS
    'The latest trouble of each customer that was announced; only what differs from it is announced again.';
COMMENT ON COLUMN announced.organization_id IS 'connections.organization_id.';
COMMENT ON COLUMN announced.state IS 'What was announced last of this trouble: held, parked, failing, late.';
COMMENT ON COLUMN announced.kind IS 'Of that state: the rule that held, or the kind of failure; blank for none.';
COMMENT ON COLUMN announced.since IS 'Since when it was so: an acceptance after that ends the trouble.';
COMMENT ON COLUMN announced.told IS 'Each state and kind that was announced since the trouble began.';
COMMENT ON COLUMN announced.relapsed IS 'Whether it began soon after the announced end of the one before.';
COMMENT ON COLUMN announced.at IS 'When state and kind were announced.';
COMMENT ON COLUMN announced.closed_at IS 'When its end was announced; NULL while it lasts.';
"""

_ALERTS = """
CREATE TABLE alerts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    message_id uuid NOT NULL,
    target text NOT NULL CHECK (target ~ '^[a-z]+$'),
    message jsonb NOT NULL CHECK (jsonb_typeof(message) = 'object' AND position('@' IN message::text) = 0),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    due_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    claimed_at timestamptz,
    attempts integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    unsure boolean NOT NULL DEFAULT false,
    set_aside boolean NOT NULL DEFAULT false,
    last_error text,
    sent_at timestamptz,
    UNIQUE (message_id, target),
    CHECK (sent_at IS NULL OR claimed_at IS NULL)
);
CREATE INDEX alerts_waiting ON alerts (target, id) WHERE sent_at IS NULL;
CREATE INDEX alerts_sent_at ON alerts (sent_at) WHERE sent_at IS NOT NULL;
COMMENT ON TABLE alerts IS
    'The outbox: a row a message and target, written with what it announces in one transaction, sent afterwards.';
COMMENT ON COLUMN alerts.message_id IS 'One for all targets; the target is told it with every attempt.';
COMMENT ON COLUMN alerts.message IS 'What happened to whom, without personal data; each target words it for itself.';
COMMENT ON COLUMN alerts.due_at IS 'Not tried before.';
COMMENT ON COLUMN alerts.claimed_at IS 'Since when somebody is sending it: committed before an attempt, gone after it.';
COMMENT ON COLUMN alerts.attempts IS 'How many were begun.';
COMMENT ON COLUMN alerts.unsure IS 'Whether an earlier attempt may have arrived although nobody saw the answer.';
COMMENT ON COLUMN alerts.set_aside IS 'The target refused this message itself: others go before it.';
COMMENT ON COLUMN alerts.last_error IS 'Why the latest attempt failed, without the target''s address.';
COMMENT ON COLUMN alerts.sent_at IS 'When the target had taken it; NULL while it waits.';
"""


def upgrade() -> None:
    """Add the two tables; troubles that last at that moment are announced by the first look."""
    for statements in (_ANNOUNCED, _ALERTS):
        op.execute(statements)
