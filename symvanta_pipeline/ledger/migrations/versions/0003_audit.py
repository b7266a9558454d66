"""What an audit and the brakes need: states of accounts, their changes, approvals, proofs.

Revision ID: 0003
Revises: 0002

The history (`accepted_snapshots`, `proofs`, `account_changes`, `approvals`) is append-only twice over: by grants, also
against the tables' own owner, and by triggers, also against a superuser. Nothing refers to it by foreign key, since
checking one takes the right to update what it refers to. The one way out of it is `prune_history`.
"""

from alembic import op
from sqlalchemy import text

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_SNAPSHOTS = """
ALTER TABLE intents
    ADD COLUMN states jsonb CHECK (jsonb_typeof(states) = 'array' AND position('@' IN states::text) = 0),
    ADD CHECK (resolved_at IS NULL OR states IS NULL);
COMMENT ON COLUMN intents.states IS
    'Who is sent, as [[unique_id, status, level, login, mfa], ...]; NULL once the intent is resolved.';

ALTER TABLE accepted_snapshots
    ADD COLUMN counts jsonb CHECK (jsonb_typeof(counts) = 'object' AND position('@' IN counts::text) = 0),
    ADD COLUMN latency_seconds double precision CHECK (latency_seconds >= 0),
    ADD COLUMN verdict text CHECK (verdict ~ '^[a-z_]+$'),
    ADD COLUMN unchanged boolean;
COMMENT ON COLUMN accepted_snapshots.counts IS 'How many accounts, by status, level, login and mfa.';
COMMENT ON COLUMN accepted_snapshots.latency_seconds IS 'From the first byte of the PUT to Vanta''s verdict.';
COMMENT ON COLUMN accepted_snapshots.verdict IS 'What Vanta said, in a word; NULL before there was this column.';
COMMENT ON COLUMN accepted_snapshots.unchanged IS 'Whether the body was the same as the one accepted before it.';

CREATE TABLE proofs (
    snapshot_id bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    verdict text NOT NULL CHECK (verdict IN ('proved', 'contradicted', 'unreadable')),
    findings jsonb NOT NULL CHECK (jsonb_typeof(findings) = 'array' AND position('@' IN findings::text) = 0),
    PRIMARY KEY (snapshot_id, at)
);
COMMENT ON TABLE proofs IS 'What reading back from Vanta said of an accepted snapshot; the latest counts.';
COMMENT ON COLUMN proofs.snapshot_id IS 'accepted_snapshots.id.';
COMMENT ON COLUMN proofs.verdict IS 'proved, contradicted, unreadable (Vanta''s list could not be had).';
COMMENT ON COLUMN proofs.findings IS 'Each difference by name, with counts and ids.';
"""

