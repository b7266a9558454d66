"""The bytes of the PUT."""

from dataclasses import replace
from hashlib import sha256

import pandas as pd
import pytest

from symvanta_pipeline.accounts.body import Body, build
from symvanta_pipeline.accounts.schema import DTYPES, Accounts

ORGANIZATION = "organization-1"
RECORDS = [
    {
        "uniqueId": "2",
        "displayName": "\u5f20\u4f1f \U0001f469\u200d\U0001f4bb",
        "fullName": 'Quote " and \\ and \u2028',
        "accountName": "two@acme.example",
        "email": "two@acme.example",
        "externalUrl": "https://app.symops.com/orgs/acme/users/2",
        "permissionLevel": "ADMIN",
        "roleDescription": "Sym admin",
        "status": "ACTIVE",
        "createdTimestamp": "2026-11-23T00:00:00Z",
        "authMethod": "PASSWORD",
        "mfaMethods": ("SMS", "OTP"),
        "mfaEnabled": True,
    },
    {
        "uniqueId": "10",
        "displayName": "ten",
        "fullName": "ten",
        "accountName": "ten@acme.example",
        "email": "ten@acme.example",
        "externalUrl": "https://app.symops.com/orgs/acme/users/10",
        "permissionLevel": "BASE",
        "roleDescription": "Sym guest",
        "status": "DEACTIVATED",
        "createdTimestamp": "2026-11-23T00:00:00Z",
        "deactivatedTimestamp": "2026-11-24T00:00:00Z",
        "authMethod": "SSO",
        "mfaMethods": (),
        "mfaEnabled": False,
    },
]
PAYLOAD = (
    '{"resourceId":"resource-1","resources":['
    '{"uniqueId":"10","displayName":"ten","fullName":"ten","accountName":"ten@acme.example",'
    '"email":"ten@acme.example","externalUrl":"https://app.symops.com/orgs/acme/users/10",'
    '"permissionLevel":"BASE","roleDescription":"Sym guest","status":"DEACTIVATED",'
    '"createdTimestamp":"2026-11-23T00:00:00Z","deactivatedTimestamp":"2026-11-24T00:00:00Z",'
    '"authMethod":"SSO","mfaMethods":[],"mfaEnabled":false},'
    '{"uniqueId":"2","displayName":"\u5f20\u4f1f \U0001f469\u200d\U0001f4bb",'
    '"fullName":"Quote \\" and \\\\ and \u2028","accountName":"two@acme.example",'
    '"email":"two@acme.example","externalUrl":"https://app.symops.com/orgs/acme/users/2",'
    '"permissionLevel":"ADMIN","roleDescription":"Sym admin","status":"ACTIVE",'
    '"createdTimestamp":"2026-11-23T00:00:00Z",'
    '"authMethod":"PASSWORD","mfaMethods":["SMS","OTP"],"mfaEnabled":true}]}'
).encode()


def accounts() -> Accounts:
    return Accounts(ORGANIZATION, pd.DataFrame(RECORDS).reindex(columns=list(DTYPES)).astype(DTYPES))


def built() -> Body:
    return build(accounts(), organization_id=ORGANIZATION, resource_id="resource-1")


def test_the_body_is_these_bytes() -> None:
    assert built() == Body(
        organization_id=ORGANIZATION,
        resource_id="resource-1",
        payload=PAYLOAD,
        sha256=sha256(PAYLOAD).hexdigest(),
        count=2,
        active=1,
        deactivated=1,
    )


def test_the_order_of_rows_and_columns_does_not_matter() -> None:
    frame = accounts().frame
    shuffled = replace(accounts(), frame=frame.iloc[::-1][list(reversed(DTYPES))])
    assert build(shuffled, organization_id=ORGANIZATION, resource_id="resource-1") == built()


def test_another_organization_gets_no_body() -> None:
    with pytest.raises(ValueError, match="another organization's"):
        build(accounts(), organization_id="organization-2", resource_id="resource-1")


@pytest.mark.parametrize("resource_id", ["", " "])
def test_a_body_needs_a_resource_id(resource_id: str) -> None:
    with pytest.raises(ValueError, match="resource id"):
        build(accounts(), organization_id=ORGANIZATION, resource_id=resource_id)


def test_nobody_is_named_in_what_is_shown() -> None:
    shown = f"{built()!r} {built()} {accounts()!r} {accounts()}"
    assert not any(value in shown for value in ("ten@", "two@", "Quote", "\u5f20\u4f1f"))
