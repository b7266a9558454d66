"""The last gate before sending: each of Vanta's rules, broken once."""

from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pytest

from symvanta_pipeline.accounts.body import build
from symvanta_pipeline.accounts.schema import DTYPES, Accounts, violations
from symvanta_pipeline.rules import RulesBroken, Violation

ORGANIZATION = "organization-1"
CANARY = "canary@person.example"
NOW = f"{datetime(2026, 11, 23, tzinfo=UTC):%Y-%m-%dT%H:%M:%SZ}"


def account(unique_id: str, **columns: object) -> dict[str, Any]:
    plain = {
        "uniqueId": unique_id,
        "displayName": CANARY,
        "fullName": CANARY,
        "accountName": CANARY,
        "email": CANARY,
        "externalUrl": f"https://app.symops.com/orgs/acme/users/{unique_id}",
        "permissionLevel": "BASE",
        "roleDescription": "Sym member",
        "status": "ACTIVE",
        "createdTimestamp": NOW,
        "authMethod": "SSO",
        "mfaMethods": (),
        "mfaEnabled": False,
    }
    return plain | columns


def accounts(*rows: dict[str, Any]) -> Accounts:
    frame = pd.DataFrame(list(rows)).reindex(columns=list(DTYPES)).astype(DTYPES)
    return Accounts(ORGANIZATION, frame)


def test_good_accounts_pass() -> None:
    every_timestamp = {name: NOW for name in DTYPES if name.endswith("Timestamp")}
    factors = account("2", authMethod="PASSWORD", mfaMethods=("SMS", "OTP"), mfaEnabled=True)
    assert violations(accounts(account("1", **every_timestamp), factors)) == []


@pytest.mark.parametrize(
    ("column", "value", "rule"),
    [
        ("displayName", None, "required"),
        ("fullName", " ", "required"),
        ("accountName", "", "required"),
        ("email", None, "required"),
        ("roleDescription", None, "required"),
        ("permissionLevel", "OWNER", "enumeration"),
        ("status", "active", "enumeration"),
        ("authMethod", "SAML", "enumeration"),
        ("createdTimestamp", None, "required"),
        ("createdTimestamp", "2026-11-23T00:00:00", "timestamp"),
        ("createdTimestamp", "2026-11-23T00:00:00+00:00", "timestamp"),
        ("updatedTimestamp", "2026-11-23T00:00:00.5Z", "timestamp"),
        ("deactivatedTimestamp", "2026-02-30T00:00:00Z", "timestamp"),
        ("lastLoginTimestamp", "2026-2-3T0:0:0Z", "timestamp"),
        ("lastPasswordResetTimestamp", "", "timestamp"),
        ("externalUrl", "http://app.symops.com/users/1", "external_url"),
        ("externalUrl", "https://", "external_url"),
        ("externalUrl", "https://app.symops.com/a b", "external_url"),
        ("externalUrl", None, "external_url"),
        ("mfaMethods", ("FAX",), "mfa_methods"),
        ("mfaMethods", ("OTP", "OTP"), "mfa_methods"),
        ("mfaMethods", ["OTP"], "mfa_methods"),
        ("mfaMethods", "OTP", "mfa_methods"),
        ("mfaMethods", None, "mfa_methods"),
    ],
)
def test_each_rule_names_who_breaks_it(column: str, value: object, rule: str) -> None:
    rows = [account("good-1"), account("bad-2", **{column: value}), account("bad-1", **{column: value})]
    checked = accounts(*rows)
    assert Violation(rule, column, 2, ("bad-1", "bad-2")) in violations(checked)
    with pytest.raises(RulesBroken) as broken:
        build(checked, organization_id=ORGANIZATION, resource_id="r")
    assert rule in str(broken.value)
    assert CANARY not in f"{broken.value!r} {broken.value} {violations(checked)} {checked}"


def test_a_unique_id_twice_is_refused() -> None:
    assert violations(accounts(account("1"), account("2"), account("1"))) == [
        Violation("unique_id", "uniqueId", 1, ("1",))
    ]


def test_a_missing_unique_id_is_refused() -> None:
    assert violations(accounts(account("1"), account("2", uniqueId=None))) == [
        Violation("required", "uniqueId", 1, ("",))
    ]


def test_everything_that_is_broken_is_listed() -> None:
    rows = [account(str(n), email=None, status="GONE") for n in range(7)]
    found = violations(accounts(*rows))
    assert [(v.rule, v.column, v.count, len(v.unique_ids)) for v in found] == [
        ("required", "email", 7, 5),
        ("enumeration", "status", 7, 5),
    ]


def test_no_accounts_are_refused() -> None:
    nobody = Accounts(ORGANIZATION, accounts(account("1")).frame.iloc[:0])
    assert violations(nobody) == [Violation("nobody", "uniqueId", 0)]
    with pytest.raises(RulesBroken, match="nobody"):
        build(nobody, organization_id=ORGANIZATION, resource_id="r")


@pytest.mark.parametrize(
    ("column", "dtype"), [("mfaEnabled", "object"), ("mfaEnabled", "int64"), ("createdTimestamp", "object")]
)
def test_another_dtype_is_refused(column: str, dtype: str) -> None:
    frame = accounts(account("1")).frame.astype({column: dtype})
    assert violations(Accounts(ORGANIZATION, frame)) == [Violation("fields", column, 1)]


def test_an_unknown_a_missing_and_a_doubled_field_are_refused() -> None:
    frame = accounts(account("1")).frame
    wrong = pd.concat([frame.drop(columns="email"), frame[["status"]]], axis="columns").assign(customProperties="{}")
    assert violations(Accounts(ORGANIZATION, wrong)) == [
        Violation("fields", "customProperties", 1),
        Violation("fields", "email", 1),
        Violation("fields", "status", 1),
    ]
