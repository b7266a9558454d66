"""What may be said about accounts without naming anybody: numbers and unique ids.

Belongs here: figures for metadata and warnings. Does not belong here: anything that holds up a push.
"""

from collections.abc import Hashable
from typing import Final

from symvanta_pipeline.accounts.schema import Accounts

COUNTED: Final = ("roleDescription", "status", "permissionLevel", "authMethod", "mfaEnabled")


def counts(accounts: Accounts) -> dict[str, dict[str, int]]:
    """Count the accounts by role, status, permission level, authentication method and MFA.

    Returns:
        For each of `COUNTED` the values that occur, in sorted order, each with its number of accounts; the values of
        ``mfaEnabled`` are ``false`` and ``true``.
    """
    return {
        column: {_word(value): int(n) for value, n in accounts.frame[column].value_counts().sort_index().items()}
        for column in COUNTED
    }


def shared_emails(accounts: Accounts) -> list[tuple[str, ...]]:
    """List the groups of ``uniqueId`` that have one e-mail address, whatever its case and the blanks around it.

    Both are sent all the same; Vanta will show them as one person. Groups and their members are in sorted order.
    """
    address = accounts.frame["email"].str.strip().str.casefold()
    shared = accounts.frame.loc[address.duplicated(keep=False) & address.notna(), "uniqueId"]
    return sorted(tuple(sorted(group)) for _, group in shared.groupby(address))


def _word(value: Hashable) -> str:
    """Write a value as it stands in JSON."""
    return str(value).lower() if isinstance(value, bool) else str(value)
