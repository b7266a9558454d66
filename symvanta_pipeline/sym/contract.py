"""What may be believed of the raw rows, before anything is made of them.

Belongs here: the raw frame's columns and dtypes, and the rules that every row of one organization has to keep. Does
not belong here: reading the rows (`source`), or what Vanta takes (`symvanta_pipeline.accounts.schema`).

A violation names its rule, column, count and up to five ``users.id``. No value of a row leaves this module: pandera's
own messages carry values, so its findings are translated and its messages dropped.
"""

import unicodedata
from collections.abc import Callable
from typing import Final

import pandas as pd
import pandera.pandas as pa
from pandera.errors import SchemaErrors

from symvanta_pipeline.accounts.mapping import AUTH0, MFA_METHOD_BY_FACTOR, PERMISSION_LEVEL_BY_TYPE, SLACK
from symvanta_pipeline.rules import Violation

# The raw frame: a row per user and identity; a user without an identity has one row, with the identity's columns
# missing. `object` is a list of factor names, empty for "none enrolled" and None for "not known".
DTYPES: Final = {
    "organization_id": "str",
    "slug": "str",
    "user_id": "str",
    "type": "str",
    "name": "str",
    "email": "str",
    "created_at": "datetime64[us, UTC]",
    "updated_at": "datetime64[us, UTC]",
    "deactivated_at": "datetime64[us, UTC]",
    "identity_id": "str",
    "service": "str",
    "connection": "str",
    "mfa_factors": "object",
    "last_login_at": "datetime64[us, UTC]",
    "last_password_reset_at": "datetime64[us, UTC]",
}
TIMESTAMPS: Final = tuple(name for name, dtype in DTYPES.items() if dtype.startswith("datetime64"))
USER_COLUMNS: Final = tuple(DTYPES)[: tuple(DTYPES).index("identity_id")]

# RFC 5321's 256 octets of a path, less its two angle brackets.
LONGEST_EMAIL: Final = 254
_LETTERS_MARKS_DIGITS: Final = frozenset({"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Nd"})


def violations(frame: pd.DataFrame, organization_id: str) -> list[Violation]:
    """List every rule that one organization's rows break, in the order of `COLUMN_BY_RULE`; empty means none.

    Rules: ``structure`` (a column is missing, unexpected or of another dtype; nothing else can be looked at then),
    ``nobody`` (no users at all: an empty read is never pushed), ``organization`` (a row of another organization),
    ``slug`` (missing, or several), ``user_id`` (missing), ``duplicate`` (an identity twice, or a user whose own
    columns contradict each other), ``user_type`` and ``service`` (missing or unknown), ``created_at`` (missing),
    ``email`` (missing, or malformed once trimmed), ``no_identity``, ``connection`` (an auth0 identity without one),
    ``mfa_factor`` (unknown, or NULL inside the list). A blank text counts as missing.

    Args:
        frame: columns and dtypes as in `DTYPES`, as `symvanta_pipeline.sym.source.read_users` returns it.
        organization_id: the organization that was asked for.
    """
    rows = frame.reset_index(drop=True)
    misfits = _misfits(rows)
    if misfits:
        return [Violation("structure", column, len(rows)) for column in misfits]
    if rows.empty:
        return [Violation("nobody", "user_id", 0)]
    broken = _broken(rows)
    broken["organization"] = rows["organization_id"] != organization_id
    return [
        _violation(rule, column, rows.loc[broken[rule], "user_id"])
        for rule, column in COLUMN_BY_RULE.items()
        if rule in broken and broken[rule].any()
    ]


def is_email(address: str) -> bool:
    """Whether a trimmed text has the form of an e-mail address that can be sent.

    Exactly one ``@``, something visible before it, and behind it two or more labels of letters, digits and inner
    hyphens, in any script; no blank, control or invisible character; at most 254 characters.
    """
    local, at, domain = address.rpartition("@")
    labels = domain.split(".")
    return bool(
        at
        and local
        and "@" not in local
        and len(address) <= LONGEST_EMAIL
        # Of all blanks the space alone is printable.
        and address.isprintable()
        and " " not in address
        and len(labels) > 1
        and all(map(_is_label, labels))
    )


