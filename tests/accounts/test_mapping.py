"""A hand-written expectation, field by field, for each kind of user that an auditor would ask about."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pytest

from symvanta_pipeline.accounts.body import build
from symvanta_pipeline.accounts.mapping import MFA_METHOD_BY_FACTOR, to_accounts
from symvanta_pipeline.accounts.schema import DTYPES as ACCOUNT_DTYPES
from symvanta_pipeline.accounts.schema import FIELDS, violations
from symvanta_pipeline.rules import RulesBroken
from symvanta_pipeline.sym.contract import DTYPES

Row = dict[str, Any]

ORGANIZATION = "0a000000-0000-4000-8000-000000000001"
USER = "1b000000-0000-4000-8000-000000000001"
URL = f"https://app.symops.com/orgs/acme/users/{USER}"

MEMBER: Row = {
    "organization_id": ORGANIZATION,
    "slug": "acme",
    "user_id": USER,
    "type": "member",
    "name": "Ada Lovelace",
    "email": "ada@acme.example",
    "created_at": datetime(2024, 3, 5, 7, 9, 11, tzinfo=UTC),
}
ADMIN: Row = MEMBER | {"type": "admin"}
SLACK: Row = {"identity_id": "slack-1", "service": "slack"}
GOOGLE: Row = {"identity_id": "google-1", "service": "auth0", "connection": "google-oauth2"}
PASSWORD: Row = {
    "identity_id": "password-1",
    "service": "auth0",
    "connection": "Username-Password-Authentication",
}

# What the plain member in Slack becomes; the cases below write out all that differs.
SENT: Row = {
    "uniqueId": USER,
    "displayName": "Ada Lovelace",
    "fullName": "Ada Lovelace",
    "accountName": "ada@acme.example",
    "email": "ada@acme.example",
    "externalUrl": URL,
    "permissionLevel": "BASE",
    "roleDescription": "Sym member",
    "status": "ACTIVE",
    "createdTimestamp": "2024-03-05T07:09:11Z",
    "authMethod": "SSO",
    "mfaMethods": [],
    "mfaEnabled": False,
}


def raw(*rows: Row) -> pd.DataFrame:
    return pd.DataFrame(rows).reindex(columns=list(DTYPES)).astype(DTYPES)


def sent(*rows: Row, app_url: str = "https://app.symops.com") -> list[Row]:
    """Return the records as they stand in the body."""
    accounts = to_accounts(raw(*rows), app_url=app_url)
    body = json.loads(build(accounts, organization_id=ORGANIZATION, resource_id="r").payload)
    assert body.keys() == {"resourceId", "resources"}
    records: list[Row] = body["resources"]
    return records


CASES: dict[str, tuple[list[Row], Row]] = {
    "member, Slack only": (
        [MEMBER | SLACK],
        {
            "uniqueId": USER,
            "displayName": "Ada Lovelace",
            "fullName": "Ada Lovelace",
            "accountName": "ada@acme.example",
            "email": "ada@acme.example",
            "externalUrl": URL,
            "permissionLevel": "BASE",
            "roleDescription": "Sym member",
            "status": "ACTIVE",
            "createdTimestamp": "2024-03-05T07:09:11Z",
            "authMethod": "SSO",
            "mfaMethods": [],
            "mfaEnabled": False,
        },
    ),
    "guest, Slack only": (
        [MEMBER | SLACK | {"type": "guest"}],
        {
            "uniqueId": USER,
            "displayName": "Ada Lovelace",
            "fullName": "Ada Lovelace",
            "accountName": "ada@acme.example",
            "email": "ada@acme.example",
            "externalUrl": URL,
            "permissionLevel": "BASE",
            "roleDescription": "Sym guest",
            "status": "ACTIVE",
            "createdTimestamp": "2024-03-05T07:09:11Z",
            "authMethod": "SSO",
            "mfaMethods": [],
            "mfaEnabled": False,
        },
    ),
    "admin, password and one-time password": (
        [
            ADMIN
            | PASSWORD
            | {
                "mfa_factors": ["otp"],
                "updated_at": datetime(2024, 4, 1, tzinfo=UTC),
                "last_login_at": datetime(2026, 10, 9, 8, 7, 6, tzinfo=UTC),
                "last_password_reset_at": datetime(2025, 2, 3, 4, 5, 6, tzinfo=UTC),
            }
        ],
        {
            "uniqueId": USER,
            "displayName": "Ada Lovelace",
            "fullName": "Ada Lovelace",
            "accountName": "ada@acme.example",
            "email": "ada@acme.example",
            "externalUrl": URL,
            "permissionLevel": "ADMIN",
            "roleDescription": "Sym admin",
            "status": "ACTIVE",
            "createdTimestamp": "2024-03-05T07:09:11Z",
            "updatedTimestamp": "2024-04-01T00:00:00Z",
            "lastLoginTimestamp": "2026-10-09T08:07:06Z",
            "lastPasswordResetTimestamp": "2025-02-03T04:05:06Z",
            "authMethod": "PASSWORD",
            "mfaMethods": ["OTP"],
            "mfaEnabled": True,
        },
    ),
    "admin, password, no factor enrolled": (
        [ADMIN | PASSWORD | {"mfa_factors": []}],
        {
            "uniqueId": USER,
            "displayName": "Ada Lovelace",
            "fullName": "Ada Lovelace",
            "accountName": "ada@acme.example",
            "email": "ada@acme.example",
            "externalUrl": URL,
            "permissionLevel": "ADMIN",
            "roleDescription": "Sym admin",
            "status": "ACTIVE",
            "createdTimestamp": "2024-03-05T07:09:11Z",
            "authMethod": "PASSWORD",
            "mfaMethods": ["DISABLED"],
            "mfaEnabled": False,
        },
    ),
    "admin, password, factors not known": (
        [ADMIN | PASSWORD | {"mfa_factors": None}],
        SENT
        | {
            "permissionLevel": "ADMIN",
            "roleDescription": "Sym admin",
            "authMethod": "PASSWORD",
            "mfaMethods": [],
            "mfaEnabled": False,
        },
    ),
    "admin, password, nothing but a recovery code": (
        [ADMIN | PASSWORD | {"mfa_factors": ["recovery-code"]}],
        SENT
        | {
            "permissionLevel": "ADMIN",
            "roleDescription": "Sym admin",
            "authMethod": "PASSWORD",
            "mfaMethods": ["DISABLED"],
            "mfaEnabled": False,
        },
    ),
    "admin, password, both kinds of security key": (
        [ADMIN | PASSWORD | {"mfa_factors": ["webauthn-roaming", "recovery-code", "webauthn-platform"]}],
        SENT
        | {
            "permissionLevel": "ADMIN",
            "roleDescription": "Sym admin",
            "authMethod": "PASSWORD",
            "mfaMethods": ["HARDWARE_TOKEN"],
            "mfaEnabled": True,
        },
    ),
    "admin, password, every factor": (
        [ADMIN | PASSWORD | {"mfa_factors": list(MFA_METHOD_BY_FACTOR)}],
        SENT
        | {
            "permissionLevel": "ADMIN",
            "roleDescription": "Sym admin",
            "authMethod": "PASSWORD",
            "mfaMethods": ["SMS", "EMAIL", "OTP", "HARDWARE_TOKEN", "PUSH_PROMPT"],
            "mfaEnabled": True,
        },
    ),
    "admin, federated": (
        [ADMIN | GOOGLE | {"mfa_factors": ["otp"], "last_password_reset_at": datetime(2025, 1, 1, tzinfo=UTC)}],
        SENT
        | {
            "permissionLevel": "ADMIN",
            "roleDescription": "Sym admin",
            "authMethod": "SSO",
            "mfaMethods": [],
            "mfaEnabled": False,
        },
    ),
    "admin, Slack only": (
        [ADMIN | SLACK],
        SENT | {"permissionLevel": "ADMIN", "roleDescription": "Sym admin", "authMethod": "SSO"},
    ),
    "admin, password and Slack and Google": (
        [
            ADMIN | SLACK | {"last_login_at": datetime(2026, 11, 3, tzinfo=UTC)},
            ADMIN
            | PASSWORD
            | {
                "mfa_factors": ["sms"],
                "last_login_at": datetime(2026, 11, 1, tzinfo=UTC),
                "last_password_reset_at": datetime(2025, 6, 1, tzinfo=UTC),
            },
            ADMIN
            | GOOGLE
            | {
                "mfa_factors": ["otp"],
                "last_login_at": datetime(2026, 11, 2, tzinfo=UTC),
                "last_password_reset_at": datetime(2026, 6, 1, tzinfo=UTC),
            },
        ],
        SENT
        | {
            "permissionLevel": "ADMIN",
            "roleDescription": "Sym admin",
            "lastLoginTimestamp": "2026-11-03T00:00:00Z",
            "lastPasswordResetTimestamp": "2025-06-01T00:00:00Z",
            "authMethod": "PASSWORD",
            "mfaMethods": ["SMS"],
            "mfaEnabled": True,
        },
    ),
    "member who was an admin": (
        [MEMBER | PASSWORD | {"mfa_factors": ["push-notification"]}, MEMBER | SLACK],
        SENT
        | {
            "permissionLevel": "BASE",
            "roleDescription": "Sym member",
            "authMethod": "PASSWORD",
            "mfaMethods": ["PUSH_PROMPT"],
            "mfaEnabled": True,
        },
    ),
    "member who has left": (
        [MEMBER | SLACK | {"deactivated_at": datetime(2025, 12, 31, 23, 59, 59, tzinfo=UTC)}],
        SENT | {"status": "DEACTIVATED", "deactivatedTimestamp": "2025-12-31T23:59:59Z"},
    ),
    "member who will have left": (
        [MEMBER | SLACK | {"deactivated_at": datetime(2999, 1, 1, tzinfo=UTC)}],
        SENT | {"status": "DEACTIVATED", "deactivatedTimestamp": "2999-01-01T00:00:00Z"},
    ),
    "no name": (
        [MEMBER | SLACK | {"name": None, "email": "  ada@acme.example\t"}],
        SENT | {"displayName": "ada@acme.example", "fullName": "ada@acme.example"},
    ),
    "blank name": (
        [MEMBER | SLACK | {"name": " \u3000\n"}],
        SENT | {"displayName": "ada@acme.example", "fullName": "ada@acme.example"},
    ),
    "name as it is": (
        [MEMBER | SLACK | {"name": " Zo\u00eb \u5f20\u4f1f \U0001f469\u200d\U0001f4bb \u0645\u0631\u064a\u0645 "}],
        SENT
        | {
            "displayName": " Zo\u00eb \u5f20\u4f1f \U0001f469\u200d\U0001f4bb \u0645\u0631\u064a\u0645 ",
            "fullName": " Zo\u00eb \u5f20\u4f1f \U0001f469\u200d\U0001f4bb \u0645\u0631\u064a\u0645 ",
        },
    ),
    "e-mail trimmed, its case kept": (
        [MEMBER | SLACK | {"email": " Ada.Lovelace@ACME.example\u00a0"}],
        SENT | {"accountName": "Ada.Lovelace@ACME.example", "email": "Ada.Lovelace@ACME.example"},
    ),
    "fractions of a second are cut off": (
        [
            MEMBER
            | SLACK
            | {
                "created_at": datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
                "updated_at": datetime(2026, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
                "last_login_at": datetime(1, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
            }
        ],
        SENT
        | {
            "createdTimestamp": "1969-12-31T23:59:59Z",
            "updatedTimestamp": "2026-12-31T23:59:59Z",
            "lastLoginTimestamp": "0001-01-01T00:00:00Z",
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_this_is_what_vanta_is_sent(case: str) -> None:
    rows, expected = CASES[case]
    assert sent(*rows) == [expected]


@pytest.mark.parametrize("case", CASES)
def test_the_order_of_the_identities_does_not_matter(case: str) -> None:
    rows, expected = CASES[case]
    assert sent(*reversed(rows)) == [expected]


def test_times_in_any_zone_become_utc() -> None:
    frame = raw(MEMBER | SLACK | {"last_login_at": datetime(2026, 1, 1, 2, 30, tzinfo=ZoneInfo("Asia/Kolkata"))})
    frame["created_at"] = frame["created_at"].dt.tz_convert("America/St_Johns")
    frame["deactivated_at"] = pd.Series([datetime(2026, 7, 1, tzinfo=timezone(timedelta(hours=14)))])
    (record,) = to_accounts(frame, app_url="https://app.symops.com").frame.to_dict("records")
    assert record["createdTimestamp"] == "2024-03-05T07:09:11Z"
    assert record["lastLoginTimestamp"] == "2025-12-31T21:00:00Z"
    assert record["deactivatedTimestamp"] == "2026-06-30T10:00:00Z"


@pytest.mark.parametrize(
    ("first", "second", "methods", "enabled"),
    [
        (["otp"], [], ["OTP"], True),
        (["otp"], ["otp", "sms"], ["SMS", "OTP"], True),
        (["otp"], None, ["OTP"], True),
        ([], ["recovery-code"], ["DISABLED"], False),
        ([], None, [], False),
        (None, ["recovery-code"], [], False),
        (None, None, [], False),
    ],
)
def test_several_passwords_are_as_strong_as_what_is_known_of_all(
    first: list[str] | None, second: list[str] | None, methods: list[str], enabled: bool
) -> None:
    (record,) = sent(
        ADMIN | PASSWORD | {"mfa_factors": first},
        ADMIN | PASSWORD | {"mfa_factors": second, "identity_id": "password-2"},
    )
    assert (record["mfaMethods"], record["mfaEnabled"]) == (methods, enabled)


def test_the_latest_of_several_times_counts() -> None:
    early, late = datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 1, 2, tzinfo=UTC)
    (record,) = sent(
        ADMIN | PASSWORD | {"last_login_at": late, "last_password_reset_at": early},
        ADMIN | PASSWORD | {"identity_id": "password-2", "last_login_at": early, "last_password_reset_at": late},
        ADMIN | SLACK,
    )
    assert record["lastLoginTimestamp"] == "2025-01-02T00:00:00Z"
    assert record["lastPasswordResetTimestamp"] == "2025-01-02T00:00:00Z"


def test_each_user_has_their_own_values() -> None:
    others = [
        MEMBER | SLACK | {"user_id": f"user-{n}", "identity_id": f"slack-{n}", "email": f"{n}@acme.example"}
        for n in (3, 1, 2)
    ]
    records = sent(*others, ADMIN | PASSWORD | {"mfa_factors": ["otp"], "user_id": "user-0"})
    assert [(r["uniqueId"], r["email"], r["authMethod"], r["mfaEnabled"]) for r in records] == [
        ("user-0", "ada@acme.example", "PASSWORD", True),
        ("user-1", "1@acme.example", "SSO", False),
        ("user-2", "2@acme.example", "SSO", False),
        ("user-3", "3@acme.example", "SSO", False),
    ]


def test_accounts_are_sorted_by_unique_id() -> None:
    rows = [MEMBER | SLACK | {"user_id": n, "identity_id": n} for n in ("b", "10", "a", "9", "B")]
    accounts = to_accounts(raw(*rows), app_url="https://app.symops.com")
    assert list(accounts.frame["uniqueId"]) == ["10", "9", "B", "a", "b"]
    assert list(accounts.frame.index) == [0, 1, 2, 3, 4]


def test_two_people_with_one_email_are_both_sent() -> None:
    twin = {"user_id": "user-2", "identity_id": "slack-2"}
    assert [r["email"] for r in sent(MEMBER | SLACK, MEMBER | SLACK | twin)] == ["ada@acme.example"] * 2


def test_the_link_survives_any_slug_and_id() -> None:
    (record,) = sent(
        MEMBER | SLACK | {"slug": "a/b ?#\u00e9", "user_id": "1/../2"}, app_url="https://sym.example:8443/app/"
    )
    assert record["externalUrl"] == "https://sym.example:8443/app/orgs/a%2Fb%20%3F%23%C3%A9/users/1%2F..%2F2"


@pytest.mark.parametrize(
    "app_url",
    [
        "http://app.symops.com",
        "app.symops.com",
        "https://",
        "https:///path",
        "https://user:pw@app.symops.com",
        "https://app.symops.com?a=b",
        "https://app.symops.com#top",
        "",
    ],
)
def test_links_are_https(app_url: str) -> None:
    with pytest.raises(ValueError, match="https"):
        sent(MEMBER | SLACK, app_url=app_url)


def test_the_accounts_carry_their_organization_and_fixed_types() -> None:
    accounts = to_accounts(raw(MEMBER | SLACK), app_url="https://app.symops.com")
    assert accounts.organization_id == ORGANIZATION
    assert list(accounts.frame) == list(FIELDS)
    assert {name: str(dtype) for name, dtype in accounts.frame.dtypes.items()} == ACCOUNT_DTYPES
    assert violations(accounts) == []


@pytest.mark.parametrize("column", ["organization_id", "slug"])
def test_rows_of_two_organizations_become_no_accounts(column: str) -> None:
    with pytest.raises(ValueError, match="these rows to 2"):
        sent(MEMBER | SLACK, MEMBER | SLACK | {"user_id": "user-2", column: "other"})


def test_no_rows_become_no_accounts() -> None:
    with pytest.raises(ValueError, match="these rows to 0"):
        to_accounts(raw(), app_url="https://app.symops.com")


@pytest.mark.parametrize(
    ("columns", "rule"),
    [
        ({"type": "owner"}, "user_type"),
        ({"type": None}, "user_type"),
        ({"service": "okta"}, "service"),
        ({"service": None}, "service"),
        ({"service": "auth0", "connection": " "}, "service"),
        ({"service": "auth0", "connection": None}, "service"),
        (PASSWORD | {"mfa_factors": ["otp", "smart-card"]}, "mfa_factor"),
        (PASSWORD | {"mfa_factors": [None]}, "mfa_factor"),
    ],
)
def test_what_has_no_translation_is_refused_even_unchecked(columns: Row, rule: str) -> None:
    good = [MEMBER | SLACK | {"user_id": f"good-{n}", "identity_id": f"good-{n}"} for n in range(2)]
    with pytest.raises(RulesBroken) as broken:
        sent(*good, MEMBER | SLACK | columns)
    (violation,) = broken.value.violations
    assert (violation.rule, violation.count, violation.unique_ids) == (rule, 1, (USER,))


@pytest.mark.parametrize("column", ["email", "created_at"])
def test_what_is_missing_is_refused_even_unchecked(column: str) -> None:
    with pytest.raises(RulesBroken, match=USER):
        sent(MEMBER | SLACK | {column: None})
