"""What is remembered of accounts."""

import json
from typing import Any

import pandas as pd
import pytest

from symvanta_pipeline.accounts.schema import DTYPES, Accounts
from symvanta_pipeline.accounts.state import COLUMNS, from_json, no_states, states_of, to_json

CANARY = "canary@person.example"


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
        "createdTimestamp": "2026-11-23T00:00:00Z",
        "authMethod": "SSO",
        "mfaMethods": (),
        "mfaEnabled": False,
    }
    return plain | columns


def accounts(*rows: dict[str, Any]) -> Accounts:
    frame = pd.DataFrame(list(rows), columns=list(DTYPES)).astype(DTYPES)
    return Accounts("organization-1", frame)


ON = account("on", authMethod="PASSWORD", mfaMethods=("OTP",), mfaEnabled=True, permissionLevel="ADMIN")
OFF = account("off", authMethod="PASSWORD", mfaMethods=("DISABLED",), status="DEACTIVATED")
UNKNOWN = account("unknown", authMethod="PASSWORD")
SSO = account("sso")
SSO_WITH_FACTORS = account("sso-with-factors", mfaMethods=("DISABLED",), mfaEnabled=True)
ROWS = [
    ["off", "DEACTIVATED", "BASE", "PASSWORD", "off"],
    ["on", "ACTIVE", "ADMIN", "PASSWORD", "on"],
    ["sso", "ACTIVE", "BASE", "SSO", "sso"],
    ["sso-with-factors", "ACTIVE", "BASE", "SSO", "sso"],
    ["unknown", "ACTIVE", "BASE", "PASSWORD", "unknown"],
]


def test_each_kind_of_account_has_its_state() -> None:
    assert to_json(states_of(accounts(ON, OFF, UNKNOWN, SSO, SSO_WITH_FACTORS))) == ROWS


@pytest.mark.parametrize(
    "states",
    [
        states_of(accounts(ON, OFF)),
        states_of(accounts()),
        from_json(ROWS),
        from_json([]),
        no_states(),
    ],
)
def test_states_have_one_form(states: pd.DataFrame) -> None:
    assert tuple(states.columns) == COLUMNS
    assert states.index.name == "unique_id"
    assert {str(dtype) for dtype in (states.index.dtype, *states.dtypes)} == {"str"}
    assert states.index.is_unique
    assert states.index.is_monotonic_increasing


def test_states_survive_being_written_down() -> None:
    states = states_of(accounts(UNKNOWN, SSO, ON))
    pd.testing.assert_frame_equal(from_json(json.loads(json.dumps(to_json(states)))), states)
    assert to_json(no_states()) == []


def test_the_order_of_accounts_and_rows_does_not_matter() -> None:
    states = states_of(accounts(ON, OFF, SSO))
    pd.testing.assert_frame_equal(states_of(accounts(SSO, OFF, ON)), states)
    pd.testing.assert_frame_equal(from_json(to_json(states)[::-1]), states)
    assert to_json(states.iloc[::-1]) == to_json(states)


def test_nobody_is_named() -> None:
    assert CANARY not in json.dumps(to_json(states_of(accounts(ON, SSO))))


@pytest.mark.parametrize(
    "rows",
    [
        [ROWS[0], ROWS[0]],
        [["1", "ACTIVE", "BASE", "SSO"]],
        [ROWS[0], ["1", "ACTIVE", "BASE", "SSO"]],
        [[*ROWS[0], "more"]],
        [["1", "ACTIVE", "BASE", "SSO", None]],
        [[None, "ACTIVE", "BASE", "SSO", "sso"]],
    ],
)
def test_a_state_that_makes_no_sense_is_refused(rows: list[list[str]]) -> None:
    with pytest.raises(ValueError, match=r"."):
        from_json(rows)


@pytest.mark.parametrize("wrong", [[SSO, SSO], [account("1", permissionLevel=None)]])
def test_accounts_that_the_gate_would_refuse_have_no_state(wrong: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=r"state"):
        states_of(accounts(*wrong))
