"""What a push would change at Vanta, and which brake would hold it.

Belongs here: gathering what a new state is compared with. Does not belong here: the comparison and the limits
(``accounts.diff``, ``accounts.brakes``), letting a held change through (``ledger.approvals``), sending.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import pandas as pd
import psycopg

from symvanta_pipeline.accounts import brakes as rules
from symvanta_pipeline.accounts import schema
from symvanta_pipeline.accounts.brakes import Before, Brake
from symvanta_pipeline.accounts.diff import Difference, compare
from symvanta_pipeline.accounts.mapping import to_accounts
from symvanta_pipeline.accounts.proof import Listed, alive_ids
from symvanta_pipeline.accounts.schema import Accounts
from symvanta_pipeline.accounts.state import COLUMNS, from_json, states_of
from symvanta_pipeline.ledger import approvals, history, snapshots
from symvanta_pipeline.rules import RulesBroken
from symvanta_pipeline.sym import contract
from symvanta_pipeline.sym.source import read_users
from symvanta_pipeline.vanta.errors import ListUnreadable

WINDOWS: Final = {"lost_in_a_day": timedelta(hours=24), "lost_in_a_week": timedelta(days=7)}
COUNTED: Final = ("added", "reactivated", "deactivated", "vanished", "changed", "unchanged")
SHOWN_HASH: Final = 12  # characters that name a change well enough on a command line
UNSEEN: Final = "nothing was ever accepted, so that the push will be compared with Vanta's list; it was not looked at"

Look = Callable[[], Sequence[Listed]]


@dataclass(frozen=True)
class Plan:
    """What one push would do.

    Attributes:
        states: what would be sent, as `symvanta_pipeline.accounts.state.states_of` returns it.
        difference: from what Vanta accepted last.
        brakes: those that it trips, warnings included, in the order of `symvanta_pipeline.accounts.brakes.RULES`.
        change_hash: over exactly what is held; "" where nothing is.
    """

    states: pd.DataFrame = field(repr=False)
    difference: Difference
    brakes: tuple[Brake, ...]
    change_hash: str

    @property
    def holding(self) -> list[Brake]:
        """The brakes that hold it."""
        return rules.held(self.brakes)

    @property
    def warnings(self) -> list[str]:
        """What is worth a look and holds nothing."""
        return [f"{brake.rule}: {brake.detail}" for brake in self.brakes if not brake.holds]

    def counts(self) -> dict[str, dict[str, int]]:
        """Count the accounts by what happens to them, and the fields that change in those that were there and stay."""
        fields = Counter(change.field for change in self.difference.changes if change.old and change.new)
        return {
            "change": {name: len(getattr(self.difference, name)) for name in COUNTED},
            "change of": {column: fields[column] for column in COLUMNS},
        }

    def held_sentence(self, customer: str) -> str:
        """Say why it is held, and the two commands to look and to let it through."""
        why = "; ".join(f"{brake.rule}: {brake.detail}" for brake in self.holding)
        let_through = f"symvanta approve {customer} --hash {self.change_hash[:SHOWN_HASH]} --reason TEXT"
        return f"held by {why}. To look: symvanta plan {customer}. If it is true: {let_through}"

    def content(self, customer: str, *, ids: bool) -> dict[str, Any]:
        """Return what ``symvanta plan --json`` prints: numbers, or lists of unique ids.

        Of a first push that was not compared with Vanta's list, that stands among the brakes: it may be held.
        """
        told = [brake for brake in self.brakes if brake.holds or brake.rule == "first_push"]
        groups = {name: list(getattr(self.difference, name)) for name in COUNTED}
        return {
            "customer": customer,
            "hash": self.change_hash,
            **{name: found if ids else len(found) for name, found in groups.items()},
            "brakes": [{"rule": brake.rule, "detail": brake.detail} for brake in told],
        }


def accounts_of(sym_url: str, organization_id: UUID, *, app_url: str) -> Accounts:
    """Read an organization's users and make of them what would be sent, writing nothing down.

    Raises:
        SourceError: they could not be read. RulesBroken: they could not be sent as they are.
    """
    snapshot = read_users(sym_url, str(organization_id))
    if broken := contract.violations(snapshot.frame, str(organization_id)):
        raise RulesBroken(broken)
    accounts = to_accounts(snapshot.frame, app_url=app_url)
    if broken := schema.violations(accounts):
        raise RulesBroken(broken)
    return accounts


def plan_of(connection: psycopg.Connection, organization_id: UUID, accounts: Accounts, *, look: Look | None) -> Plan:
    """Compare accounts with what was sent before.

    Args:
        connection: to the pipeline's own database.
        organization_id: whose accounts.
        accounts: valid ones, as they would be sent.
        look: reads Vanta's list, which a first push is compared with; None where Vanta is not to be asked.

    Raises:
        VantaError: asking failed in a way in which a push would fail too.
    """
    new = states_of(accounts)
    last = from_json(history.states(connection, organization_id))
    possible = [from_json(rows) for rows in history.possible(connection, organization_id)]
    is_first = history.is_first(connection, organization_id)
    listed = _listed(look) if is_first and look else None
    if listed is not None:
        possible.append(_states_of_list(listed))
    day, week = _active_in(connection, organization_id)
    before = Before(
        last=last,
        possible=tuple(possible),
        active_in_a_day=day,
        active_in_a_week=week,
        at_vanta=None if listed is None else alive_ids(listed),
        is_first=is_first and look is not None,
    )
    tripped = tuple(rules.judge(new, before))
    if is_first:
        # Vanta's list says nothing of MFA that could have been turned off since.
        tripped = tuple(brake for brake in tripped if brake.rule != "without_mfa")
        tripped += (Brake("first_push", UNSEEN, holds=False),) if look is None else ()
    return Plan(new, compare(last, new), tripped, rules.change_hash(tripped))


def hash_of_push(
    connection: psycopg.Connection, organization_id: UUID, states: pd.DataFrame, *, possible: Sequence[pd.DataFrame]
) -> str:
    """Return the hash of what held a push that was possibly applied since the last accepted one; "" if nothing did.

    Args:
        connection: to the pipeline's own database.
        organization_id: whose push.
        states: what it sent.
        possible: what was possibly applied before it, since the last accepted one.
    """
    day, week = _active_in(connection, organization_id)
    before = Before(
        last=from_json(history.states(connection, organization_id)),
        possible=tuple(possible),
        active_in_a_day=day,
        active_in_a_week=week,
        at_vanta=None,
        is_first=False,
    )
    return rules.change_hash(rules.judge(states, before))


def _listed(look: Look) -> Sequence[Listed] | None:
    """Return Vanta's list, or None where it cannot be had: then a first push is held."""
    try:
        return look()
    except ListUnreadable:
        return None


def _states_of_list(listed: Sequence[Listed]) -> pd.DataFrame:
    """Return what Vanta lists as states; how somebody logs in is not compared on a first push."""
    by_id = {account.unique_id: account for account in listed if not account.is_deleted}
    return from_json((i, account.status, account.level, "unknown", "unknown") for i, account in by_id.items())


def _active_in(connection: psycopg.Connection, organization_id: UUID) -> tuple[list[frozenset[str]], ...]:
    """Return who was ACTIVE in each state of the day's window and of the week's."""
    as_of = _as_of(connection, organization_id)
    starts = [
        max(filter(None, (as_of - length, approvals.window_reset(connection, organization_id, rule))))
        for rule, length in WINDOWS.items()
    ]
    return tuple(history.active_since(connection, organization_id, start) for start in starts)


def _as_of(connection: psycopg.Connection, organization_id: UUID) -> datetime:
    """Return the time that windows are counted back from: it stands while a brake holds, or waiting would release."""
    record = snapshots.customer_record(connection, organization_id)
    if record and record.held_since:
        return record.held_since
    now: datetime = connection.execute("SELECT clock_timestamp()").fetchall()[0][0]
    return now