def _is_label(label: str) -> bool:
    """Whether a domain's label holds letters, digits and inner hyphens only."""
    return label.strip("-") == label != "" and all(
        character == "-" or unicodedata.category(character) in _LETTERS_MARKS_DIGITS for character in label
    )


def _missing(texts: "pd.Series[str]") -> "pd.Series[bool]":
    """Find what is NULL or blank."""
    return texts.str.strip().fillna("") == ""


def _one_slug(rows: pd.DataFrame) -> "pd.Series[bool]":
    return ~_missing(rows["slug"]) & (rows["slug"].nunique() <= 1)


def _once(rows: pd.DataFrame) -> "pd.Series[bool]":
    """Keep each identity once, and each user with one set of columns."""
    users = rows[list(USER_COLUMNS)].drop_duplicates()
    contradicting = users.loc[users["user_id"].duplicated(), "user_id"]
    twice = rows["identity_id"].duplicated(keep=False) & rows["identity_id"].notna()
    bare_twice = rows.duplicated(["user_id", "identity_id"], keep=False)
    return ~(twice | bare_twice | rows["user_id"].isin(contradicting))


def _known_service(rows: pd.DataFrame) -> "pd.Series[bool]":
    return rows["service"].isin([AUTH0, SLACK]) | rows["identity_id"].isna()


def _named_connection(rows: pd.DataFrame) -> "pd.Series[bool]":
    return ~_missing(rows["connection"]) | (rows["service"] != AUTH0)


def _known_factors(rows: pd.DataFrame) -> "pd.Series[bool]":
    return rows["mfa_factors"].isna() | rows["mfa_factors"].map(_are_known).astype(bool)


def _are_known(factors: object) -> bool:
    """Whether this is a list of factors that have a meaning."""
    return isinstance(factors, list) and all(
        isinstance(factor, str) and factor in MFA_METHOD_BY_FACTOR for factor in factors
    )


# Each rule's column, and which rows keep it. The order is that of the report.
_RULES: Final[dict[str, tuple[str, Callable[[pd.DataFrame], "pd.Series[bool]"]]]] = {
    "slug": ("slug", _one_slug),
    "user_id": ("user_id", lambda rows: ~_missing(rows["user_id"])),
    "duplicate": ("identity_id", _once),
    "user_type": ("type", lambda rows: rows["type"].isin(list(PERMISSION_LEVEL_BY_TYPE))),
    "created_at": ("created_at", lambda rows: rows["created_at"].notna()),
    "email": ("email", lambda rows: rows["email"].fillna("").str.strip().map(is_email).astype(bool)),
    "no_identity": ("identity_id", lambda rows: rows["identity_id"].notna()),
    "service": ("service", _known_service),
    "connection": ("connection", _named_connection),
    "mfa_factor": ("mfa_factors", _known_factors),
}
COLUMN_BY_RULE: Final = {"organization": "organization_id"} | {rule: column for rule, (column, _) in _RULES.items()}

# Built once, at import. `ignore_na` would let a row of nothing but missing values keep every rule.
_SCHEMA: Final = pa.DataFrameSchema(
    checks=[pa.Check(keeps, error=rule, ignore_na=False, n_failure_cases=1) for rule, (_, keeps) in _RULES.items()]
)


def _misfits(rows: pd.DataFrame) -> list[str]:
    """Name the columns that are missing, unexpected, doubled or of another dtype.

    Compared by hand: pandera takes any column that holds only text for `str`, and looks at every value to find out.
    """
    found = {(str(name), str(dtype)) for name, dtype in rows.dtypes.items()}
    doubled = rows.columns[rows.columns.duplicated()]
    return sorted({name for name, _ in found ^ set(DTYPES.items())} | set(map(str, doubled)))


def _broken(rows: pd.DataFrame) -> "dict[str, pd.Series[bool]]":
    """Return, for every rule that is broken, the rows that break it."""
    try:
        _SCHEMA.validate(rows, lazy=True)
    except SchemaErrors as errors:
        return {str(failure.check.error): ~failure.check_output for failure in errors.schema_errors}
    return {}


def _violation(rule: str, column: str, users: "pd.Series[str]") -> Violation:
    """Count the users that break a rule, or the rows where none of them has an id."""
    named = users[~_missing(users)]
    return Violation(rule, column, len(users)) if named.empty else Violation.of(rule, column, named)
