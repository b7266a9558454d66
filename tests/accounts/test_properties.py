"""What has to hold for every user that the contract lets through, found by hypothesis.

Three parts that know nothing of one another: rows drawn from the whole input space, a mapping written a second time
(row by row, plain Python), and Vanta's schema stated a second time (JSON Schema). Each part is shown to catch faults.
"""

import copy
import json
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import hypothesis.strategies as st
import jsonschema  # type: ignore[import-untyped] # it ships no type information
import pandas as pd
import pytest
from hypothesis import example, given, settings

from symvanta_pipeline.accounts import schema
from symvanta_pipeline.accounts.body import Body, build
from symvanta_pipeline.accounts.mapping import to_accounts
from symvanta_pipeline.accounts.schema import Accounts
from symvanta_pipeline.accounts.summary import counts, shared_emails
from symvanta_pipeline.sym import contract

Row = dict[str, Any]

ORGANIZATION = "0a000000-0000-4000-8000-000000000001"
APP_URL = "https://app.symops.com"
RESOURCE = "resource-1"
FACTORS = ["otp", "sms", "email", "push-notification", "webauthn-roaming", "webauthn-platform", "recovery-code"]
PASSWORD = "Username-Password-Authentication"

# PostgreSQL stores any character but NUL; half a surrogate pair is no character.
anything = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)
blanks = st.text(" \t\n\u00a0\u3000\u2028\x1f", max_size=3)
moments = st.datetimes(timezones=st.just(UTC))
maybe_moment = st.none() | moments
addresses = st.builds(
    "{}{}@{}.{}{}".format,
    blanks,
    st.text(st.characters(categories=["L", "N", "S"]), min_size=1, max_size=6).filter(str.isprintable),
    st.sampled_from(["acme", "b\u00fccher", "\u4f8b\u5b50", "a-1"]),
    st.sampled_from(["example", "xn--p1ai", "\u092d\u093e\u0930\u0924"]),
    blanks,
)
identities = st.fixed_dictionaries(
    {
        "mfa_factors": st.none() | st.lists(st.sampled_from(FACTORS), max_size=4),
        "last_login_at": maybe_moment,
        "last_password_reset_at": maybe_moment,
    }
).flatmap(
    lambda columns: st.one_of(
        st.builds(lambda connection: columns | {"service": "slack", "connection": connection}, st.none() | anything),
        st.builds(
            lambda connection: columns | {"service": "auth0", "connection": connection},
            st.just(PASSWORD) | st.sampled_from(["google-oauth2", "acme-saml", PASSWORD.lower()]),
        ),
    )
)
people: st.SearchStrategy[Row] = st.fixed_dictionaries(
    {
        "user_id": st.uuids().map(str) | anything.filter(str.strip),
        "type": st.sampled_from(["admin", "member", "guest"]),
        "name": st.none() | blanks | anything,
        "email": addresses,
        "created_at": moments,
        "updated_at": maybe_moment,
        "deactivated_at": maybe_moment,
        "identities": st.lists(identities, min_size=1, max_size=3),
    }
)


@st.composite
def organizations(draw: st.DrawFn) -> list[Row]:
    """Draw one organization's rows: a row per user and identity."""
    users = draw(st.lists(people, min_size=1, max_size=4, unique_by=lambda user: user["user_id"]))
    slug = draw(st.sampled_from(["acme", "a b", "\u00fc/1"]))
    return [
        {"organization_id": ORGANIZATION, "slug": slug, "identity_id": f"{number}-{place}"}
        | {name: value for name, value in user.items() if name != "identities"}
        | identity
        for number, user in enumerate(users)
        for place, identity in enumerate(user["identities"])
    ]


def raw(rows: Iterable[Row]) -> pd.DataFrame:
    return pd.DataFrame(list(rows)).reindex(columns=list(contract.DTYPES)).astype(contract.DTYPES)


def body_of(frame: pd.DataFrame) -> Body:
    accounts = to_accounts(frame, app_url=APP_URL)
    return build(accounts, organization_id=ORGANIZATION, resource_id=RESOURCE)


def reference(rows: list[Row]) -> list[Row]:
    """Map user by user and identity by identity, as the tables of what is read and sent have it."""
    users: dict[str, list[Row]] = {}
    for row in rows:
        users.setdefault(row["user_id"], []).append(row)
    return [reference_user(users[user_id]) for user_id in sorted(users)]


