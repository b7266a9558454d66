"""Each rule of the raw frame, broken once; and that no value of a row is ever shown."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import hypothesis.strategies as st
import pandas as pd
import pytest
from hypothesis import given, settings

from symvanta_pipeline.rules import RulesBroken, Violation
from symvanta_pipeline.sym.contract import DTYPES, is_email, violations

Row = dict[str, Any]

ORGANIZATION = "0a000000-0000-4000-8000-000000000001"
NAME_CANARY = "Canary Person"
EMAIL_CANARY = "canary@person.example"
VALUE_CANARY = "canary-value"


def user(user_id: str, **columns: object) -> Row:
    plain = {
        "organization_id": ORGANIZATION,
        "slug": "acme",
        "user_id": user_id,
        "type": "member",
        "name": NAME_CANARY,
        "email": EMAIL_CANARY,
        "created_at": datetime(2024, 1, 1, tzinfo=UTC),
        "identity_id": f"identity of {user_id}",
        "service": "slack",
    }
    return plain | columns


def raw(*rows: Row) -> pd.DataFrame:
    return pd.DataFrame(list(rows)).reindex(columns=list(DTYPES)).astype(DTYPES)


def found(*rows: Row) -> list[Violation]:
    """Check rows, and that what is said of them names nobody."""
    listed = violations(raw(*rows), ORGANIZATION)
    shown = f"{listed!r} {' '.join(map(str, listed))} {RulesBroken(listed)} {RulesBroken(listed)!r}".lower()
    assert "canary" not in shown
    return listed


PASSWORD = {"service": "auth0", "connection": "Username-Password-Authentication"}


def test_good_rows_pass() -> None:
    assert (
        found(
            user("1"),
            user("2", type="admin", mfa_factors=["otp", "recovery-code"], **PASSWORD),
            user("2", type="admin", identity_id="another"),
            user("3", type="guest", name=None),
            user("4", mfa_factors=[], **PASSWORD),
            user("5", service="auth0", connection="google-oauth2", email=" padded@acme.example\n"),
        )
        == []
    )


RULES: list[tuple[str, str, Row]] = [
    ("user_type", "type", {"type": VALUE_CANARY}),
    ("user_type", "type", {"type": None}),
    ("user_type", "type", {"type": "  "}),
    ("user_type", "type", {"type": "Admin"}),
    ("service", "service", {"service": VALUE_CANARY}),
    ("service", "service", {"service": None}),
    ("service", "service", {"service": ""}),
    ("mfa_factor", "mfa_factors", PASSWORD | {"mfa_factors": ["otp", VALUE_CANARY]}),
    ("mfa_factor", "mfa_factors", PASSWORD | {"mfa_factors": [None]}),
    ("mfa_factor", "mfa_factors", PASSWORD | {"mfa_factors": ["otp", None]}),
    ("mfa_factor", "mfa_factors", PASSWORD | {"mfa_factors": ["OTP"]}),
    ("mfa_factor", "mfa_factors", PASSWORD | {"mfa_factors": [["otp"]]}),
    ("mfa_factor", "mfa_factors", PASSWORD | {"mfa_factors": "otp"}),
    ("mfa_factor", "mfa_factors", {"mfa_factors": [VALUE_CANARY]}),
    ("connection", "connection", {"service": "auth0", "connection": None}),
    ("connection", "connection", {"service": "auth0", "connection": " "}),
    ("no_identity", "identity_id", {"identity_id": None, "service": None}),
    ("created_at", "created_at", {"created_at": None}),
    ("organization", "organization_id", {"organization_id": VALUE_CANARY}),
    ("organization", "organization_id", {"organization_id": None}),
    ("email", "email", {"email": None}),
    ("email", "email", {"email": " \t"}),
    ("email", "email", {"email": VALUE_CANARY}),
]


@pytest.mark.parametrize(("rule", "column", "columns"), RULES)
def test_each_rule_names_who_breaks_it(rule: str, column: str, columns: Row) -> None:
    rows = [user("good-1"), user("bad-2", **columns), user("good-2"), user("bad-1", **columns)]
    assert found(*rows) == [Violation(rule, column, 2, ("bad-1", "bad-2"))]


@pytest.mark.parametrize(("rule", "column", "columns"), RULES)
def test_users_are_counted_once_and_five_of_them_are_named(rule: str, column: str, columns: Row) -> None:
    places = range(1 if rule == "no_identity" else 2)
    rows = [user(f"bad-{n}", **({"identity_id": f"{n}-{place}"} | columns)) for n in range(7) for place in places]
    assert found(*rows) == [Violation(rule, column, 7, tuple(f"bad-{n}" for n in range(5)))]


@pytest.mark.parametrize(
    "rows",
    [
        [user("bad"), user("bad")],
        [user("bad", identity_id=None, service=None), user("bad", identity_id=None, service=None)],
        [user("bad"), user("bad", identity_id="2", name="Canary II")],
        [user("bad"), user("bad", identity_id="2", email="canary@else.example")],
        [user("bad"), user("bad", identity_id="2", deactivated_at=datetime(2025, 1, 1, tzinfo=UTC))],
    ],
)
def test_duplicates_are_refused(rows: list[Row]) -> None:
    assert Violation("duplicate", "identity_id", 1, ("bad",)) in found(user("good"), *rows)


def test_an_identity_of_two_users_is_refused() -> None:
    rows = [user("good"), user("bad-1", identity_id="one"), user("bad-2", identity_id="one")]
    assert found(*rows) == [Violation("duplicate", "identity_id", 2, ("bad-1", "bad-2"))]


@pytest.mark.parametrize("slug", [None, " "])
def test_a_missing_slug_is_refused(slug: str | None) -> None:
    assert found(user("1", slug=slug)) == [Violation("slug", "slug", 1, ("1",))]


def test_several_slugs_are_refused() -> None:
    assert found(user("1"), user("2", slug="other")) == [Violation("slug", "slug", 2, ("1", "2"))]


@pytest.mark.parametrize("user_id", [None, ""])
def test_rows_without_a_user_are_counted_where_nobody_can_be_named(user_id: str | None) -> None:
    rows = [user("good"), *(user("", identity_id=n) | {"user_id": user_id} for n in "xy")]
    assert found(*rows) == [Violation("user_id", "user_id", 2)]


def test_a_row_of_nothing_breaks_the_rules_like_any_other() -> None:
    nothing = dict.fromkeys(DTYPES)
    rules = {v.rule for v in found(user("good"), nothing)}
    assert rules >= {"organization", "slug", "user_id", "user_type", "created_at", "email", "no_identity"}


def test_an_empty_read_is_refused() -> None:
    assert found() == [Violation("nobody", "user_id", 0)]


def test_everything_that_is_broken_is_listed_in_one_order() -> None:
    rows = [
        user("1", email=None, type=None, service=None),
        user("2", created_at=None, organization_id="other"),
        user("3", service="auth0", mfa_factors=[VALUE_CANARY]),
        user("4", identity_id=None, service=None),
        user("4", identity_id=None, service=None),
    ]
    listed = found(*rows)
    assert [(v.rule, v.count) for v in listed] == [
        ("organization", 1),
        ("duplicate", 1),
        ("user_type", 1),
        ("created_at", 1),
        ("email", 1),
        ("no_identity", 1),
        ("service", 1),
        ("connection", 1),
        ("mfa_factor", 1),
    ]
    assert found(*reversed(rows)) == listed


@pytest.mark.parametrize(
    ("spoil", "columns"),
    [
        (lambda frame: frame.drop(columns=["email", "mfa_factors"]), ["email", "mfa_factors"]),
        (lambda frame: frame.assign(extra=VALUE_CANARY), ["extra"]),
        (lambda frame: pd.concat([frame, frame[["name"]]], axis="columns"), ["name"]),
        (lambda frame: frame.astype({"name": "object"}), ["name"]),
        (lambda frame: frame.assign(type=[1, 2]), ["type"]),
        (lambda frame: frame.assign(created_at=frame["created_at"].dt.tz_localize(None)), ["created_at"]),
        (lambda frame: frame.assign(updated_at=frame["updated_at"].dt.tz_convert("Asia/Kolkata")), ["updated_at"]),
        (lambda frame: frame.drop(columns="user_id"), ["user_id"]),
    ],
)
def test_another_structure_is_refused(spoil: Callable[[pd.DataFrame], pd.DataFrame], columns: list[str]) -> None:
    listed = violations(spoil(raw(user("1"), user("2"))), ORGANIZATION)
    assert listed == [Violation("structure", column, 2) for column in columns]
    assert "canary" not in repr(listed).lower()


def test_the_index_of_the_frame_does_not_matter() -> None:
    frame = raw(user("1"), user("2", email=None), user("3")).set_axis([7, 7, 7])
    assert violations(frame, ORGANIZATION) == [Violation("email", "email", 1, ("2",))]


GOOD_EMAILS = [
    "a@b.c",
    "ada.lovelace+sym@mail.acme.example",
    "o'brien@acme.example",
    '"quoted"@acme.example',
    "\u5f20\u4f1f@\u4f8b\u5b50.\u6d4b\u8bd5",
    "ada@b\u00fccher.example",
    "ada@xn--bcher-kva.example",
    "user@\u0909\u0926\u093e\u0939\u0930\u0923.\u092a\u0930\u0940\u0915\u094d\u0937\u093e",
    "a@1.2",
    "a" * 241 + "@acme.example",
]
BAD_EMAILS = [
    "",
    "ada",
    "@acme.example",
    "ada@",
    "ada@localhost",
    "ada@@acme.example",
    "ada@home@acme.example",
    "ada@acme..example",
    "ada@.acme.example",
    "ada@acme.example.",
    "ada@-acme.example",
    "ada@acme-.example",
    "ada@ac_me.example",
    "ada@acme.example, bob@acme.example",
    "ada lovelace@acme.example",
    "ada@ac me.example",
    "ada\u00a0x@acme.example",
    "ada\n@acme.example",
    "ada\x7f@acme.example",
    "ada\u200b@acme.example",
    "ada@acme.example\u202e",
    "mailto:ada@acme.example>",
    "a" * 242 + "@acme.example",
]


@pytest.mark.parametrize("address", GOOD_EMAILS)
def test_this_is_an_email(address: str) -> None:
    assert is_email(address)
    assert found(user("1", email=f" {address}\t")) == []


@pytest.mark.parametrize("address", BAD_EMAILS)
def test_this_is_no_email(address: str) -> None:
    assert not is_email(address)
    assert found(user("1", email=address)) == [Violation("email", "email", 1, ("1",))]


@settings(max_examples=25)
@given(st.lists(st.sampled_from(RULES), min_size=1, max_size=6))
def test_whatever_is_broken_together_is_found_together(drawn: list[tuple[str, str, Row]]) -> None:
    """No rule hides another, and none is blamed on the wrong person."""
    listed = found(user("good"), *(user(f"bad-{n}", **columns) for n, (_, _, columns) in enumerate(drawn)))
    expected: dict[str, set[str]] = {}
    for n, (rule, _, _) in enumerate(drawn):
        expected.setdefault(rule, set()).add(f"bad-{n}")
    assert {v.rule: v.count for v in listed} == {rule: len(ids) for rule, ids in expected.items()}
    assert all(set(v.unique_ids) <= expected[v.rule] for v in listed)
