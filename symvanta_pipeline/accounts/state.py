"""What is remembered of the accounts that were sent: a row each, without a name and without an e-mail address.

Belongs here: the few columns that decide about access, and how they are written down for the ledger. Does not belong
here: what changed between two states (`diff`), or whether a change may pass (`brakes`).
"""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import pandas as pd

from symvanta_pipeline.accounts.schema import Accounts

COLUMNS: Final = ("status", "level", "login", "mfa")
INDEX: Final = "unique_id"


def states_of(accounts: Accounts) -> pd.DataFrame:
    """Reduce accounts that `symvanta_pipeline.accounts.schema.violations` finds nothing wrong with to their states.

    Returns:
        A row an account, whatever the order of the accounts. Index ``unique_id`` (str, sorted, unique); columns
        `COLUMNS`, all ``str`` without NaN: ``status`` and ``level`` as Vanta's ``status`` and ``permissionLevel``,
        ``login`` as ``authMethod``, and ``mfa``, which is ``sso`` (Vanta ignores MFA there), ``on``, ``off`` (known to
        have none) or ``unknown``.

    Raises:
        ValueError: a unique id occurs twice, or a value is missing.
    """
    frame = accounts.frame
    disabled = frame["mfaMethods"].map(("DISABLED",).__eq__).astype(bool)
    mfa = np.select([frame["authMethod"] == "SSO", frame["mfaEnabled"], disabled], ["sso", "on", "off"], "unknown")
    return _checked(
        pd.DataFrame(
            {
                INDEX: frame["uniqueId"],
                "status": frame["status"],
                "level": frame["permissionLevel"],
                "login": frame["authMethod"],
                "mfa": mfa,
            }
        )
    )


def no_states() -> pd.DataFrame:
    """Return the states of nobody: no rows, columns and dtypes as `states_of` has them."""
    return from_json([])


def counts_of(states: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Count the accounts by value of each of `COLUMNS`, values in sorted order."""
    return {
        column: {str(value): int(n) for value, n in states[column].value_counts().sort_index().items()}
        for column in COLUMNS
    }


def to_json(states: pd.DataFrame) -> list[list[str]]:
    """Write states down as compact rows ``[unique_id, status, level, login, mfa]``, sorted by unique id."""
    return states.sort_index().reset_index()[[INDEX, *COLUMNS]].to_numpy(dtype=object).tolist()


def from_json(rows: Iterable[Sequence[str]]) -> pd.DataFrame:
    """Read what `to_json` wrote, whatever the order of the rows; columns and dtypes as `states_of` has them.

    Raises:
        ValueError: a row has another length, a unique id occurs twice, or a value is missing.
    """
    whole = [(unique_id, status, level, login, mfa) for unique_id, status, level, login, mfa in rows]
    return _checked(pd.DataFrame(whole, columns=[INDEX, *COLUMNS]))


def _checked(frame: pd.DataFrame) -> pd.DataFrame:
    """Bring a frame with the columns `INDEX` and `COLUMNS` into the form of states."""
    if frame.isna().to_numpy().any():
        raise ValueError("a state has no missing values")
    if frame[INDEX].duplicated().any():
        raise ValueError("an account has one state")
    return frame.astype("str").set_index(INDEX).sort_index()