def reference_user(rows: list[Row]) -> Row:
    user = rows[0]
    email = user["email"].strip()
    name = user["name"] if user["name"] is not None and user["name"].strip() else email
    passwords = [row for row in rows if row["service"] == "auth0" and row["connection"] == PASSWORD]
    methods = reference_methods([row["mfa_factors"] for row in passwords])
    record = {
        "uniqueId": user["user_id"],
        "displayName": name,
        "fullName": name,
        "accountName": email,
        "email": email,
        "externalUrl": f"{APP_URL}/orgs/{percent(user['slug'])}/users/{percent(user['user_id'])}",
        "permissionLevel": "ADMIN" if user["type"] == "admin" else "BASE",
        "roleDescription": f"Sym {user['type']}",
        "status": "ACTIVE" if user["deactivated_at"] is None else "DEACTIVATED",
        "createdTimestamp": written(user["created_at"]),
        "updatedTimestamp": written(user["updated_at"]),
        "deactivatedTimestamp": written(user["deactivated_at"]),
        "lastLoginTimestamp": written(latest(row["last_login_at"] for row in rows)),
        "lastPasswordResetTimestamp": written(latest(row["last_password_reset_at"] for row in passwords)),
        "authMethod": "PASSWORD" if passwords else "SSO",
        "mfaMethods": methods,
        "mfaEnabled": methods not in ([], ["DISABLED"]),
    }
    return {key: value for key, value in record.items() if value is not None}


def reference_methods(all_factors: list[list[str] | None]) -> list[str]:
    enrolled = {factor for factors in all_factors for factor in factors or []}
    found = []
    for method, names in [
        ("SMS", {"sms"}),
        ("EMAIL", {"email"}),
        ("OTP", {"otp"}),
        ("HARDWARE_TOKEN", {"webauthn-roaming", "webauthn-platform"}),
        ("PUSH_PROMPT", {"push-notification"}),
    ]:
        if enrolled & names:
            found.append(method)
    if found:
        return found
    return ["DISABLED"] if all_factors and None not in all_factors else []


def latest(found: Iterable[datetime | None]) -> datetime | None:
    return max((moment for moment in found if moment is not None), default=None)


def written(moment: datetime | None) -> str | None:
    return None if moment is None else moment.replace(microsecond=0, tzinfo=None).isoformat() + "Z"


def percent(text: str) -> str:
    """Escape every byte that RFC 3986 reserves."""
    plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
    return "".join(chr(byte) if chr(byte) in plain else f"%{byte:02X}" for byte in text.encode())


TEXT = {"type": "string", "pattern": r"\S"}
TIMESTAMP = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$", "format": "date-time"}
# UserAccount as Vanta's OpenAPI has it, in the strictest reading.
VANTA: Row = {
    "type": "object",
    "additionalProperties": False,
    "required": ["resourceId", "resources"],
    "properties": {
        "resourceId": TEXT,
        "resources": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": [
                    "displayName",
                    "uniqueId",
                    "externalUrl",
                    "fullName",
                    "accountName",
                    "email",
                    "permissionLevel",
                    "createdTimestamp",
                    "status",
                    "mfaEnabled",
                    "mfaMethods",
                    "authMethod",
                ],
                "properties": {
                    "displayName": TEXT,
                    "uniqueId": TEXT,
                    "externalUrl": {"type": "string", "pattern": r"^https://[^/\s]+/\S+$"},
                    "fullName": TEXT,
                    "accountName": TEXT,
                    "email": TEXT,
                    "permissionLevel": {"enum": ["ADMIN", "EDITOR", "BASE"]},
                    "roleDescription": TEXT,
                    "createdTimestamp": TIMESTAMP,
                    "updatedTimestamp": TIMESTAMP,
                    "deactivatedTimestamp": TIMESTAMP,
                    "lastLoginTimestamp": TIMESTAMP,
                    "lastPasswordResetTimestamp": TIMESTAMP,
                    "status": {"enum": ["ACTIVE", "DEACTIVATED"]},
                    "mfaEnabled": {"type": "boolean"},
                    "mfaMethods": {
                        "type": "array",
                        "uniqueItems": True,
                        "items": {
                            "enum": [
                                "UNSUPPORTED",
                                "DISABLED",
                                "SMS",
                                "EMAIL",
                                "OTP",
                                "HARDWARE_TOKEN",
                                "PUSH_PROMPT",
                            ]
                        },
                    },
                    "authMethod": {"enum": ["SSO", "PASSWORD", "TOKEN", "BIOMETRIC"]},
                    "groupIds": {"type": "array", "items": TEXT},
                },
            },
        },
    },
}
formats = jsonschema.FormatChecker(formats=())


