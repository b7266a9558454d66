"""Who had which access, and since when, stays known however old it is; a body that never left is not one refused.

Revision ID: 0009
Revises: 0008
"""

from alembic import op
from sqlalchemy import text

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

# As in 0006, but a change stays until one of a push that goes supersedes it: until then it is how the account is.
# {schema}: who runs it must not be able to put a table or operators of his own in place of these.
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
    ), told AS (
        SELECT changed.* FROM account_changes AS changed JOIN gone
            ON changed.organization_id = gone.organization_id AND changed.at = gone.accepted_at
            AND changed.snapshot_id = gone.id
    ), forgotten AS (
        DELETE FROM account_changes AS superseded USING told
        WHERE superseded.organization_id = told.organization_id AND superseded.unique_id = told.unique_id
          AND superseded.field = told.field AND superseded.id < told.id
    )
    SELECT count(*) INTO pruned FROM gone;
    DELETE FROM approvals WHERE coalesce(used_at, expires_at) < before;
    PERFORM set_config('symvanta.pruning', '', true);
    REVOKE DELETE ON accepted_snapshots, proofs, account_changes, approvals FROM CURRENT_USER;
    RETURN pruned;
END
$$;
COMMENT ON FUNCTION prune_history IS
    'Removes accepted snapshots from before a time, with their proofs, up to a batch of them, the changes that theirs '
    'superseded, and approvals that were over by then. Returns how many snapshots: call it until that is 0. Never '
    'touches the last 90 days, a customer''s latest snapshot, what a held customer''s brakes compare with, what each '
    'account was at that time and since when, or account_states. Runs with its owner''s rights: grant EXECUTE to who '
    'may prune.';
COMMENT ON COLUMN account_changes.snapshot_id IS
    'accepted_snapshots.id of the push that told Vanta; that row may be pruned.';
"""


def upgrade() -> None:
    """Allow the new word, and prune otherwise from now on; rows that are there stay as they are."""
    schema = op.get_bind().execute(text("SELECT quote_ident(current_schema())")).scalar_one()
    for statements in (_INTENTS, _PRUNE_HISTORY.format(schema=schema)):
        op.execute(statements)
