"""What a user account is to Vanta, and the last gate before one is sent.

Belongs here: Vanta's field names and enumerations, and the check that a frame of accounts holds nothing that Vanta
would refuse. Does not belong here: where the values come from (`mapping`), or how they are written down (`body`).

Source of every rule: Vanta's OpenAPI "Build integrations" 0.0.1, schema UserAccount. Vanta refuses the whole body
for one bad record, so a frame passes this gate whole or not at all.
"""

from dataclasses import dataclass, field
from typing import Final

import pandas as pd

from symvanta_pipeline.rules import Violation

PERMISSION_LEVELS: Final = ("ADMIN", "EDITOR", "BASE")
STATUSES: Final = ("ACTIVE", "DEACTIVATED")
AUTH_METHODS: Final = ("SSO", "PASSWORD", "TOKEN", "BIOMETRIC")
MFA_METHODS: Final = ("UNSUPPORTED", "DISABLED", "SMS", "EMAIL", "OTP", "HARDWARE_TOKEN", "PUSH_PROMPT")

ENUMERATIONS: Final = {
    "permissionLevel": PERMISSION_LEVELS,
    "status": STATUSES,
    "authMethod": AUTH_METHODS,
}
TIMESTAMPS: Final = (
    "createdTimestamp",
    "updatedTimestamp",
    "deactivatedTimestamp",
    "lastLoginTimestamp",
    "lastPasswordResetTimestamp",
)
OPTIONAL: Final = frozenset(TIMESTAMPS[1:])
# Every field that is sent, in the order in which a record shows them. Text but for the last two.
TEXT_FIELDS: Final = (
    "uniqueId",
    "displayName",
    "fullName",
    "accountName",
    "email",
    "externalUrl",
    "permissionLevel",
    "roleDescription",
    "status",
    *TIMESTAMPS,
    "authMethod",
)
FIELDS: Final = (*TEXT_FIELDS, "mfaMethods", "mfaEnabled")
# Written explicitly, since pandas would infer `object` for a column of nothing but missing values.
DTYPES: Final = dict.fromkeys(TEXT_FIELDS, "str") | {"mfaMethods": "object", "mfaEnabled": "bool"}

_HTTPS_URL: Final = r"https://[^\s/?#@]+(?:/\S*)?"
_RFC3339_LENGTH: Final = len("2000-01-31T00:00:00Z")


@dataclass(frozen=True)
class Accounts:
    """All accounts of one organization, as Vanta would see them.

    Attributes:
        organization_id: whose accounts these are; a body can be built for this organization only.
        frame: a row a user, sorted by ``uniqueId``; columns `FIELDS`, dtypes `DTYPES`: ``str`` with NaN for an
            optional value that is left out, ``bool`` for ``mfaEnabled``, and tuples of `MFA_METHODS` for
            ``mfaMethods``.
    """

    organization_id: str
    frame: pd.DataFrame = field(repr=False, compare=False)


def violations(accounts: Accounts) -> list[Violation]:
    """List everything in the accounts that Vanta would refuse; an empty list means that they can be sent.

    Rules: ``nobody`` (no accounts: Vanta would delete everyone), ``fields`` (a column is missing, unknown or of
    another dtype), ``required``, ``enumeration``, ``timestamp``, ``external_url``, ``unique_id``, ``mfa_methods``.
    """
    frame = accounts.frame
    wrong = [Violation("fields", column, len(frame)) for column in _wrong_fields(frame)]
    if wrong:
        return wrong
    if frame.empty:
        return [Violation("nobody", "uniqueId", 0)]
    return [
        Violation.of(rule, column, frame.loc[broken, "uniqueId"].fillna(""))
        for rule, column, broken in _checks(frame)
        if broken.any()
    ]


def _wrong_fields(frame: pd.DataFrame) -> list[str]:
    """Name the columns that are missing, unknown, doubled or of another dtype."""
    found = {(str(name), str(dtype)) for name, dtype in frame.dtypes.items()}
    doubled = frame.columns[frame.columns.duplicated()]
    return sorted({name for name, _ in found ^ set(DTYPES.items())} | set(map(str, doubled)))


def _checks(frame: pd.DataFrame) -> list[tuple[str, str, "pd.Series[bool]"]]:
    """Return rule, column and the rows that break it, for every rule."""
    required = [name for name in TEXT_FIELDS if name not in OPTIONAL]
    return [
        *(("required", name, frame[name].str.strip().fillna("") == "") for name in required),
        *(("enumeration", name, ~frame[name].isin(values)) for name, values in ENUMERATIONS.items()),
        *(("timestamp", name, _not_rfc3339(frame[name])) for name in TIMESTAMPS),
        ("external_url", "externalUrl", ~frame["externalUrl"].str.fullmatch(_HTTPS_URL).astype(bool)),
        ("unique_id", "uniqueId", frame["uniqueId"].duplicated(keep=False)),
        ("mfa_methods", "mfaMethods", ~frame["mfaMethods"].map(_are_mfa_methods).astype(bool)),
    ]


def _not_rfc3339(texts: "pd.Series[str]") -> "pd.Series[bool]":
    """Find what is neither missing nor a UTC time in whole seconds."""
    moments = pd.to_datetime(texts, format="%Y-%m-%dT%H:%M:%SZ", errors="coerce")
    # The format alone would let "2000-1-31T0:0:0Z" through.
    return texts.notna() & (moments.isna() | (texts.str.len() != _RFC3339_LENGTH))


def _are_mfa_methods(methods: object) -> bool:
    """Whether this is a tuple of Vanta's values, none of them twice."""
    return (
        isinstance(methods, tuple)
        and all(method in MFA_METHODS for method in methods)
        and len(set(methods)) == len(methods)
    )
