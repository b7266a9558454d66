"""Figures and warnings without names."""

import pandas as pd

from symvanta_pipeline.accounts.schema import DTYPES, Accounts
from symvanta_pipeline.accounts.summary import counts, shared_emails


def accounts(*rows: dict[str, object]) -> Accounts:
    plain = {
        "roleDescription": "Sym member",
        "status": "ACTIVE",
        "permissionLevel": "BASE",
        "authMethod": "SSO",
        "mfaEnabled": False,
    }
    frame = pd.DataFrame([plain | row for row in rows]).reindex(columns=list(DTYPES)).astype(DTYPES)
    return Accounts("organization-1", frame)


def test_accounts_are_counted() -> None:
    admin: dict[str, object] = {"roleDescription": "Sym admin", "permissionLevel": "ADMIN", "authMethod": "PASSWORD"}
    figures = counts(
        accounts(admin | {"mfaEnabled": True}, admin, {}, {"status": "DEACTIVATED"}, {"roleDescription": "Sym guest"})
    )
    assert figures == {
        "roleDescription": {"Sym admin": 2, "Sym guest": 1, "Sym member": 2},
        "status": {"ACTIVE": 4, "DEACTIVATED": 1},
        "permissionLevel": {"ADMIN": 2, "BASE": 3},
        "authMethod": {"PASSWORD": 2, "SSO": 3},
        "mfaEnabled": {"false": 4, "true": 1},
    }
    assert {type(number) for figure in figures.values() for number in figure.values()} == {int}


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
