"""What a Sym user is to an auditor: raw rows in, Vanta records out.

Belongs here: the tables that translate Sym's words into Vanta's, and nothing that needs a database or a network. Does
not belong here: whether the raw rows can be trusted (`symvanta_pipeline.sym.contract`), or whether Vanta would take
the result (`schema`).

**Which identity speaks for a user: the strongest claim that is true wins.** A user may have several identities. An
Auth0 identity outranks Slack, because it opens Sym itself; among Auth0 ones the password connection outranks the
others, because a password is what an auditor has to ask about. So an admin with a password is ``PASSWORD`` even if
also federated or in Slack, and the MFA factors are those of the password identities. With several password identities
a factor enrolled on any of them counts, and "none enrolled" is said only if it is known of all of them.
"""

from collections.abc import Iterable, Mapping
from itertools import compress
from typing import Final
from urllib.parse import quote, urlsplit

import numpy as np
import pandas as pd

from symvanta_pipeline.accounts.schema import DTYPES, MFA_METHODS, Accounts
from symvanta_pipeline.rules import RulesBroken, Violation

# Only admins can change workflows and reporting, so nobody else may look like an editor.
PERMISSION_LEVEL_BY_TYPE: Final = {"admin": "ADMIN", "member": "BASE", "guest": "BASE"}
ROLE_DESCRIPTION_BY_TYPE: Final = {"admin": "Sym admin", "member": "Sym member", "guest": "Sym guest"}
# Auth0's factor names. A recovery code is a spare key to another factor, not a factor of its own.
MFA_METHOD_BY_FACTOR: Final[dict[str, str | None]] = {
    "otp": "OTP",
    "sms": "SMS",
    "email": "EMAIL",
    "push-notification": "PUSH_PROMPT",
    "webauthn-roaming": "HARDWARE_TOKEN",
    "webauthn-platform": "HARDWARE_TOKEN",
    "recovery-code": None,
}
# Strongest first: the order decides which identity speaks for a user.
AUTH_METHOD_BY_LOGIN: Final = {"password": "PASSWORD", "federated": "SSO", "slack": "SSO"}

AUTH0: Final = "auth0"
SLACK: Final = "slack"
# Auth0's own name of the database connection that every tenant starts with.
PASSWORD_CONNECTION: Final = "Username-Password-Authentication"  # noqa: S105 - a connection's name, no secret


def to_accounts(frame: pd.DataFrame, *, app_url: str) -> Accounts:
    """Map one organization's raw rows to Vanta's records, one a user, whatever the order of the rows.

    Args:
        frame: a row per user and identity, as `symvanta_pipeline.sym.contract` describes and has passed. Timestamps
            may be in any time zone and are cut to whole seconds.
        app_url: base of each account's ``externalUrl``, e.g. ``https://app.symops.com``.

    Returns:
        The accounts, sorted by ``uniqueId``; columns and dtypes as in `Accounts`.

    Raises:
        ValueError: ``app_url`` is not a plain https URL, or the rows are not those of exactly one organization.
        RulesBroken: a value has no translation. Nothing is guessed.
    """
    organization_id, slug = _organization(frame)
    rows = frame.set_index("user_id")
    users = rows.loc[~rows.index.duplicated()].sort_index()
    url = f"{_base(app_url)}/orgs/{quote(slug, safe='')}/users/"
    email = users["email"].str.strip()
    name = users["name"].where(users["name"].str.strip().fillna("") != "", email)
    login = _login(rows)
    mfa = _mfa(rows.loc[login == "password", "mfa_factors"], users.index)
    password_resets = rows["last_password_reset_at"].where(login == "password")
    records = pd.DataFrame(
        {
            "displayName": name,
            "fullName": name,
            "accountName": email,
            "email": email,
            "externalUrl": [url + quote(user_id, safe="") for user_id in users.index],
            "permissionLevel": _translated(users["type"], PERMISSION_LEVEL_BY_TYPE, "user_type"),
            "roleDescription": _translated(users["type"], ROLE_DESCRIPTION_BY_TYPE, "user_type"),
            "status": np.where(users["deactivated_at"].notna(), "DEACTIVATED", "ACTIVE"),
            "createdTimestamp": _rfc3339(users["created_at"]),
            "updatedTimestamp": _rfc3339(users["updated_at"]),
            "deactivatedTimestamp": _rfc3339(users["deactivated_at"]),
            "lastLoginTimestamp": _rfc3339(_latest(rows["last_login_at"])),
            "lastPasswordResetTimestamp": _rfc3339(_latest(password_resets)),
            "authMethod": _strongest(login).map(AUTH_METHOD_BY_LOGIN),
            "mfaMethods": [tuple(compress(MFA_METHODS, held)) for held in mfa.to_numpy()],
            "mfaEnabled": mfa.drop(columns="DISABLED").any(axis="columns"),
        },
        index=users.index,
    )
    return Accounts(organization_id, records.rename_axis("uniqueId").reset_index().astype(DTYPES)[list(DTYPES)])