@formats.checks("date-time", raises=ValueError)  # type: ignore[untyped-decorator] # see the import
def is_date_time(value: object) -> bool:
    return not isinstance(value, str) or bool(datetime.strptime(value, "%Y-%m-%dT%H:%M:%S%z"))


vanta = jsonschema.Draft202012Validator(VANTA, format_checker=formats)


def refusals(body: Row) -> list[str]:
    """List what Vanta would refuse in a body."""
    ids = [record.get("uniqueId") for record in body.get("resources", [])]
    doubled = ["uniqueId twice"] if len(ids) != len(set(ids)) else []
    return doubled + [error.message for error in vanta.iter_errors(body)]


ROW: Row = {
    "organization_id": ORGANIZATION,
    "slug": "acme",
    "user_id": "user-1",
    "type": "admin",
    "name": "Ada",
    "email": "ada@acme.example",
    "created_at": datetime(2024, 3, 5, 7, 9, 11, tzinfo=UTC),
    "updated_at": datetime(2024, 3, 5, 7, 9, 11, tzinfo=UTC),
    "deactivated_at": None,
    "identity_id": "identity-1",
    "service": "auth0",
    "connection": PASSWORD,
    "mfa_factors": ["otp"],
    "last_login_at": None,
    "last_password_reset_at": None,
}
GOOD = body_of(raw([ROW])).payload


def test_the_good_body_is_taken() -> None:
    assert refusals(json.loads(GOOD)) == []


REQUIRED = VANTA["properties"]["resources"]["items"]["required"]


@pytest.mark.parametrize("field", REQUIRED)
def test_the_schema_catches_a_missing_field(field: str) -> None:
    body = json.loads(GOOD)
    del body["resources"][0][field]
    assert refusals(body)


@pytest.mark.parametrize("field", schema.FIELDS)
def test_the_schema_catches_null(field: str) -> None:
    body = json.loads(GOOD)
    body["resources"][0][field] = None
    assert refusals(body)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("displayName", " "),
        ("uniqueId", ""),
        ("uniqueId", 7),
        ("email", ["ada@acme.example"]),
        ("externalUrl", "http://app.symops.com/orgs/acme/users/1"),
        ("externalUrl", "https://app.symops.com"),
        ("permissionLevel", "OWNER"),
        ("permissionLevel", "admin"),
        ("status", "INACTIVE"),
        ("authMethod", "SAML"),
        ("mfaMethods", ["OTP", "FAX"]),
        ("mfaMethods", ["OTP", "OTP"]),
        ("mfaMethods", "OTP"),
        ("mfaEnabled", "true"),
        ("mfaEnabled", 1),
        ("createdTimestamp", "2024-03-05T07:09:11"),
        ("createdTimestamp", "2024-03-05 07:09:11Z"),
        ("createdTimestamp", "2024-03-05T07:09:11.5Z"),
        ("updatedTimestamp", "2024-02-30T07:09:11Z"),
        ("updatedTimestamp", "24-03-05T07:09:11Z"),
        ("lastLoginTimestamp", "NaT"),
        ("roleDescription", ""),
        ("customProperties", {}),
        ("deletedAt", "2024-03-05T07:09:11Z"),
    ],
)
def test_the_schema_catches_a_bad_value(field: str, value: object) -> None:
    body = json.loads(GOOD)
    body["resources"][0][field] = value
    assert refusals(body)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda body: body.pop("resourceId"),
        lambda body: body.update(resourceId=""),
        lambda body: body.update(sourceId="1"),
        lambda body: body.pop("resources"),
        lambda body: body["resources"].clear(),
        lambda body: body["resources"].append(copy.deepcopy(body["resources"][0]) | {"displayName": "Other"}),
    ],
)
def test_the_schema_catches_a_bad_body(spoil: Callable[[Row], object]) -> None:
    body = json.loads(GOOD)
    spoil(body)
    assert refusals(body)


