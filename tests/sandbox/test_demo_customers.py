"""The demo customers show what they claim to show, and are the same every time."""

import unicodedata
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from symvanta_pipeline.sandbox import demo_customers
from symvanta_pipeline.sandbox.demo_customers import ADMIN_LOGINS, DEMO_CUSTOMERS, MFA_STATES, PASSWORD

TABLES = ("organizations", "users", "identities")
# Change it together with the customers.
ON_EVERY_MACHINE = [
    "2bf98252dbbe467fbf5314c5f991f87e",
    "8e9e5b24f56b9067380efce07c37fb73",
    "020e4c418badcbc3751f5d3848e1fb89",
]

Query = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def query(demo_sym_url: str) -> Query:
    def run(statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(demo_sym_url) as connection:
            return connection.execute(statement.encode(), parameters).fetchall()

    return run


def digest(url: str) -> list[str]:
    """Return a digest of each table's rows."""
    with psycopg.connect(url) as connection:
        rows = [
            connection.execute(f"SELECT md5(string_agg({t}::text, chr(10) ORDER BY id)) FROM {t}".encode()).fetchone()
            for t in TABLES
        ]
    return [str(row[0]) for row in rows if row]


def test_every_load_gives_the_same_rows(demo_sym_url: str, sym_url: str) -> None:
    demo_customers.load(sym_url)
    first = digest(sym_url)
    assert first == digest(demo_sym_url)
    demo_customers.load(sym_url)
    assert first == digest(sym_url)
    assert first == ON_EVERY_MACHINE


def test_a_load_undoes_changes_and_spares_others(demo_sym_url: str) -> None:
    before = digest(demo_sym_url)
    with psycopg.connect(demo_sym_url) as connection:
        connection.execute("INSERT INTO organizations VALUES (gen_random_uuid(), 'mine', 'Mine', now())")
        connection.execute("UPDATE users SET deactivated_at = now() WHERE type = 'admin'")
        connection.execute("DELETE FROM identities WHERE service = 'slack'")
    assert digest(demo_sym_url) != before
    demo_customers.create_schema(demo_sym_url)
    demo_customers.load(demo_sym_url)
    assert digest(demo_sym_url) != before
    with psycopg.connect(demo_sym_url) as connection:
        assert connection.execute("DELETE FROM organizations WHERE slug = 'mine'").rowcount == 1
    assert digest(demo_sym_url) == before


def test_twelve_organizations_of_the_sizes_they_claim(query: Query) -> None:
    counted = query(
        "SELECT slug, o.id, o.name, count(*) FROM users u JOIN organizations o ON o.id = organization_id GROUP BY o.id"
    )
    assert set(counted) == {(c.slug, c.id, c.name, c.size) for c in DEMO_CUSTOMERS}
    sizes = [c.size for c in DEMO_CUSTOMERS]
    assert (len(sizes), min(sizes), max(sizes)) == (12, 1, 2500)
    assert 4500 <= sum(sizes) <= 6000
    expectations = [c.expectation for c in DEMO_CUSTOMERS]
    assert (expectations.count("held"), expectations.count("not connected")) == (1, 1)


def test_exactly_the_held_customer_cannot_be_valid(query: Query) -> None:
    broken = query(
        "SELECT slug, count(*) FROM users u JOIN organizations o ON o.id = organization_id"
        " WHERE email IS NULL OR trim(email) !~ '^[a-z0-9.-]+@[a-z-]+[.]example$'"
        " OR type NOT IN ('admin', 'member', 'guest') OR NOT EXISTS (SELECT FROM identities WHERE user_id = u.id)"
        " GROUP BY slug"
    )
    assert broken == [(c.slug, 1) for c in DEMO_CUSTOMERS if c.expectation == "held"]


def test_only_people_who_are_or_were_admins_can_log_in(query: Query) -> None:
    services = query(
        "SELECT type, array_agg(DISTINCT service ORDER BY service) FROM users u JOIN identities i ON user_id = u.id"
        " GROUP BY type ORDER BY type"
    )
    assert services == [("admin", ["auth0", "slack"]), ("guest", ["slack"]), ("member", ["auth0", "slack"])]
    shares: dict[str, int] = dict(query("SELECT type, count(*) FROM users GROUP BY type"))
    demoted = query(
        "SELECT count(DISTINCT u.id) FROM users u JOIN identities ON user_id = u.id"
        " WHERE type = 'member' AND service = 'auth0'"
    )
    assert shares["admin"] < shares["guest"] < shares["member"]
    assert 50 < demoted[0][0] < 200


def test_every_organization_has_an_admin_who_can_log_in_for_good(query: Query) -> None:
    admins = query(
        "SELECT count(DISTINCT organization_id) FROM users u JOIN identities ON user_id = u.id"
        " WHERE type = 'admin' AND service = 'auth0' AND deactivated_at IS NULL"
    )
    assert admins == [(len(DEMO_CUSTOMERS),)]


def test_every_kind_of_login(query: Query) -> None:
    logins = query(
        "SELECT array_agg(DISTINCT coalesce(connection, 'slack')) FROM users u JOIN identities ON user_id = u.id"
        " WHERE type = 'admin' GROUP BY u.id"
    )
    expected = {frozenset(connection or "slack" for connection, _ in login) for login in ADMIN_LOGINS}
    assert {frozenset(connections) for (connections,) in logins} == expected
    three = {PASSWORD, "slack", "okta-workforce"}
    assert {frozenset({PASSWORD}), frozenset({"google-oauth2"}), frozenset({"slack"}), frozenset(three)} <= expected


def test_every_state_of_mfa(query: Query) -> None:
    states = query("SELECT DISTINCT mfa_factors FROM identities WHERE connection = %s", PASSWORD)
    assert sorted(map(repr, states)) == sorted(repr((state,)) for state in MFA_STATES)
    single = {state[0] for state in MFA_STATES if state and len(state) == 1}
    assert single == {
        "otp",
        "sms",
        "email",
        "push-notification",
        "webauthn-roaming",
        "webauthn-platform",
        "recovery-code",
    }
    assert query("SELECT DISTINCT mfa_factors FROM identities WHERE connection IS DISTINCT FROM %s", PASSWORD) == [
        (None,)
    ]


def test_departed_people_of_each_type_and_a_leave_to_come(query: Query) -> None:
    departed = query("SELECT DISTINCT type, deactivated_at > '2027-01-01' FROM users WHERE deactivated_at IS NOT NULL")
    assert set(departed) == {(t, future) for t in ("admin", "member", "guest") for future in (True, False)}


def test_times_are_in_order(query: Query) -> None:
    disorder = (
        "SELECT count(*) FROM users u JOIN identities ON user_id = u.id WHERE created_at > least(updated_at,"
        " deactivated_at, last_active_at, last_login_at, last_password_reset_at)"
    )
    assert query(disorder) == [(0,)]
    assert query("SELECT count(*) > 0 FROM users WHERE date_trunc('second', created_at) < created_at") == [(True,)]
    assert query(
        "SELECT count(*) FROM identities WHERE last_password_reset_at IS NOT NULL AND connection <> %s", PASSWORD
    ) == [(0,)]
    for service in ("auth0", "slack"):
        seen = query("SELECT DISTINCT last_login_at IS NULL FROM identities WHERE service = %s", service)
        assert set(seen) == {(True,), (False,)}


def test_missing_names(query: Query) -> None:
    missing = query(
        "SELECT count(*) FILTER (WHERE name IS NULL), count(*) FILTER (WHERE name <> '' AND trim(name) = '') FROM users"
    )
    assert all(10 < n < 200 for n in missing[0])


def test_names_of_many_scripts(query: Query) -> None:
    letters = {letter for (name,) in query("SELECT DISTINCT name FROM users WHERE name <> ''") for letter in str(name)}
    scripts = {unicodedata.name(letter, "?").split()[0] for letter in letters}
    assert scripts >= {
        "LATIN",
        "GREEK",
        "CYRILLIC",
        "ARABIC",
        "HEBREW",
        "DEVANAGARI",
        "CJK",
        "HIRAGANA",
        "KATAKANA",
        "HANGUL",
    }
    assert {"ë", "🌊", "👩", "\N{ZERO WIDTH JOINER}"} <= letters


def test_one_e_mail_twice(query: Query) -> None:
    shared = query(
        "SELECT array_agg(slug ORDER BY slug), array_agg(type)"
        " FROM users u JOIN organizations o ON o.id = organization_id"
        " GROUP BY email HAVING count(*) > 1 AND email IS NOT NULL ORDER BY 1"
    )
    assert shared == [
        (["harborline", "tessera"], ["guest", "guest"]),
        (["lumen-labs", "lumen-labs"], ["member", "member"]),
    ]


def test_all_of_it_is_made_up(query: Query) -> None:
    assert query("SELECT count(*) FROM users WHERE trim(email) NOT LIKE %s", "%.example") == [(0,)]
