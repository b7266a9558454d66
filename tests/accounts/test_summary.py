"""Figures and warnings without names."""

from collections.abc import Mapping
from datetime import UTC, datetime

import pandas as pd

from symvanta_pipeline.accounts.schema import DTYPES, Accounts
from symvanta_pipeline.accounts.summary import counts, deactivated_at, identities, shared_emails


def accounts(*rows: Mapping[str, object]) -> Accounts:
    plain = {
        "roleDescription": "Sym member",
        "status": "ACTIVE",
        "permissionLevel": "BASE",
        "authMethod": "SSO",
        "mfaMethods": (),
        "mfaEnabled": False,
    }
    numbered = [{**plain, "uniqueId": str(n), **row} for n, row in enumerate(rows)]
    frame = pd.DataFrame(numbered).reindex(columns=list(DTYPES)).astype(DTYPES)
    return Accounts("organization-1", frame)


def test_accounts_are_counted_and_what_nobody_has_is_nought() -> None:
    admin = {"roleDescription": "Sym admin", "permissionLevel": "ADMIN", "authMethod": "PASSWORD"}
    figures = counts(
        accounts({**admin, "mfaEnabled": True, "mfaMethods": ("OTP",)}, admin, {}, {"status": "DEACTIVATED"})
    )
    assert figures == {
        "type": {"admin": 2, "member": 2, "guest": 0},
        "status": {"ACTIVE": 3, "DEACTIVATED": 1},
        "level": {"ADMIN": 2, "BASE": 2},
        "login": {"PASSWORD": 2, "SSO": 2},
        "mfa": {"on": 1, "off": 0, "unknown": 1, "sso": 2},
    }
    assert {type(number) for figure in figures.values() for number in figure.values()} == {int}


def test_identities_are_counted_by_known_services_alone() -> None:
    rows = pd.DataFrame({"service": ["slack", "slack", None, "canary"]}, dtype="str")
    assert identities(rows) == {"identity": {"auth0": 0, "slack": 2}}
    assert identities(rows[:0]) == {"identity": {"auth0": 0, "slack": 0}}


def test_when_accounts_were_deactivated() -> None:
    left = {"status": "DEACTIVATED", "deactivatedTimestamp": "2026-05-01T12:00:00Z"}
    some = accounts(left, {}, left | {"deactivatedTimestamp": "0999-01-01T00:00:00Z"}, left)
    assert deactivated_at(some, ["0", "1", "2", "elsewhere"]) == [
        datetime(2026, 5, 1, 12, tzinfo=UTC),
        datetime(999, 1, 1, tzinfo=UTC),
    ]
    assert deactivated_at(some, []) == []


def test_people_with_one_email_are_grouped_by_unique_id() -> None:
    found = shared_emails(
        accounts(
            {"uniqueId": "5", "email": "ada@acme.example"},
            {"uniqueId": "4", "email": "bob@acme.example"},
            {"uniqueId": "3", "email": " Ada@ACME.example "},
            {"uniqueId": "2", "email": "BOB@acme.example"},
            {"uniqueId": "1", "email": "STRASSE@acme.example"},
            {"uniqueId": "0", "email": "stra\u00dfe@acme.example"},
            {"uniqueId": "6", "email": "alone@acme.example"},
        )
    )
    assert found == [("0", "1"), ("2", "4"), ("3", "5")]


def test_nobody_shares_a_missing_email() -> None:
    assert shared_emails(accounts({"uniqueId": "1"}, {"uniqueId": "2"})) == []
