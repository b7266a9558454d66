"""The bytes of the PUT: one organization's accounts, written down in the only way there is.

Belongs here: how accounts become the request's body, so that equal states are equal bytes. Does not belong here: what
the accounts say (`mapping`), or sending them.
"""

import json
from dataclasses import dataclass, field
from hashlib import sha256

from symvanta_pipeline.accounts.schema import FIELDS, Accounts, violations
from symvanta_pipeline.rules import RulesBroken


@dataclass(frozen=True)
class Body:
    """The whole body of one PUT, and what is safe to say about it.

    Attributes:
        organization_id: whose accounts these are; to be sent with this organization's token only.
        resource_id: Vanta's id of the resource, as it stands in the payload.
        payload: UTF-8 JSON, ``{"resourceId": ..., "resources": [...]}``.
        sha256: of the payload, in hex; equal states have equal hashes.
        count: how many accounts the payload holds: ``active`` + ``deactivated``.
        active: how many of them have status ``ACTIVE``.
        deactivated: how many of them have status ``DEACTIVATED``.
    """

    organization_id: str
    resource_id: str
    payload: bytes = field(repr=False)
    sha256: str
    count: int
    active: int
    deactivated: int


def build(accounts: Accounts, *, organization_id: str, resource_id: str) -> Body:
    """Write the accounts down: compact, keys and users in one fixed order, missing values left out.

    Args:
        accounts: as `symvanta_pipeline.accounts.mapping.to_accounts` returns them.
        organization_id: the organization that the body is for, from whoever holds its token.
        resource_id: Vanta's id of the UserAccount resource.

    Raises:
        RulesBroken: there are no accounts, or Vanta would refuse one of them.
        ValueError: the accounts are another organization's, or there is no ``resource_id``.
    """
    if accounts.organization_id != organization_id:
        raise ValueError("these accounts are another organization's")
    if not resource_id.strip():
        raise ValueError("a body needs Vanta's resource id")
    broken = violations(accounts)
    if broken:
        raise RulesBroken(broken)
    payload = _encoded({"resourceId": resource_id, "resources": _records(accounts)})
    active = int((accounts.frame["status"] == "ACTIVE").sum())
    count = len(accounts.frame)
    return Body(
        organization_id=organization_id,
        resource_id=resource_id,
        payload=payload,
        sha256=sha256(payload).hexdigest(),
        count=count,
        active=active,
        deactivated=count - active,
    )


def _records(accounts: Accounts) -> list[dict[str, object]]:
    """Return a dict a user, by ``uniqueId``, with the keys that have a value, in the order of `FIELDS`."""
    frame = accounts.frame.sort_values("uniqueId")
    columns = [frame[name].astype(object).where(frame[name].notna(), None).tolist() for name in FIELDS]
    return [
        {name: value for name, value in zip(FIELDS, values, strict=True) if value is not None}
        for values in zip(*columns, strict=True)
    ]


def _encoded(body: dict[str, object]) -> bytes:
    """Encode as compact UTF-8 JSON."""
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