@settings(max_examples=60)
@given(organizations())
@example([ROW])
def test_nobody_is_lost_nobody_is_invented_and_vanta_takes_everybody(rows: list[Row]) -> None:
    frame = raw(rows)
    assert contract.violations(frame, ORGANIZATION) == []
    body = body_of(frame)
    sent = json.loads(body.payload)
    assert refusals(sent) == []
    assert sent["resourceId"] == RESOURCE
    assert sent["resources"] == reference(rows)
    assert [record["uniqueId"] for record in sent["resources"]] == sorted({row["user_id"] for row in rows})
    statuses = [record["status"] for record in sent["resources"]]
    assert (body.count, body.active) == (len(statuses), statuses.count("ACTIVE"))
    assert body.deactivated == statuses.count("DEACTIVATED")


@settings(max_examples=20)
@given(organizations(), st.data())
def test_equal_states_are_equal_bytes(rows: list[Row], data: st.DataObject) -> None:
    columns = data.draw(st.permutations(list(contract.DTYPES)))
    again = [
        row | {"mfa_factors": row["mfa_factors"] and data.draw(st.permutations(row["mfa_factors"] * 2))}
        for row in data.draw(st.permutations(rows))
    ]
    frame = raw(again)[columns].set_axis(["same"] * len(again))
    zone = data.draw(st.sampled_from(["UTC", "Asia/Kolkata", "America/St_Johns"]))
    for name in contract.TIMESTAMPS:
        frame[name] = frame[name].dt.tz_convert(zone)
    first, second = body_of(raw(rows)), body_of(frame)
    assert first.payload == second.payload
    assert first == second


@settings(max_examples=20)
@given(organizations(), organizations())
def test_equal_bytes_are_equal_states(rows: list[Row], others: list[Row]) -> None:
    first, second = body_of(raw(rows)), body_of(raw(others))
    assert (first.sha256 == second.sha256) == (reference(rows) == reference(others))


@settings(max_examples=20)
@given(organizations())
def test_reading_does_not_change_the_rows(rows: list[Row]) -> None:
    frame = raw(rows)
    before = frame.copy(deep=True)
    contract.violations(frame, ORGANIZATION)
    accounts = to_accounts(frame, app_url=APP_URL)
    pd.testing.assert_frame_equal(frame, before)
    sent = accounts.frame.copy(deep=True)
    build(accounts, organization_id=ORGANIZATION, resource_id=RESOURCE)
    pd.testing.assert_frame_equal(accounts.frame, sent)


@settings(max_examples=20)
@given(organizations())
def test_the_figures_add_up(rows: list[Row]) -> None:
    accounts = to_accounts(raw(rows), app_url=APP_URL)
    expected = reference(rows)
    figures = counts(accounts)
    assert all(sum(figure.values()) == len(expected) for figure in figures.values())
    assert figures["mfa"]["on"] == sum(record["mfaEnabled"] for record in expected)
    in_groups = [unique_id for group in shared_emails(accounts) for unique_id in group]
    folded = [record["email"].casefold() for record in expected]
    assert in_groups == list(dict.fromkeys(in_groups))
    assert set(in_groups) == {r["uniqueId"] for r in expected if folded.count(r["email"].casefold()) > 1}


bad_values = st.none() | st.sampled_from(["", " ", "ADMIN", "admin", "https://", "https://a b", "2024-02-30T00:00:00Z"])


@settings(max_examples=40)
@given(st.sampled_from(schema.TEXT_FIELDS), bad_values)
def test_the_gate_refuses_what_the_schema_refuses(field: str, value: str | None) -> None:
    """The gate in front of every push and the schema stated here agree on single spoilt values."""
    accounts = to_accounts(raw([ROW]), app_url=APP_URL)
    spoilt = Accounts(ORGANIZATION, accounts.frame.assign(**{field: pd.Series([value], dtype="str")}))
    body = json.loads(GOOD)
    body["resources"][0][field] = value
    if value is None and field in schema.OPTIONAL:
        del body["resources"][0][field]
    # The gate also wants a role, which Vanta would do without.
    assert bool(schema.violations(spoilt)) == bool(refusals(body))


def test_a_lost_user_would_be_noticed() -> None:
    """The second mapping tells apart what the first could get wrong."""
    rows = [ROW, ROW | {"user_id": "user-2", "identity_id": "identity-2"}]
    sent = json.loads(body_of(raw(rows[:1])).payload)["resources"]
    assert sent != reference(rows)
    assert all(re.match("user-", record["uniqueId"]) for record in reference(rows))
