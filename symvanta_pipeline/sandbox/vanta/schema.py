"""What the API accepts: every field of every body, and the words in which the first wrong one is named.

Belongs here: shapes. Does not belong here: whether a token, a code or a resource id is a known one.

Source: Vanta's reference of ``UserAccount`` and of its OAuth endpoints. That a missing key, an unknown key or a wrong
enum value refuses the whole body was seen on the live API; the shapes of strings are a strict reading of the reference.
"""

import re
from datetime import datetime
from typing import Annotated, Literal, NotRequired, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, WithJsonSchema, with_config
from typing_extensions import TypedDict  # pydantic needs this one below Python 3.12

_STRICT = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)
_RFC3339 = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})")


class BodyError(ValueError):
    """A body that is refused as a whole.

    Attributes:
        kind: pydantic's error type, e.g. ``union_tag_invalid``.
    """

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


def _https(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme != "https" or not parts.hostname or re.search(r"\s", value):
        raise ValueError("must be an https URL")
    return value


def _rfc3339(value: str) -> str:
    if not _RFC3339.fullmatch(value):
        raise ValueError("must be an RFC 3339 timestamp")
    datetime.fromisoformat(value)
    return value


Text = Annotated[str, Field(min_length=1, pattern=r"\S")]
Email = Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s.]+(\.[^@\s.]+)+$")]
HttpsUrl = Annotated[
    str,
    AfterValidator(_https),
    WithJsonSchema({"type": "string", "format": "uri", "pattern": "^https://[^/\\s]+"}),
]
Timestamp = Annotated[str, AfterValidator(_rfc3339), WithJsonSchema({"type": "string", "format": "date-time"})]
MfaMethod = Literal["UNSUPPORTED", "DISABLED", "SMS", "EMAIL", "OTP", "HARDWARE_TOKEN", "PUSH_PROMPT"]


@with_config(_STRICT)
class UserAccount(TypedDict):
    """One account as Vanta takes it."""

    displayName: Text
    uniqueId: Text
    externalUrl: HttpsUrl
    fullName: Text
    accountName: Text
    email: Email
    permissionLevel: Literal["ADMIN", "EDITOR", "BASE"]
    createdTimestamp: Timestamp
    status: Literal["ACTIVE", "DEACTIVATED"]
    mfaEnabled: bool
    mfaMethods: list[MfaMethod]
    authMethod: Literal["SSO", "PASSWORD", "TOKEN", "BIOMETRIC"]
    roleDescription: NotRequired[Text]
    updatedTimestamp: NotRequired[Timestamp]
    deactivatedTimestamp: NotRequired[Timestamp]
    lastLoginTimestamp: NotRequired[Timestamp]
    lastPasswordResetTimestamp: NotRequired[Timestamp]
    groupIds: NotRequired[list[Text]]


@with_config(_STRICT)
class UserAccounts(TypedDict):
    """The whole body of a PUT."""

    resourceId: Text
    resources: list[UserAccount]


@with_config(_STRICT)
class CodeExchange(TypedDict):
    """A token request with an authorization code; ``source_id`` is mandatory."""

    grant_type: Literal["authorization_code"]
    client_id: Text
    client_secret: Text
    code: Text
    redirect_uri: Text
    source_id: Text


@with_config(_STRICT)
class Refresh(TypedDict):
    """A token request with a refresh token."""

    grant_type: Literal["refresh_token"]
    client_id: Text
    client_secret: Text
    refresh_token: Text


@with_config(_STRICT)
class ClientCredentials(TypedDict):
    """A token request of a private application, for its own tenant."""

    grant_type: Literal["client_credentials"]
    client_id: Text
    client_secret: Text
    scope: Text


@with_config(_STRICT)
class Suspend(TypedDict):
    """A request to end a customer's authorization."""

    token: Text
    client_id: Text
    client_secret: Text


TokenRequest = Annotated[CodeExchange | Refresh | ClientCredentials, Field(discriminator="grant_type")]
TOKEN_REQUEST: TypeAdapter[CodeExchange | Refresh | ClientCredentials] = TypeAdapter(TokenRequest)
SUSPEND: TypeAdapter[Suspend] = TypeAdapter(Suspend)
USER_ACCOUNTS: TypeAdapter[UserAccounts] = TypeAdapter(UserAccounts)
_Body = TypeVar("_Body")


def parse(adapter: TypeAdapter[_Body], raw: bytes) -> _Body:
    """Check a JSON body against a shape.

    Raises:
        BodyError: naming the first wrong field and its element's index, e.g. ``resources[3].email: ...``.
    """
    try:
        return adapter.validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = _path(first["loc"])
        raise BodyError(f"{where}: {first['msg']}" if where else first["msg"], first["type"]) from None


def parse_accounts(raw: bytes) -> UserAccounts:
    """Check the whole body of a PUT, duplicates included.

    Raises:
        BodyError: as ``parse`` does, and for the first element whose ``uniqueId`` came before.
    """
    body = parse(USER_ACCOUNTS, raw)
    seen: set[str] = set()
    for index, account in enumerate(body["resources"]):
        if account["uniqueId"] in seen:
            raise BodyError(f"resources[{index}].uniqueId: is a duplicate", "duplicate")
        seen.add(account["uniqueId"])
    return body


def _path(loc: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")
