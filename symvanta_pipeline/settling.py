"""What became of a push whose answer was never recorded: Vanta's own list tells, where it tells it without doubt.

Belongs here: finding the one state that the list shows, and writing down what follows. Does not belong here: asking
Vanta (``vanta.client``), the comparison itself (``accounts.proof``).

A push settles it as well, since it replaces whatever is there; this is for whoever looks before the next one.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Final, Literal
from uuid import UUID

import pandas as pd
import psycopg

from symvanta_pipeline.accounts.proof import Listed, prove
from symvanta_pipeline.accounts.state import counts_of, from_json
from symvanta_pipeline.ledger import approvals, connections, history, snapshots
from symvanta_pipeline.ledger.snapshots import Intent
from symvanta_pipeline.planning import hash_of_push

# A PUT whose sender died may still be on its way to being applied; longer than a sender itself would wait for it.
ON_ITS_WAY: Final = timedelta(minutes=2)


@dataclass(frozen=True)
class Settlement:
    """What a list showed of the pushes that were possibly applied.

    Attributes:
        outcome: ``accepted``: one of them was applied, and is recorded as the last accepted one; ``refused``: none
            was; ``open``: it cannot be told, and nothing was written down.
        sentence: the same for an operator.
    """

    outcome: Literal["accepted", "refused", "open"]
    sentence: str


def settle(
    connection: psycopg.Connection, organization_id: UUID, listed: Sequence[Listed], *, token_generation: int
) -> Settlement | None:
    """Resolve what was possibly applied by what Vanta lists. Only under the customer's lock.

    Of the last accepted state and of each that was possibly applied since, one has to be the list's exactly, and no
    other: in who is there, in status and in level. Ids that are in none of them are somebody else's, and tell nothing.

    Args:
        connection: to the pipeline's own database.
        organization_id: whose.
        listed: Vanta's list, read under the same lock.
        token_generation: of the token that it was read with; which one carried the push is not known any more.

    Returns:
        None where nothing is open.
    """
    intents = snapshots.unresolved_intents(connection, organization_id)
    if not intents:
        return None
    possible = [from_json(rows) for rows in history.possible(connection, organization_id)]
    if len(possible) != len(intents):
        return Settlement("open", "an older version sent it without writing down whom: the next push settles it")
    candidates = [from_json(history.states(connection, organization_id)), *possible]
    shown = _shown_by(listed, candidates)
    if len(shown) != 1:
        which = "more than one state that it may have" if shown else "none of the states that it may have"
        return Settlement("open", f"Vanta lists {which}: the next push settles it")
    [index] = shown
    applied, later = intents[:index], intents[index:]
    if _is_on_its_way(connection, later):
        minutes = ON_ITS_WAY // timedelta(minutes=1)
        return Settlement("open", f"it may still be on its way: look again in {minutes} minutes")
    with connection.transaction():
        for intent in later:
            snapshots.resolve_intent(connection, intent.id, "refused")
        if not applied:
            return Settlement("refused", "Vanta lists what it accepted before: it was not applied")
        _accept(connection, applied[-1], possible[:index], listed, token_generation)
        return Settlement("accepted", f"Vanta lists what was sent at {_utc(applied[-1].created_at)}: it was applied")


def _shown_by(listed: Sequence[Listed], candidates: Sequence[pd.DataFrame]) -> list[int]:
    """Return which of the candidates the list is, looking at their accounts alone."""
    ours = {unique_id for states in candidates for unique_id in states.index}
    relevant = [account for account in listed if account.unique_id in ours]
    # No finding of any severity: an account that another candidate has would otherwise pass as somebody else's.
    return [i for i, states in enumerate(candidates) if not prove(states, relevant).findings]


def _is_on_its_way(connection: psycopg.Connection, intents: Sequence[Intent]) -> bool:
    """Tell whether something that the list does not show was sent so lately that it may yet be applied."""
    [(now,)] = connection.execute("SELECT clock_timestamp()").fetchall()
    return any(now - intent.created_at < ON_ITS_WAY for intent in intents)


def _accept(
    connection: psycopg.Connection,
    intent: Intent,
    possible: Sequence[pd.DataFrame],
    listed: Sequence[Listed],
    token_generation: int,
) -> None:
    """Record what the run would have recorded, had it lived; the last of the possible states is the one applied."""
    *earlier, states = possible
    recorded = snapshots.record_accepted(
        connection,
        intent.id,
        token_generation=token_generation,
        counts=counts_of(states),
        verdict="read_back",
        approval_id=_approval_used(connection, intent, states, earlier),
    )
    proof = prove(states, listed)
    history.record_proof(connection, recorded.id, proof.verdict, [asdict(finding) for finding in proof.findings])
    snapshots.record_outcome(
        connection,
        intent.organization_id,
        "accepted",
        run_id=intent.run_id,
        generation=_generation_of(connection, intent),
    )


def _generation_of(connection: psycopg.Connection, intent: Intent) -> int:
    """Return the connection's generation that an intent is of: not today's, if somebody connected since."""
    today = connections.find(connection, intent.organization_id)
    if today is None:
        return 0
    return today.generation - (intent.created_at < today.connected_at)


def _approval_used(
    connection: psycopg.Connection, intent: Intent, states: pd.DataFrame, earlier: Sequence[pd.DataFrame]
) -> int | None:
    """Return the approval that let the push through, if it was held: it is good for no other one."""
    held = hash_of_push(connection, intent.organization_id, states, possible=earlier)
    approval = approvals.of_push(connection, intent.organization_id, held, intent.created_at)
    return approval.id if approval else None


def _utc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
