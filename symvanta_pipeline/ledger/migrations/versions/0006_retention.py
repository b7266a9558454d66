"""The audit log can be pruned too, by one narrow way, as the history since 0003; what brakes compare with stays.

Revision ID: 0006
Revises: 0005
"""

from alembic import op
from sqlalchemy import text

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_APPEND_ONLY = """
DROP TRIGGER audit_events_append_only ON audit_events;
DROP FUNCTION audit_events_append_only;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_events
    FOR EACH STATEMENT EXECUTE FUNCTION append_only();
REVOKE UPDATE, DELETE, TRUNCATE ON audit_events FROM PUBLIC, CURRENT_USER;
COMMENT ON TABLE audit_events IS
    'What people did with connections and keys, and what they were refused. Rows are added and never changed; '
    'prune_audit_events removes old ones.';
"""

# {schema}: who runs it must not be able to put a table or operators of his own in place of these.
_PRUNE = """
CREATE FUNCTION prune_audit_events(before timestamptz, batch integer DEFAULT 10000) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, {schema}, pg_temp AS $$
DECLARE
    pruned bigint;
BEGIN
    IF (before <= clock_timestamp() - interval '90 days') IS NOT TRUE THEN
        RAISE EXCEPTION 'the audit log of the last 90 days stays' USING ERRCODE = 'check_violation';
    END IF;
    -- One at a time, since two that change the same grants at once fail.
    PERFORM pg_advisory_xact_lock(hashtextextended('symvanta prune_audit_events', 0));
    GRANT DELETE ON audit_events TO CURRENT_USER;
    PERFORM set_config('symvanta.pruning', 'on', true);
    DELETE FROM audit_events WHERE id IN (
        SELECT id FROM audit_events WHERE at < before ORDER BY id LIMIT batch
    );
    GET DIAGNOSTICS pruned = ROW_COUNT;
    PERFORM set_config('symvanta.pruning', '', true);
    REVOKE DELETE ON audit_events FROM CURRENT_USER;
    RETURN pruned;
END
$$;
REVOKE EXECUTE ON FUNCTION prune_audit_events FROM PUBLIC;
COMMENT ON FUNCTION prune_audit_events IS
    'Removes audit events from before a time, up to a batch of them. Returns how many: call it until that is 0. Never '
    'touches the last 90 days. Runs with its owner''s rights: grant EXECUTE to who may prune.';
"""

# As in 0003, but for a customer that is held: its windows are counted back, up to 7 days, from when that began, and
# without the changes of that time nothing would seem lost any more.
_PRUNE_HISTORY = """
CREATE OR REPLACE FUNCTION prune_history(before timestamptz, batch integer DEFAULT 10000) RETURNS bigint
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
            SELECT old.id FROM accepted_snapshots AS old
            WHERE old.accepted_at < before AND EXISTS (
                SELECT FROM accepted_snapshots AS later
                WHERE later.organization_id = old.organization_id
                  AND (later.read_at, later.id) > (old.read_at, old.id)
            ) AND NOT EXISTS (
                SELECT FROM outcomes
                WHERE outcomes.organization_id = old.organization_id
                  AND old.accepted_at >= outcomes.held_since - interval '8 days'
            )
            ORDER BY old.id LIMIT batch
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
COMMENT ON FUNCTION prune_history IS
    'Removes accepted snapshots from before a time, with their proofs and changes, up to a batch of them, and '
    'approvals that were over by then. Returns how many snapshots: call it until that is 0. Never touches the last '
    '90 days, a customer''s latest snapshot, what a held customer''s brakes compare with, or account_states. Runs with '
    'its owner''s rights: grant EXECUTE to who may prune.';
"""


def upgrade() -> None:
    """Put the audit log under the same protection as the history, and add its own way out; its rows stay."""
    schema = op.get_bind().execute(text("SELECT quote_ident(current_schema())")).scalar_one()
    for statements in (_APPEND_ONLY, _PRUNE.format(schema=schema), _PRUNE_HISTORY.format(schema=schema)):
        op.execute(statements)
