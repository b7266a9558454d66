"""The first tables: connections, tokens, accepted snapshots, intents, outcomes, rate budgets.

Revision ID: 0001
Revises: nothing
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_CONNECTIONS = """
CREATE TABLE connections (
    organization_id uuid PRIMARY KEY,
    customer text NOT NULL UNIQUE CHECK (customer ~ '^[A-Za-z0-9_][A-Za-z0-9._~-]*$'),
    state text NOT NULL CHECK (state IN ('connected', 'parked', 'disconnected')),
    generation integer NOT NULL CHECK (generation >= 1),
    connected_at timestamptz NOT NULL,
    connected_by text,
    parked_at timestamptz,
    parked_reason text,
    disconnected_at timestamptz,
    CHECK (state <> 'connected' OR (parked_at IS NULL AND disconnected_at IS NULL)),
    CHECK (state <> 'parked' OR (parked_at IS NOT NULL AND parked_reason IS NOT NULL)),
    CHECK (state <> 'disconnected' OR disconnected_at IS NOT NULL)
);
COMMENT ON TABLE connections IS
    'One row for each organization that ever gave its consent; rows are never deleted.';
COMMENT ON COLUMN connections.organization_id IS
    'organizations.id in Sym''s database, and the source_id at Vanta: the key of everything.';
COMMENT ON COLUMN connections.customer IS
    'Dagster''s partition key: the slug at the first connection. Never changes.';
COMMENT ON COLUMN connections.state IS
    'connected; parked: the grant was refused, wait for a reconnect; disconnected: ended by a person.';
COMMENT ON COLUMN connections.generation IS 'How many times consent was given. Only goes up.';
COMMENT ON COLUMN connections.connected_at IS 'When consent was last given.';
COMMENT ON COLUMN connections.connected_by IS
    'Who gave it, as an id without personal data; NULL from a terminal.';
COMMENT ON COLUMN connections.parked_reason IS 'Why, in words for an operator, without personal data.';

CREATE FUNCTION connections_only_forward() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.generation < OLD.generation THEN
        RAISE EXCEPTION 'connections.generation only goes up' USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.customer <> OLD.customer OR NEW.organization_id <> OLD.organization_id THEN
        RAISE EXCEPTION 'a connection keeps its organization_id and customer' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER connections_only_forward BEFORE UPDATE ON connections
    FOR EACH ROW EXECUTE FUNCTION connections_only_forward();
"""

_TOKENS = """
CREATE TABLE tokens (
    organization_id uuid PRIMARY KEY REFERENCES connections,
    provider text NOT NULL,
    key_id text,
    access_token bytea,
    refresh_token bytea,
    expires_at timestamptz,
    scope text,
    generation bigint NOT NULL CHECK (generation >= 1),
    saved_at timestamptz NOT NULL,
    CHECK (num_nulls(key_id, access_token, refresh_token, expires_at, scope) IN (0, 5))
);
CREATE INDEX tokens_key_id ON tokens (key_id);
COMMENT ON TABLE tokens IS
    'The vault: one encrypted token for each organization. Erasing keeps the row, so that its generation goes on.';
COMMENT ON COLUMN tokens.provider IS 'Whose token; part of the associated data.';
COMMENT ON COLUMN tokens.key_id IS 'Which key of the key ring encrypted both tokens.';
COMMENT ON COLUMN tokens.access_token IS
    'Nonce (12 bytes) and AES-256-GCM ciphertext; associated data: organization, provider, kind.';
COMMENT ON COLUMN tokens.refresh_token IS 'As access_token, of the other kind.';
COMMENT ON COLUMN tokens.expires_at IS 'When the access token ends.';
COMMENT ON COLUMN tokens.generation IS 'Goes up by one with each refresh, consent and erasure. Never goes down.';

CREATE FUNCTION tokens_only_forward() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        RAISE EXCEPTION 'tokens are erased in place, so that the generation goes on'
            USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.generation < OLD.generation THEN
        RAISE EXCEPTION 'tokens.generation only goes up' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER tokens_only_forward BEFORE UPDATE OR DELETE ON tokens
    FOR EACH ROW EXECUTE FUNCTION tokens_only_forward();
