"""What may be said about accounts without naming anybody: numbers and unique ids.

Belongs here: figures for metadata and warnings. Does not belong here: anything that holds up a push.
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Final

import pandas as pd

from symvanta_pipeline.accounts.mapping import (
    AUTH0,
    AUTH_METHOD_BY_LOGIN,
    PERMISSION_LEVEL_BY_TYPE,
    ROLE_DESCRIPTION_BY_TYPE,
    SLACK,
)
from symvanta_pipeline.accounts.schema import STATUSES, Accounts
from symvanta_pipeline.accounts.state import COLUMNS, states_of

# Every value that the mapping gives, so that a figure that is nought is a figure too.
COUNTED: Final[Mapping[str, tuple[str, ...]]] = {
    "type": tuple(ROLE_DESCRIPTION_BY_TYPE),
    "status": STATUSES,
    "level": tuple(dict.fromkeys(PERMISSION_LEVEL_BY_TYPE.values())),
    "login": tuple(dict.fromkeys(AUTH_METHOD_BY_LOGIN.values())),
    "mfa": ("on", "off", "unknown", "sso"),
}
SERVICES: Final = (AUTH0, SLACK)
_TYPE_BY_DESCRIPTION: Final = {description: type_ for type_, description in ROLE_DESCRIPTION_BY_TYPE.items()}


def counts(accounts: Accounts) -> dict[str, dict[str, int]]:
    """Count accounts by Sym's user type and by what is remembered of them.

    Args:
        accounts: such as `symvanta_pipeline.accounts.schema.violations` finds nothing wrong with.

    Returns:
        For each of `COUNTED`, how many accounts have each of its values, in that order; 0 where none has.
    """
    states = states_of(accounts)
    columns = {"type": accounts.frame["roleDescription"].map(_TYPE_BY_DESCRIPTION), **{c: states[c] for c in COLUMNS}}
    return {name: _counted(columns[name], values) for name, values in COUNTED.items()}


def identities(rows: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Count the identities of what was read by where they are, of the services that are known; 0 where none is."""
    return {"identity": _counted(rows["service"], SERVICES)}


def deactivated_at(accounts: Accounts, unique_ids: Collection[str]) -> list[datetime]:
    """Return when these accounts were deactivated in Sym, to the second, in UTC; who is not is left out."""
    asked = accounts.frame["uniqueId"].isin(list(unique_ids))
    return [datetime.fromisoformat(text) for text in accounts.frame.loc[asked, "deactivatedTimestamp"].dropna()]


def shared_emails(accounts: Accounts) -> list[tuple[str, ...]]:
    """List the groups of ``uniqueId`` that have one e-mail address, whatever its case and the blanks around it.

    Both are sent all the same; Vanta will show them as one person. Groups and their members are in sorted order.
    """
    address = accounts.frame["email"].str.strip().str.casefold()
    shared = accounts.frame.loc[address.duplicated(keep=False) & address.notna(), "uniqueId"]
    return sorted(tuple(sorted(group)) for _, group in shared.groupby(address))


def _counted(values: "pd.Series[str]", known: Collection[str]) -> dict[str, int]:
    found = values.value_counts()
    return {value: int(found.get(value, 0)) for value in known}
