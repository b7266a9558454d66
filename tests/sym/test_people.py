"""Whose login it is: by its exact subject alone, over all organizations, as what Sym's database says at that moment."""

import re
import traceback
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from symvanta_pipeline.sym import people
from symvanta_pipeline.sym.people import Membership, memberships, user_name
from symvanta_pipeline.sym.source import SourceBrokeOff, SourceChanged, SourceError, SourceUnavailable

SymRows = Any  # lives in tests/conftest.py, which tests cannot import in pytest's importlib mode

SUBJECT = "auth0|canary-of-a-subject"
EMAIL = "canary@person.example"
Spoil = Callable[[str, str], None]


@pytest.fixture
def in_sql(monkeypatch: pytest.MonkeyPatch) -> Spoil:
    """Return a function that replaces a piece of admins.sql, and makes sure that it was there."""

    def spoil(old: str, new: str) -> None:
        text = people.ADMINS_SQL.decode()
        assert old in text
        monkeypatch.setattr(people, "ADMINS_SQL", text.replace(old, new).encode())

    return spoil


def admin(sym: SymRows, slug: str, subject: str = SUBJECT, **columns: object) -> tuple[uuid.UUID, uuid.UUID]:
    """Insert an organization and an admin with this login; returns the ids of both."""
    organization = sym.organization(slug)
    values = {"type": "admin", "email": EMAIL, "identities": [sym.password(external_id=subject)]} | columns
    return organization, sym.user(organization, **values)


def refused(url: str, error: type[SourceError]) -> str:
    with pytest.raises(error) as caught:
        memberships(url, SUBJECT)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    password = str(conninfo_to_dict(url)["password"])
    assert not [secret for secret in (SUBJECT, EMAIL, password) if secret in shown]
    return str(caught.value)


def test_an_admin_is_found_by_the_subject(sym_url: str, sym: SymRows) -> None:
    organization, user = admin(sym, "acme")
    admin(sym, "other", "auth0|somebody else")
    (found,) = memberships(sym_url, SUBJECT)
    assert found == Membership(str(user), str(organization), "acme", "Acme", "admin", False, False)
    assert found.may_connect


def test_a_login_of_several_organizations_finds_them_all_by_slug(sym_url: str, sym: SymRows) -> None:
    for slug in ("zeta", "alpha", "midway"):
        admin(sym, slug)
    assert [found.slug for found in memberships(sym_url, SUBJECT)] == ["alpha", "midway", "zeta"]


def test_a_user_with_several_logins_is_found_once_by_each(sym_url: str, sym: SymRows) -> None:
    federated = "google-oauth2|1"
    identities = [
        sym.password(external_id=SUBJECT),
        sym.password(external_id=SUBJECT),
        sym.federated(external_id=federated),
        sym.slack(),
    ]
    _, user = admin(sym, "acme", identities=identities)
    for subject in (SUBJECT, federated):
        assert [found.user_id for found in memberships(sym_url, subject)] == [str(user)]


def test_a_federated_admin_may_connect(sym_url: str, sym: SymRows) -> None:
    admin(sym, "acme", identities=[sym.federated("okta-acme", external_id=SUBJECT)])
    assert [found.may_connect for found in memberships(sym_url, SUBJECT)] == [True]


def test_nobody_but_an_admin_may_connect(sym_url: str, sym: SymRows) -> None:
    others = ["member", "guest", "owner", "ADMIN", ""]
    for number, other in enumerate(others):
        admin(sym, f"o{number}", type=other)
    assert [(found.type, found.may_connect) for found in memberships(sym_url, SUBJECT)] == [
        (other, False) for other in others
    ]


def test_a_deactivated_admin_may_not_even_if_that_lies_in_the_future(sym_url: str, sym: SymRows) -> None:
    for year in (2020, 2999):
        admin(sym, f"acme-{year}", deactivated_at=datetime(year, 1, 1, tzinfo=UTC))
    assert [
        (found.is_deactivated, found.organization_is_deleted, found.may_connect)
        for found in memberships(sym_url, SUBJECT)
    ] == [(True, False, False)] * 2


def test_an_admin_of_a_deleted_organization_may_not(sym_url: str, sym: SymRows) -> None:
    organization, _ = admin(sym, "acme")
    sym.execute("UPDATE organizations SET deleted_at = 'infinity' WHERE id = %s", organization)
    (found,) = memberships(sym_url, SUBJECT)
    assert (found.is_deactivated, found.organization_is_deleted, found.may_connect) == (False, True, False)


def test_what_one_user_may_not_another_may(sym_url: str, sym: SymRows) -> None:
    admin(sym, "acme", deactivated_at=datetime(2026, 1, 1, tzinfo=UTC))
    admin(sym, "globex")
    admin(sym, "initech", type="member")
    assert [(found.slug, found.may_connect) for found in memberships(sym_url, SUBJECT)] == [
        ("acme", False),
        ("globex", True),
        ("initech", False),
    ]


STRANGERS = [
    *("", " ", "\0", "\ud800", "x" * 5_000_000),
    *(SUBJECT.upper(), SUBJECT + " ", " " + SUBJECT, SUBJECT[:-1], SUBJECT + "\0"),
    *("auth0|%", "' OR true --", EMAIL, "U0SLACK"),
]