_ACCOUNTS = """
CREATE TABLE account_states (
    organization_id uuid NOT NULL REFERENCES connections,
    unique_id text NOT NULL CHECK (unique_id ~ '^[^[:space:]@]+$'),
    status text NOT NULL CHECK (status IN ('ACTIVE', 'DEACTIVATED', 'ABSENT')),
    level text NOT NULL CHECK (level ~ '^[A-Za-z_]+$'),
    login text NOT NULL CHECK (login ~ '^[A-Za-z_]+$'),
    mfa text NOT NULL CHECK (mfa ~ '^[A-Za-z_]+$'),
    since timestamptz NOT NULL,
    snapshot_id bigint NOT NULL,
    PRIMARY KEY (organization_id, unique_id)
);
COMMENT ON TABLE account_states IS
    'What Vanta accepted last about each account. Follows from account_changes; holds no name and no address.';
COMMENT ON COLUMN account_states.unique_id IS 'users.id in Sym''s database.';
COMMENT ON COLUMN account_states.status IS 'ABSENT: sent once, not in the last body; the rest is as it was then.';
COMMENT ON COLUMN account_states.since IS 'When Vanta accepted the last change of this account.';
COMMENT ON COLUMN account_states.snapshot_id IS 'accepted_snapshots.id of that change; that row may be pruned.';

CREATE TABLE account_changes (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id uuid NOT NULL,
    snapshot_id bigint NOT NULL,
    at timestamptz NOT NULL,
    unique_id text NOT NULL CHECK (unique_id ~ '^[^[:space:]@]+$'),
    field text NOT NULL CHECK (field IN ('status', 'level', 'login', 'mfa')),
    old text CHECK (old ~ '^[A-Za-z_]+$'),
    new text NOT NULL CHECK (new ~ '^[A-Za-z_]+$'),
    CHECK (old IS DISTINCT FROM new)
);
CREATE INDEX account_changes_at ON account_changes (organization_id, at);
COMMENT ON TABLE account_changes IS 'Every change of an account that Vanta accepted, a row a field.';
COMMENT ON COLUMN account_changes.snapshot_id IS 'accepted_snapshots.id of the push that told Vanta.';
COMMENT ON COLUMN account_changes.at IS 'accepted_snapshots.accepted_at of the same.';
COMMENT ON COLUMN account_changes.old IS 'NULL: the account was never sent before.';
"""

_APPROVALS = """
CREATE TABLE approvals (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES connections,
    hash text NOT NULL CHECK (hash ~ '^[0-9a-f]{64}$'),
    rules text[] NOT NULL CHECK (cardinality(rules) > 0),
    reason text NOT NULL CHECK (reason ~ '[^[:space:]]' AND length(reason) <= 500),
    approved_by text NOT NULL CHECK (approved_by ~ '[^[:space:]]' AND length(approved_by) <= 500),
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    used_at timestamptz,
    used_by_run text,
    CHECK (expires_at > at),
    CHECK ((used_at IS NULL) = (used_by_run IS NULL))
);
CREATE INDEX approvals_organization_id ON approvals (organization_id, id);
COMMENT ON TABLE approvals IS
    'Held changes that a person let through. A customer''s latest replaces those before; each is good for one push.';
COMMENT ON COLUMN approvals.hash IS 'SHA-256 over exactly what was held.';
COMMENT ON COLUMN approvals.rules IS 'The brakes that held it; their windows start anew when it is used.';
COMMENT ON COLUMN approvals.reason IS 'Why, in the operator''s words.';
COMMENT ON COLUMN approvals.approved_by IS 'Who, as the operator calls himself.';
COMMENT ON COLUMN approvals.used_at IS 'accepted_snapshots.accepted_at of the push that used it.';
COMMENT ON COLUMN approvals.used_by_run IS 'Dagster''s run of that push.';

CREATE FUNCTION approvals_used_once() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    may_change CONSTANT text[] := ARRAY['used_at', 'used_by_run'];
BEGIN
    IF OLD.used_at IS NOT NULL OR NEW.used_at IS NULL
        OR to_jsonb(NEW) - may_change IS DISTINCT FROM to_jsonb(OLD) - may_change
    THEN
        RAISE EXCEPTION 'an approval only goes from unused to used' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER approvals_used_once BEFORE UPDATE ON approvals
    FOR EACH ROW EXECUTE FUNCTION approvals_used_once();
"""

_OUTCOMES = """
ALTER TABLE outcomes
    ADD COLUMN since timestamptz NOT NULL DEFAULT clock_timestamp(),
    ADD COLUMN kind text,
    ADD COLUMN hash text CHECK (hash ~ '^[0-9a-f]{64}$');
UPDATE outcomes SET since = at;
CREATE INDEX outcomes_alike ON outcomes (outcome, kind, since);
COMMENT ON COLUMN outcomes.since IS 'Since when each attempt ended so: with this outcome and of this kind.';
COMMENT ON COLUMN outcomes.kind IS 'What is alike between customers: the rule that held, or the kind of failure.';
COMMENT ON COLUMN outcomes.hash IS 'SHA-256 over exactly what was held: what an approval has to name.';
"""

