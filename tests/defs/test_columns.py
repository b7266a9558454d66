"""Columns and their lineage: complete, and true: the query and the mapping themselves are asked."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import psycopg
import pytest
from psycopg import sql

from symvanta_pipeline.accounts import schema
from symvanta_pipeline.accounts.mapping import to_accounts
from symvanta_pipeline.defs import columns
from symvanta_pipeline.defs.columns import (
    COLUMNS,
    FLEET_STATUS,
    IDENTITIES_TABLE,
    ORGANIZATIONS_TABLE,
    USERS_TABLE,
    Source,
    column_metadata,
    markdown_table,
)
from symvanta_pipeline.rules import RulesBroken
from symvanta_pipeline.sym import contract
from symvanta_pipeline.sym.source import read_users
from symvanta_pipeline.sync import ACCOUNTS, SENT, USERS
from tests.conftest import SymRows

TABLES = (ORGANIZATIONS_TABLE, USERS_TABLE, IDENTITIES_TABLE)
DERIVED = (USERS, ACCOUNTS, SENT)
EARLIER, LATER = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 2, tzinfo=UTC)

Edge = tuple[str, str]


def edges(asset: str, source: str) -> set[Edge]:
    """Return what is claimed: which column of an asset comes from which column of another one."""
    return {(c.name, s.column) for c in COLUMNS[asset] for s in c.sources if s.asset == source}


def test_every_column_is_described_and_no_other() -> None:
    names = {asset: [column.name for column in of] for asset, of in COLUMNS.items()}
    assert names[USERS] == list(contract.DTYPES)
    assert names[ACCOUNTS] == names[SENT] == list(schema.FIELDS)
    assert {c.name: c.type for c in COLUMNS[USERS]} == contract.DTYPES
    assert {c.name: c.type for c in COLUMNS[ACCOUNTS]} == schema.DTYPES
    assert all(column.description.endswith(".") for of in COLUMNS.values() for column in of)


@pytest.mark.parametrize("asset", DERIVED)
def test_lineage_is_complete_and_every_column_in_it_exists(asset: str) -> None:
    existing = {Source(of, column.name) for of in COLUMNS for column in COLUMNS[of]}
    for column in COLUMNS[asset]:
        steps = columns._ancestry(column.sources)
        assert {source for step in steps for source in step} <= existing, column.name
        assert {source.asset for source in steps[-1]} <= set(TABLES), column.name


def test_what_names_a_person_is_marked_wherever_it_goes() -> None:
    for asset in DERIVED:
        for column in COLUMNS[asset]:
            inherited = any(columns._column(source).is_personal for source in column.sources)
            assert column.is_personal == inherited, f"{asset}.{column.name}"


def test_the_tables_are_those_of_the_database(sym_url: str) -> None:
    with psycopg.connect(sym_url) as connection:
        rows = connection.execute(
            "SELECT table_name, column_name, CASE data_type WHEN 'timestamp with time zone' THEN 'timestamptz'"
            " WHEN 'ARRAY' THEN ltrim(udt_name, '_') || '[]' ELSE data_type END, is_nullable = 'YES'"
            " FROM information_schema.columns WHERE table_schema = 'public' ORDER BY table_name, ordinal_position"
        ).fetchall()
    described = [
        (asset.rpartition("/")[2], c.name, c.type, c.nullable) for asset in sorted(TABLES) for c in COLUMNS[asset]
    ]
    assert described == rows


# The query: each column of the tables is changed by itself, and what comes out tells what it feeds.

# The keys that rows are joined by; without them there is no row that could be compared.
JOINED = {("organization_id", "organization_id"), ("user_id", "id")}
FEEDS_NOTHING = {
    ORGANIZATIONS_TABLE: {"name", "created_at"},
    USERS_TABLE: {"last_active_at"},
    IDENTITIES_TABLE: {"external_id"},
}
# A deleted organization is refused as a whole; ids hold the rows together.
UNCHANGEABLE = {
    ORGANIZATIONS_TABLE: {"id", "deleted_at"},
    USERS_TABLE: {"id", "organization_id"},
    IDENTITIES_TABLE: {"user_id"},
}
OTHER = {"text": "other", "timestamptz": LATER, "text[]": ["sms"], "uuid": "00000000-0000-4000-8000-000000000000"}


def test_the_lineage_of_the_raw_rows_is_that_of_the_query(sym: SymRows, sym_url: str) -> None:
    organization = sym.organization("acme")
    times = dict.fromkeys(("updated_at", "deactivated_at"), EARLIER)
    logins = dict.fromkeys(("last_login_at", "last_password_reset_at"), EARLIER)
    sym.user(organization, name="Canary", identities=[sym.password(mfa_factors=["otp"], **logins)], **times)
    before = read_users(sym_url, str(organization)).frame.iloc[0]
    for table in TABLES:
        fed: set[Edge] = set()
        changeable = [c for c in COLUMNS[table] if c.name not in UNCHANGEABLE[table]]
        for column in changeable:
            name = sql.Identifier(column.name)
            statement = sql.SQL("UPDATE {} SET {} = %s").format(sql.Identifier(table.rpartition("/")[2]), name)
            with sym.connection.transaction():
                sym.connection.execute(statement, [OTHER[column.type]])
            after = read_users(sym_url, str(organization)).frame.iloc[0]
            changed = {str(out) for out in after.index if str(after[out]) != str(before[out])}
            fed |= {(out, column.name) for out in changed}
            assert bool(changed) == (column.name not in FEEDS_NOTHING[table]), column.name
            before = after
        unseen = JOINED if table == USERS_TABLE else {("organization_id", "id")}
        assert fed == edges(USERS, table) - unseen, table


# The mapping, likewise: rows that differ in one column.

PLAIN: dict[str, Any] = {
    "organization_id": "11111111-0000-4000-8000-000000000000",
    "slug": "acme",
    "user_id": "22222222-0000-4000-8000-000000000000",
    "type": "admin",
    "name": "Canary",
    "email": "canary@acme.example",
    "created_at": EARLIER,
    "updated_at": EARLIER,
    "deactivated_at": EARLIER,
    "identity_id": "33333333-0000-4000-8000-000000000000",
    "service": "auth0",
    "connection": "Username-Password-Authentication",
    "mfa_factors": ["otp"],
    "last_login_at": EARLIER,
    "last_password_reset_at": EARLIER,
}
CHANGES: dict[str, list[Any]] = {
    **{name: [LATER] for name in contract.TIMESTAMPS},
    "deactivated_at": [LATER, None],
    "type": ["member", "guest"],
    "service": ["slack"],
    "connection": ["google-oauth2"],
    "mfa_factors": [[], None, ["sms"]],
}


def mapped(row: dict[str, Any]) -> "pd.Series[Any]":
    frame = pd.DataFrame([row]).astype(contract.DTYPES)
    return to_accounts(frame, app_url="https://app.symops.com").frame.iloc[0]


def fed_by_mapping() -> Iterator[Edge]:
    """Yield each field that changes with a column, for somebody with a name and for somebody without one."""
    for base in (PLAIN, PLAIN | {"name": None}):
        before = mapped(base)
        for column, dtype in contract.DTYPES.items():
            for value in CHANGES.get(column, ["other@acme.example" if dtype == "str" else LATER]):
                after = mapped(base | {column: value})
                yield from ((str(f), column) for f in after.index if str(after[f]) != str(before[f]))


def test_the_lineage_of_the_accounts_is_that_of_the_mapping() -> None:
    assert set(fed_by_mapping()) == edges(ACCOUNTS, USERS)


def test_a_mapping_that_no_change_can_pass_is_an_error() -> None:
    """Of the test above: a value without a translation would hide what its column feeds."""
    with pytest.raises(RulesBroken):
        mapped(PLAIN | {"type": "other"})


def test_what_is_sent_is_the_accounts_field_by_field() -> None:
    assert edges(SENT, ACCOUNTS) == {(name, name) for name in schema.FIELDS}


def test_lineage_also_as_a_table() -> None:
    table = column_metadata(SENT)["lineage"].value
    lines = str(table).splitlines()
    assert len(lines) == 2 + len(schema.FIELDS)
    assert (
        "| `lastLoginTimestamp` | `vanta/user_accounts.lastLoginTimestamp` | `sym/users.last_login_at` "
        "| `sym_database/identities.last_login_at` |"
    ) in lines
    assert "lineage" not in column_metadata(FLEET_STATUS)


def test_no_text_breaks_a_table() -> None:
    table = markdown_table(["a", "b"], [["x|y", "two\nlines"]])
    assert table == "| a | b |\n| --- | --- |\n| x\\|y | two lines |"
