"""What differs between two states."""

from collections.abc import Iterable

import hypothesis.strategies as st
import pandas as pd
import pytest
from hypothesis import given, settings

from symvanta_pipeline.accounts.diff import Change, Difference, compare
from symvanta_pipeline.accounts.state import COLUMNS, from_json, no_states, to_json

KINDS = ("added", "reactivated", "deactivated", "vanished", "forgotten", "changed", "unchanged")
ACTIVE = ("ACTIVE", "BASE", "PASSWORD", "on")
GONE = ("DEACTIVATED", "BASE", "PASSWORD", "on")
ADMIN_OFF = ("ACTIVE", "ADMIN", "PASSWORD", "off")
GONE_SSO = ("DEACTIVATED", "BASE", "SSO", "sso")

rows = st.tuples(
    st.sampled_from(["ACTIVE", "DEACTIVATED"]),
    st.sampled_from(["ADMIN", "EDITOR", "BASE"]),
    st.sampled_from(["SSO", "PASSWORD"]),
    st.sampled_from(["sso", "on", "off", "unknown"]),
)
histories = st.dictionaries(st.text("ab\u00e9\U0001f469", max_size=2), rows, max_size=8).map(
    lambda accounts: from_json([(unique_id, *row) for unique_id, row in accounts.items()])
)


def states(accounts: dict[str, tuple[str, ...]]) -> pd.DataFrame:
    return from_json([(unique_id, *row) for unique_id, row in accounts.items()])


def ids_of(difference: Difference) -> list[str]:
    return [unique_id for kind in KINDS for unique_id in getattr(difference, kind)]


@pytest.mark.parametrize(
    ("was", "is_now", "kind", "changes"),
    [
        (
            None,
            ACTIVE,
            "added",
            [("level", None, "BASE"), ("login", None, "PASSWORD"), ("mfa", None, "on"), ("status", None, "ACTIVE")],
        ),
        (
            None,
            GONE_SSO,
            "added",
            [("level", None, "BASE"), ("login", None, "SSO"), ("mfa", None, "sso"), ("status", None, "DEACTIVATED")],
        ),
        (GONE, ACTIVE, "reactivated", [("status", "DEACTIVATED", "ACTIVE")]),
        (
            GONE,
            ADMIN_OFF,
            "reactivated",
            [("level", "BASE", "ADMIN"), ("mfa", "on", "off"), ("status", "DEACTIVATED", "ACTIVE")],
        ),
        (ACTIVE, GONE, "deactivated", [("status", "ACTIVE", "DEACTIVATED")]),
        (ACTIVE, None, "vanished", [("status", "ACTIVE", None)]),
        (GONE, None, "forgotten", [("status", "DEACTIVATED", None)]),
        (ACTIVE, ADMIN_OFF, "changed", [("level", "BASE", "ADMIN"), ("mfa", "on", "off")]),
        (GONE, GONE_SSO, "changed", [("login", "PASSWORD", "SSO"), ("mfa", "on", "sso")]),
        (ACTIVE, ACTIVE, "unchanged", []),
        (GONE, GONE, "unchanged", []),
    ],
)
def test_each_kind_of_change(
    was: tuple[str, ...] | None,
    is_now: tuple[str, ...] | None,
    kind: str,
    changes: list[tuple[str, str | None, str | None]],
) -> None:
    other = {"0": ACTIVE}
    difference = compare(states(other | ({"1": was} if was else {})), states(other | ({"1": is_now} if is_now else {})))
    assert {name: getattr(difference, name) for name in KINDS if "1" in getattr(difference, name)} == {
        kind: ("0", "1") if kind == "unchanged" else ("1",)
    }
    assert difference.changes == tuple(Change("1", *change) for change in changes)
    assert difference.fields == {name: sum(field == name for field, *_ in changes) for name in COLUMNS}


def test_ids_and_changes_are_sorted() -> None:
    difference = compare(states({"b": ACTIVE, "a": ACTIVE}), states({"d": ACTIVE, "c": ACTIVE, "b": GONE, "a": GONE}))
    assert difference.deactivated == ("a", "b")
    assert difference.added == ("c", "d")
    assert [(change.unique_id, change.field) for change in difference.changes] == [
        ("a", "status"),
        ("b", "status"),
        *(("c", field) for field in sorted(COLUMNS)),
        *(("d", field) for field in sorted(COLUMNS)),
    ]
    assert difference.fields == {"status": 4, "level": 2, "login": 2, "mfa": 2}


@settings(max_examples=50)
@given(histories, histories)
def test_every_id_is_in_exactly_one_place(old: pd.DataFrame, new: pd.DataFrame) -> None:
    assert sorted(ids_of(compare(old, new))) == sorted(set(old.index) | set(new.index))


@settings(max_examples=50)
@given(histories)
def test_nothing_differs_from_itself(same: pd.DataFrame) -> None:
    difference = compare(same, same)
    assert ids_of(difference) == list(difference.unchanged) == list(same.index)
    assert difference.changes == ()
    assert set(difference.fields.values()) == {0}


@settings(max_examples=50)
@given(histories, histories)
def test_the_order_of_rows_does_not_matter(old: pd.DataFrame, new: pd.DataFrame) -> None:
    assert compare(old.iloc[::-1], new.iloc[::-1]) == compare(old, new)


@settings(max_examples=50)
@given(histories, histories)
def test_the_changes_lead_from_one_state_to_the_next(old: pd.DataFrame, new: pd.DataFrame) -> None:
    assert applied(old, compare(old, new).changes) == to_json(new)


def test_a_lost_change_does_not_lead_to_the_next_state() -> None:
    old, new = states({"1": ACTIVE, "2": ACTIVE, "3": GONE}), states({"1": ADMIN_OFF, "3": ACTIVE})
    changes = compare(old, new).changes
    assert applied(old, changes) == to_json(new)
    for lost in range(len(changes)):
        assert applied(old, changes[:lost] + changes[lost + 1 :]) != to_json(new)


@settings(max_examples=50)
@given(histories, histories)
def test_there_and_back_is_the_same_backwards(old: pd.DataFrame, new: pd.DataFrame) -> None:
    there, back = compare(old, new), compare(new, old)
    assert there.deactivated == back.reactivated
    assert there.changed == back.changed
    assert set(there.vanished) | set(there.forgotten) == set(back.added)


def test_nobody_against_nobody() -> None:
    assert ids_of(compare(no_states(), no_states())) == []


def applied(old: pd.DataFrame, changes: Iterable[Change]) -> list[list[str]]:
    """Apply the changes one by one, in plain Python."""
    accounts: dict[str, dict[str, str]] = {
        unique_id: dict(zip(COLUMNS, row, strict=True)) for unique_id, *row in to_json(old)
    }
    for change in changes:
        if change.new is None:
            del accounts[change.unique_id]
            continue
        fields = accounts.setdefault(change.unique_id, {})
        assert fields.get(change.field) == change.old
        fields[change.field] = change.new
    return [[i, *(fields.get(name, "") for name in COLUMNS)] for i, fields in sorted(accounts.items())]
