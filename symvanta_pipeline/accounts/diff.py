"""What changes from one state to the next, account by account and field by field.

Belongs here: the comparison. Does not belong here: whether a change may pass (`brakes`).
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import pandas as pd

from symvanta_pipeline.accounts.state import COLUMNS

Kind: TypeAlias = Literal["added", "reactivated", "deactivated", "vanished", "forgotten", "changed", "unchanged"]
# An account's values, in the order of `COLUMNS`.
Row: TypeAlias = tuple[str, ...]

_STATUS: Final = COLUMNS.index("status")


@dataclass(frozen=True)
class Change:
    """One field of one account that differs.

    Attributes:
        unique_id: whose.
        field: one of `symvanta_pipeline.accounts.state.COLUMNS`.
        old: the value before; None: the account was not there.
        new: the value now; None: the account is not there any more.
    """

    unique_id: str
    field: str
    old: str | None
    new: str | None


@dataclass(frozen=True)
class Difference:
    """All that differs between two states. Each unique id of either is in exactly one of the tuples, sorted.

    Attributes:
        added: not there before, whatever the status is now.
        reactivated: from DEACTIVATED to ACTIVE.
        deactivated: from ACTIVE to DEACTIVATED.
        vanished: ACTIVE before, not there now.
        forgotten: DEACTIVATED before, not there now.
        changed: the status is the same, another field differs.
        unchanged: nothing differs.
        changes: every field that differs, by unique id and field: all fields of an account that was added, and only
            the status of one that is not there any more.
        fields: the number of changes of each of `symvanta_pipeline.accounts.state.COLUMNS`.
    """

    added: tuple[str, ...]
    reactivated: tuple[str, ...]
    deactivated: tuple[str, ...]
    vanished: tuple[str, ...]
    forgotten: tuple[str, ...]
    changed: tuple[str, ...]
    unchanged: tuple[str, ...]
    changes: tuple[Change, ...]
    fields: Mapping[str, int]


def compare(old: pd.DataFrame, new: pd.DataFrame) -> Difference:
    """Tell what differs between two states, whatever the order of their rows.

    Args:
        old: the state before, as `symvanta_pipeline.accounts.state.states_of` returns it.
        new: the state now, likewise.
    """
    before, now = _rows(old), _rows(new)
    ids: dict[Kind, list[str]] = defaultdict(list)
    changes: list[Change] = []
    for unique_id in sorted(before.keys() | now.keys()):
        was, is_now = before.get(unique_id), now.get(unique_id)
        ids[_kind(was, is_now)].append(unique_id)
        if was != is_now:
            changes.extend(_changes(unique_id, was, is_now))
    counted = Counter(change.field for change in changes)
    return Difference(
        added=tuple(ids["added"]),
        reactivated=tuple(ids["reactivated"]),
        deactivated=tuple(ids["deactivated"]),
        vanished=tuple(ids["vanished"]),
        forgotten=tuple(ids["forgotten"]),
        changed=tuple(ids["changed"]),
        unchanged=tuple(ids["unchanged"]),
        changes=tuple(changes),
        fields={field: counted[field] for field in COLUMNS},
    )


def _rows(states: pd.DataFrame) -> dict[str, Row]:
    """Return each account's values by its unique id."""
    values = zip(*(states[column].tolist() for column in COLUMNS), strict=True)
    return dict(zip(states.index.tolist(), values, strict=True))


def _kind(was: Row | None, is_now: Row | None) -> Kind:
    """Name what happened to an account; one of the two rows is there."""
    if was is None:
        return "added"
    was_active = was[_STATUS] == "ACTIVE"
    if is_now is None:
        return "vanished" if was_active else "forgotten"
    if was[_STATUS] != is_now[_STATUS]:
        return "deactivated" if was_active else "reactivated"
    return "unchanged" if was == is_now else "changed"


def _changes(unique_id: str, was: Row | None, is_now: Row | None) -> list[Change]:
    """List an account's fields that differ, by name."""
    if is_now is None:
        return [Change(unique_id, "status", was[_STATUS], None)] if was else []
    fields = zip(COLUMNS, was or (None,) * len(COLUMNS), is_now, strict=True)
    return [Change(unique_id, field, old, new) for field, old, new in sorted(fields) if old != new]