def _organization(frame: pd.DataFrame) -> tuple[str, str]:
    """Return id and slug of the only organization in the rows."""
    found = frame[["organization_id", "slug"]].drop_duplicates()
    if len(found) != 1:
        raise ValueError(f"accounts belong to one organization, and these rows to {len(found)}")
    organization_id, slug = found.iloc[0]
    return str(organization_id), str(slug)


def _base(app_url: str) -> str:
    """Return the URL without its trailing slash, if a path can be put behind it."""
    parts = urlsplit(app_url)
    if parts.scheme != "https" or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ValueError("the base of externalUrl has to be an https URL without user, query and fragment")
    return app_url.rstrip("/")


def _login(rows: pd.DataFrame) -> "pd.Series[str]":
    """Name what each identity is a login with: a key of `AUTH_METHOD_BY_LOGIN`."""
    auth0 = rows["service"] == AUTH0
    password = rows["connection"] == PASSWORD_CONNECTION
    named = rows["connection"].str.strip().fillna("") != ""
    login = np.select(
        [auth0 & password, auth0 & named, rows["service"] == SLACK], ["password", "federated", "slack"], default=""
    )
    kinds = pd.Series(login, index=rows.index, name="service", dtype="str")
    _refuse_unknown(kinds, AUTH_METHOD_BY_LOGIN, "service")
    return kinds


def _strongest(login: "pd.Series[str]") -> "pd.Series[str]":
    """Return, for each user, the login that outranks the user's others."""
    ranks = {kind: rank for rank, kind in enumerate(AUTH_METHOD_BY_LOGIN)}
    return login.map(ranks).groupby(level=0).min().map(dict(enumerate(AUTH_METHOD_BY_LOGIN)))


def _mfa(factors: "pd.Series[list[str]]", users: "pd.Index[str]") -> pd.DataFrame:
    """Tell which MFA methods each user's password identities have.

    Args:
        factors: of each password identity, indexed by user: a list, or None for "not known".
        users: all users, so that those without a password have a row too.

    Returns:
        One bool column for each of `MFA_METHODS`, a row for each of the users. A row without any True is "not known",
        or a user without a password.
    """
    known = factors.dropna()
    enrolled = known[known.map(len) > 0].explode()
    _refuse_unknown(enrolled, MFA_METHOD_BY_FACTOR, "mfa_factor")
    methods = pd.get_dummies(enrolled.map(MFA_METHOD_BY_FACTOR), dtype=bool).groupby(level=0).any()
    mfa = methods.reindex(index=users, columns=pd.Index(MFA_METHODS), fill_value=False)
    all_known = factors.notna().groupby(level=0).all().reindex(users, fill_value=False)
    return mfa.assign(DISABLED=all_known & ~mfa.any(axis="columns"))


def _latest(moments: "pd.Series[pd.Timestamp]") -> "pd.Series[pd.Timestamp]":
    """Return each user's latest moment, missing where the user has none."""
    return moments.groupby(level=0).max()


def _rfc3339(moments: "pd.Series[pd.Timestamp]") -> "pd.Series[str]":
    """Write moments as RFC 3339 in UTC, the fraction of the second cut off; missing stays missing."""
    seconds = moments.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy("datetime64[s]")
    # numpy pads years before 1000 to four digits, which strftime does not everywhere.
    texts = pd.Series(np.datetime_as_string(seconds), index=moments.index, dtype="str") + "Z"
    return texts.where(moments.notna())


def _translated(words: "pd.Series[str]", table: Mapping[str, str], rule: str) -> "pd.Series[str]":
    """Translate every word by the table."""
    _refuse_unknown(words, table, rule)
    return words.map(table)


def _refuse_unknown(words: "pd.Series", table: Iterable[str], rule: str) -> None:
    """Raise `RulesBroken` with the users whose words are not in the table."""
    unknown = ~words.isin(list(table))
    if unknown.any():
        raise RulesBroken([Violation.of(rule, str(words.name), words.index[unknown])])
