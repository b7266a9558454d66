"""Every rule of the stand-in's validation, and that the error names the element and the field."""

import json
from typing import Any

import pytest

from symvanta_pipeline.sandbox.vanta.schema import BodyError, parse_accounts

GOOD: dict[str, Any] = {
    "displayName": "Ada Lovelace",
    "uniqueId": "1",
    "externalUrl": "https://app.example.com/users/1",
    "fullName": "Ada Lovelace",
    "accountName": "ada@example.com",
    "email": "ada@example.com",
    "permissionLevel": "ADMIN",
    "createdTimestamp": "2024-02-29T23:59:59Z",
    "status": "ACTIVE",
    "mfaEnabled": True,
    "mfaMethods": ["OTP", "SMS"],
    "authMethod": "PASSWORD",
}
OPTIONAL: dict[str, Any] = {
    "roleDescription": "Administrator",
    "updatedTimestamp": "2024-03-01T00:00:00.123Z",
    "deactivatedTimestamp": "2024-03-01T00:00:00+02:00",
    "lastLoginTimestamp": "2024-03-01T00:00:00Z",
    "lastPasswordResetTimestamp": "2024-03-01T00:00:00Z",
    "groupIds": ["g1"],
}


def _body(*accounts: dict[str, Any]) -> bytes:
    return json.dumps({"resourceId": "r", "resources": accounts}).encode()


def _problem(raw: bytes) -> str:
    with pytest.raises(BodyError) as refused:
        parse_accounts(raw)
    return str(refused.value)


@pytest.mark.parametrize(
    "accounts", [[], [GOOD], [GOOD | OPTIONAL], [GOOD, GOOD | {"uniqueId": "2", "mfaMethods": []}]]
)
def test_good_bodies_are_taken_as_they_are(accounts: list[dict[str, Any]]) -> None:
    assert parse_accounts(_body(*accounts))["resources"] == accounts


@pytest.mark.parametrize("field", GOOD)
def test_a_missing_required_field_is_named_with_its_index(field: str) -> None:
    broken = {k: v for k, v in GOOD.items() if k != field}
    assert _problem(_body(GOOD | {"uniqueId": "0"}, broken)).startswith(f"resources[1].{field}: Field required")


@pytest.mark.parametrize("field", GOOD | OPTIONAL)
def test_null_is_refused_everywhere(field: str) -> None:
    assert _problem(_body(GOOD | {field: None})).startswith(f"resources[0].{field}: ")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("customProperties", {}),
        ("sourceId", "t"),
        ("displayName", ""),
        ("displayName", "  "),
        ("displayName", 7),
        ("uniqueId", 7),
        ("externalUrl", "http://app.example.com/"),
        ("externalUrl", "https://"),
        ("externalUrl", "https://app.example.com/a b"),
        ("externalUrl", "https://[bad"),
        ("email", "ada"),
        ("email", "ada@example"),
        ("email", "ada@@example.com"),
        ("email", " ada@example.com"),
        ("permissionLevel", "OWNER"),
        ("permissionLevel", "admin"),
        ("status", "SUSPENDED"),
        ("authMethod", "SLACK"),
        ("mfaMethods[0]", ["TOTP"]),
        ("mfaMethods", "OTP"),
        ("mfaEnabled", "true"),
        ("mfaEnabled", 1),
        ("createdTimestamp", "2024-02-30T00:00:00Z"),
        ("createdTimestamp", "2024-02-28T00:00:00"),
        ("createdTimestamp", "2024-02-28 00:00:00Z"),
        ("createdTimestamp", "2024-02-28"),
        ("createdTimestamp", 1709164800),
        ("lastLoginTimestamp", ""),
        ("groupIds[0]", [""]),
        ("groupIds[0]", [1]),
    ],
)
def test_a_wrong_value_is_refused(field: str, value: object) -> None:
    broken = GOOD | {field.partition("[")[0]: value}
    accounts = [GOOD | {"uniqueId": str(n)} for n in range(10, 13)]
    assert _problem(_body(*accounts, broken)).startswith(f"resources[3].{field}: ")


def test_only_the_first_problem_is_told() -> None:
    problem = _problem(_body(GOOD, GOOD | {"email": "x", "uniqueId": "2"}, {}))
    assert problem.startswith("resources[1].email: ")
    assert "resources[2]" not in problem


def test_a_value_never_stands_in_the_error() -> None:
    assert "ada.at.example" not in _problem(_body(GOOD | {"email": "ada.at.example"}))


def test_a_second_record_of_one_person_is_refused() -> None:
    assert _problem(_body(GOOD, GOOD | {"uniqueId": "2"}, GOOD)) == "resources[2].uniqueId: is a duplicate"


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        (b"", "Invalid JSON"),
        (b"[]", "Input should be an object"),
        (b'{"resources": []}', "resourceId: "),
        (b'{"resourceId": "r"}', "resources: "),
        (b'{"resourceId": "", "resources": []}', "resourceId: "),
        (b'{"resourceId": "r", "resources": null}', "resources: "),
        (b'{"resourceId": "r", "resources": {}}', "resources: "),
        (b'{"resourceId": "r", "resources": [1]}', "resources[0]: "),
        (b'{"resourceId": "r", "resources": [], "sourceId": "t"}', "sourceId: "),
    ],
)
def test_the_body_is_exactly_two_keys(raw: bytes, where: str) -> None:
    assert _problem(raw).startswith(where)