"""

_SNAPSHOTS = """
CREATE TABLE intents (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES connections,
    run_id text NOT NULL,
    read_at timestamptz NOT NULL,
    body_sha256 text NOT NULL CHECK (body_sha256 ~ '^[0-9a-f]{64}$'),
    users integer NOT NULL CHECK (users > 0),
    active integer NOT NULL CHECK (active >= 0),
    deactivated integer NOT NULL CHECK (deactivated >= 0),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    resolved_at timestamptz,
    outcome text CHECK (outcome IN ('accepted', 'refused', 'unknown', 'superseded')),
    CHECK (users = active + deactivated),
    CHECK ((resolved_at IS NULL) = (outcome IS NULL))
);
CREATE INDEX intents_unresolved ON intents (organization_id, id) WHERE resolved_at IS NULL;
COMMENT ON TABLE intents IS
    'Committed before each PUT, resolved after it: an unresolved row was possibly applied. Never holds an empty body.';
COMMENT ON COLUMN intents.read_at IS 'When the users were read from Sym''s database.';
COMMENT ON COLUMN intents.body_sha256 IS 'SHA-256 of the PUT''s body, in hexadecimal.';
COMMENT ON COLUMN intents.outcome IS
    'accepted, refused, unknown (no clear answer), superseded (a later push was accepted).';

CREATE TABLE accepted_snapshots (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES connections,
    run_id text NOT NULL,
    read_at timestamptz NOT NULL,
    accepted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    body_sha256 text NOT NULL CHECK (body_sha256 ~ '^[0-9a-f]{64}$'),
    token_generation bigint NOT NULL,
    users integer NOT NULL CHECK (users > 0),
    active integer NOT NULL CHECK (active >= 0),
    deactivated integer NOT NULL CHECK (deactivated >= 0),
    CHECK (users = active + deactivated)
);
CREATE INDEX accepted_snapshots_latest ON accepted_snapshots (organization_id, read_at DESC, id DESC);
COMMENT ON TABLE accepted_snapshots IS
    'What Vanta accepted, and when. A customer''s rows never go back in read_at.';
COMMENT ON COLUMN accepted_snapshots.read_at IS 'When the users were read from Sym''s database.';
COMMENT ON COLUMN accepted_snapshots.body_sha256 IS 'SHA-256 of the PUT''s body, in hexadecimal.';
COMMENT ON COLUMN accepted_snapshots.token_generation IS 'tokens.generation of the access token that was used.';

CREATE TABLE outcomes (
    organization_id uuid PRIMARY KEY REFERENCES connections,
    at timestamptz NOT NULL,
    outcome text NOT NULL
        CHECK (outcome IN ('accepted', 'held', 'refused', 'parked', 'failing', 'busy')),
    sentence text,
    run_id text NOT NULL
);
COMMENT ON TABLE outcomes IS 'How the latest attempt for each organization ended.';
COMMENT ON COLUMN outcomes.sentence IS 'What happened, in words for an operator, without personal data.';
"""

_RATE_BUDGETS = """
CREATE TABLE rate_budgets (
    name text PRIMARY KEY,
    slots timestamptz[] NOT NULL DEFAULT '{}',
    spent timestamptz[] NOT NULL DEFAULT '{}',
    paused_until timestamptz,
    pauses bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
COMMENT ON TABLE rate_budgets IS
    'One row for each rate budget, shared by all processes and machines; all times are this database''s clock.';
COMMENT ON COLUMN rate_budgets.slots IS 'The latest reserved times, ascending; as many as the budget has.';
COMMENT ON COLUMN rate_budgets.spent IS 'The latest times at which a request was let go, ascending; likewise.';
COMMENT ON COLUMN rate_budgets.paused_until IS 'No request before this time, after a 429.';
COMMENT ON COLUMN rate_budgets.pauses IS 'How many pauses there were: a reservation older than the last is void.';
"""


def upgrade() -> None:
    """Create everything."""
    for statements in (_CONNECTIONS, _TOKENS, _SNAPSHOTS, _RATE_BUDGETS):
        op.execute(statements)