_APPEND_ONLY = """
CREATE FUNCTION append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND current_setting('symvanta.pruning', true) = 'on' THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'check_violation';
END
$$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON accepted_snapshots
    FOR EACH STATEMENT EXECUTE FUNCTION append_only();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON proofs
    FOR EACH STATEMENT EXECUTE FUNCTION append_only();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON account_changes
    FOR EACH STATEMENT EXECUTE FUNCTION append_only();
CREATE TRIGGER append_only BEFORE DELETE OR TRUNCATE ON approvals
    FOR EACH STATEMENT EXECUTE FUNCTION append_only();

REVOKE UPDATE, DELETE, TRUNCATE ON accepted_snapshots, proofs, account_changes, approvals FROM PUBLIC, CURRENT_USER;
GRANT UPDATE (used_at, used_by_run) ON approvals TO CURRENT_USER;
"""

# {schema}: who runs it must not be able to put tables or operators of his own in place of these.
_PRUNE = """
CREATE FUNCTION prune_history(before timestamptz, batch integer DEFAULT 10000) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, {schema}, pg_temp AS $$
DECLARE
    pruned bigint;
BEGIN
    IF (before <= clock_timestamp() - interval '90 days') IS NOT TRUE THEN
        RAISE EXCEPTION 'the history of the last 90 days stays' USING ERRCODE = 'check_violation';
    END IF;
    -- One at a time, since two that change the same grants at once fail.
    PERFORM pg_advisory_xact_lock(hashtextextended('symvanta prune_history', 0));
    GRANT DELETE ON accepted_snapshots, proofs, account_changes, approvals TO CURRENT_USER;
    PERFORM set_config('symvanta.pruning', 'on', true);
    WITH gone AS (
        DELETE FROM accepted_snapshots WHERE id IN (
            SELECT held.id FROM accepted_snapshots AS held
            WHERE held.accepted_at < before AND EXISTS (
                SELECT FROM accepted_snapshots AS later
                WHERE later.organization_id = held.organization_id
                  AND (later.read_at, later.id) > (held.read_at, held.id)
            )
            ORDER BY held.id LIMIT batch
        )
        RETURNING id, organization_id, accepted_at
    ), unproved AS (
        DELETE FROM proofs USING gone WHERE proofs.snapshot_id = gone.id
    ), forgotten AS (
        DELETE FROM account_changes AS told USING gone
        WHERE told.organization_id = gone.organization_id AND told.at = gone.accepted_at AND told.snapshot_id = gone.id
    )
    SELECT count(*) INTO pruned FROM gone;
    DELETE FROM approvals WHERE coalesce(used_at, expires_at) < before;
    PERFORM set_config('symvanta.pruning', '', true);
    REVOKE DELETE ON accepted_snapshots, proofs, account_changes, approvals FROM CURRENT_USER;
    RETURN pruned;
END
$$;
REVOKE EXECUTE ON FUNCTION prune_history FROM PUBLIC;
COMMENT ON FUNCTION prune_history IS
    'Removes accepted snapshots from before a time, with their proofs and changes, up to a batch of them, and '
    'approvals that were over by then. Returns how many snapshots: call it until that is 0. Never touches the last '
    '90 days, a customer''s latest snapshot or account_states. Runs with its owner''s rights: grant EXECUTE to who '
    'may prune.';
"""


def upgrade() -> None:
    """Add columns and tables; rows that are there stay as they are, with NULL for what nobody recorded then."""
    schema = op.get_bind().execute(text("SELECT quote_ident(current_schema())")).scalar_one()
    for statements in (_SNAPSHOTS, _ACCOUNTS, _APPROVALS, _OUTCOMES, _APPEND_ONLY, _PRUNE.format(schema=schema)):
        op.execute(statements)
