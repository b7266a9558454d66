"""What the connect app keeps: browser sessions, consents under way, the audit log.

Revision ID: 0002
Revises: 0001
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_WEB_SESSIONS = """
CREATE TABLE web_sessions (
    id_sha256 bytea PRIMARY KEY CHECK (octet_length(id_sha256) = 32),
    key_id text NOT NULL,
    content bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    CHECK (expires_at > created_at)
);
CREATE INDEX web_sessions_expires_at ON web_sessions (expires_at);
COMMENT ON TABLE web_sessions IS
    'One row for each signed-in browser. The id itself is in that browser''s cookie only.';
COMMENT ON COLUMN web_sessions.id_sha256 IS 'SHA-256 of the session''s id.';
COMMENT ON COLUMN web_sessions.key_id IS 'Which key of the key ring encrypted the content.';
COMMENT ON COLUMN web_sessions.content IS
    'Who is signed in: nonce (12 bytes) and AES-256-GCM ciphertext; associated data: id_sha256.';

CREATE TABLE consent_requests (
    state_sha256 bytea PRIMARY KEY CHECK (octet_length(state_sha256) = 32),
    session_sha256 bytea NOT NULL REFERENCES web_sessions ON UPDATE CASCADE ON DELETE CASCADE,
    organization_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    used_at timestamptz,
    CHECK (expires_at > created_at)
);
CREATE INDEX consent_requests_session_sha256 ON consent_requests (session_sha256);
COMMENT ON TABLE consent_requests IS
    'One row for each consent that a browser was sent to Vanta for; gone with its session.';
COMMENT ON COLUMN consent_requests.state_sha256 IS 'SHA-256 of the OAuth state.';
COMMENT ON COLUMN consent_requests.session_sha256 IS 'The browser that asked; no other may bring the answer.';
COMMENT ON COLUMN consent_requests.organization_id IS
    'organizations.id in Sym''s database: whom the consent is for. It may have no connection yet.';
COMMENT ON COLUMN consent_requests.used_at IS 'When the answer came: a state is good for one.';
"""

_AUDIT_EVENTS = """
CREATE TABLE audit_events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    event text NOT NULL CHECK (event ~ '^[a-z_]+$'),
    organization_id uuid,
    actor text,
    detail text
);
CREATE INDEX audit_events_organization_id ON audit_events (organization_id, id);
COMMENT ON TABLE audit_events IS
    'What people did with connections and keys, and what they were refused. Rows are added, never changed or removed.';
COMMENT ON COLUMN audit_events.organization_id IS
    'Whose connection; NULL where it was about none. It may have no connection.';
COMMENT ON COLUMN audit_events.actor IS
    'Who: users.id in Sym''s database, or terminal:<OS user>; NULL where nobody is known.';
COMMENT ON COLUMN audit_events.detail IS 'More about it, in words for an operator, without personal data.';

CREATE FUNCTION audit_events_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit_events is append-only' USING ERRCODE = 'check_violation';
END
$$;
CREATE TRIGGER audit_events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_events
    FOR EACH STATEMENT EXECUTE FUNCTION audit_events_append_only();
"""


def upgrade() -> None:
    """Add the three tables; those that are there stay as they are."""
    for statements in (_WEB_SESSIONS, _AUDIT_EVENTS):
        op.execute(statements)