def test_anything_else_is_a_stranger(sym_url: str, sym: SymRows) -> None:
    _, user = admin(sym, "acme")
    sym.identity(user, **sym.slack(external_id="U0SLACK"))
    assert [ascii(subject[:30]) for subject in STRANGERS if memberships(sym_url, subject)] == []
    assert len(memberships(sym_url, SUBJECT)) == 1


def test_a_slack_identity_is_no_login(sym_url: str, sym: SymRows) -> None:
    admin(sym, "acme", identities=[sym.slack(external_id=SUBJECT)])
    assert memberships(sym_url, SUBJECT) == []


def test_a_blank_subject_is_nobodys_even_where_the_database_has_one(sym_url: str, sym: SymRows) -> None:
    for slug, subject in (("acme", ""), ("globex", " ")):
        admin(sym, slug, subject)
        assert memberships(sym_url, subject) == []


def test_a_membership_does_not_show_the_organizations_name(sym_url: str, sym: SymRows) -> None:
    admin(sym, "acme")
    (found,) = memberships(sym_url, SUBJECT)
    assert "Acme" not in repr(found)
    assert found.user_id in repr(found)


def test_the_transaction_is_read_only(sym_url: str, sym: SymRows, in_sql: Spoil) -> None:
    admin(sym, "acme")
    in_sql("o.name::text", "current_setting('transaction_read_only')")
    (found,) = memberships(sym_url, SUBJECT)
    assert found.organization_name == "on"


def test_no_connection_stays_open(sym_url: str, sym: SymRows, in_sql: Spoil) -> None:
    admin(sym, "acme")
    in_sql("o.name::text", "pg_backend_pid()::text")
    (found,) = memberships(sym_url, SUBJECT)
    # Waits for the backend's end, which comes a moment after its client has hung up, and fails if it does not.
    sym.execute(
        "DO $$ BEGIN FOR i IN 1..2000 LOOP "
        f"EXIT WHEN NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {int(found.organization_name)}); "
        "PERFORM pg_sleep(0.01); PERFORM pg_stat_clear_snapshot(); END LOOP; END $$"
    )
    still = sym.connection.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [int(found.organization_name)])
    assert still.fetchall() == []


def test_the_query_says_what_has_to_come_out_of_it() -> None:
    comment = re.findall(r"^--   (\w+) +(text|boolean)\b", people.ADMINS_SQL.decode(), re.MULTILINE)
    assert {name: kind.replace("boolean", "bool") for name, kind in comment} == people.RESULT_TYPES


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("i.external_id = %(subject)s", "true", "admins.sql returns users of another login"),
        ("i.external_id = %(subject)s", "lower(i.external_id) = lower(%(subject)s)", "users of another login"),
        ("u.type::text AS type,", "", "admins.sql returns 0 columns type"),
        ("u.deactivated_at IS NOT NULL AS", "u.deactivated_at AS", "is_deactivated as timestamptz and not as bool"),
        ("u.deactivated_at IS NOT NULL AS", "NULL::bool AS", "returns rows without is_deactivated"),
        ("u.type::text", "NULL::text", "returns rows without type"),
        ("FROM identities", "FRM identities", "SyntaxError 42601"),
        ("o.name::text", "concat((DELETE FROM users RETURNING id))", "SyntaxError 42601"),
        ("SELECT DISTINCT", "WITH gone AS (DELETE FROM users RETURNING id) SELECT", "tries to write"),
    ],
)
def test_a_query_that_does_not_fit_is_named(
    *, sym_url: str, sym: SymRows, in_sql: Spoil, old: str, new: str, message: str
) -> None:
    admin(sym, "acme", SUBJECT)
    admin(sym, "globex", SUBJECT.upper())
    in_sql(old, new)
    said = refused(sym_url, SourceChanged)
    assert message in said
    assert "symvanta_pipeline/sym/admins.sql" in said


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("ALTER TABLE identities RENAME COLUMN external_id TO subject", "external_id"),
        ("ALTER TABLE identities RENAME TO logins", "identities"),
    ],
)
def test_a_changed_database_is_named(sym_url: str, sym: SymRows, change: str, named: str) -> None:
    sym.execute(change)
    said = refused(sym_url, SourceChanged)
    assert named in said
    assert "admins.sql" in said


def test_a_database_that_does_not_answer_is_no_stranger(sym_url: str, sym: SymRows, in_sql: Spoil) -> None:
    admin(sym, "acme")
    refused(make_conninfo(sym_url, port="1"), SourceUnavailable)
    in_sql("o.name::text", "pg_terminate_backend(pg_backend_pid())::text")
    assert "broke off" in refused(sym_url, SourceBrokeOff)
    with psycopg.connect(sym_url) as connection:
        assert connection.execute("SELECT count(*) FROM users").fetchone() == (1,)


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        ({"name": " Grace ", "email": "g@acme.example"}, "Grace"),
        ({"name": " ", "email": "g@acme.example"}, "g@acme.example"),
        ({"name": None, "email": None}, "an admin without a name"),
    ],
)
def test_a_user_is_called_by_name_or_address(sym_url: str, sym: SymRows, columns: dict[str, Any], shown: str) -> None:
    organization, user = admin(sym, "acme", **columns)
    assert user_name(sym_url, str(organization), str(user)) == shown


def test_nobody_is_named_to_another_organization(sym_url: str, sym: SymRows) -> None:
    (acme, _), (_, stranger) = admin(sym, "acme"), admin(sym, "other", "auth0|other")
    assert user_name(sym_url, str(acme), str(stranger)) is None
    assert user_name(sym_url, str(acme), str(uuid.uuid4())) is None
