"""Whether what Vanta lists is what it was sent.

Belongs here: the comparison, and a name and a severity for each way in which the two can differ. Does not belong here:
asking Vanta (`symvanta_pipeline.vanta.client`), when that is worth a slot of the rate budget.

Sources: Vanta documents that whoever is not in the body is soft-deleted (``deletedAt`` is set) and still listed; a set
of accounts under another ``source_id`` stays as it was (fleetdm/fleet #45371).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import pandas as pd

from symvanta_pipeline.rules import SHOWN_IDS

Severity = Literal["error", "warn"]
Verdict = Literal["proved", "contradicted"]

SEVERITIES: Final[dict[str, Severity]] = {
    "missing": "error",  # was sent, and is not there: somebody's access is unknown to the auditor
    "status": "error",  # somebody who left shows as active, or the other way round
    "level": "error",
    "duplicate": "warn",  # one person twice: confusing, not wrong
    "never_sent": "warn",  # somebody from an older connection: only Vanta, or a person there, can remove them
}


@dataclass(frozen=True)
class Listed:
    """One account as Vanta lists it.

    Attributes:
        unique_id: ``uniqueId``, as `symvanta_pipeline.rules.shown_id` gives it.
        status: ``ACTIVE`` or ``DEACTIVATED``.
        level: ``permissionLevel``.
        is_deleted: whether ``deletedAt`` is set.
    """

    unique_id: str
    status: str
    level: str
    is_deleted: bool


@dataclass(frozen=True)
class Finding:
    """One way in which the list differs from what was sent.

    Attributes:
        name: a key of `SEVERITIES`.
        count: how many accounts.
        unique_ids: some of them, in sorted order.
    """

    name: str
    severity: Severity
    count: int
    unique_ids: tuple[str, ...]

    def __str__(self) -> str:
        more = f" and {self.count - len(self.unique_ids)} more" if self.count > len(self.unique_ids) else ""
        return f"{self.name}: {self.count} ({', '.join(self.unique_ids)}{more})"


@dataclass(frozen=True)
class Proof:
    """What the read-back showed; only a finding of severity ``error`` contradicts."""

    verdict: Verdict
    findings: tuple[Finding, ...]


def prove(sent: pd.DataFrame, listed: Sequence[Listed]) -> Proof:
    """Compare what was sent with what Vanta lists.

    Args:
        sent: index ``unique_id``; columns ``status`` and ``level``, as `symvanta_pipeline.accounts.state.states_of`
            returns them.
        listed: every account of the customer's that Vanta has, soft-deleted ones included.
    """
    alive = [account for account in listed if not account.is_deleted]
    status, level = dict(sent["status"]), dict(sent["level"])
    known = [account for account in alive if account.unique_id in status]
    differing = {
        "missing": set(status) - {account.unique_id for account in known},
        "status": {account.unique_id for account in known if account.status != status[account.unique_id]},
        "level": {account.unique_id for account in known if account.level != level[account.unique_id]},
        "duplicate": {unique_id for unique_id, n in Counter(a.unique_id for a in alive).items() if n > 1},
        "never_sent": {account.unique_id for account in alive} - set(status),
    }
    findings = tuple(_finding(name, ids) for name, ids in differing.items() if ids)
    contradicted = any(finding.severity == "error" for finding in findings)
    return Proof("contradicted" if contradicted else "proved", findings)


def alive_ids(listed: Iterable[Listed]) -> frozenset[str]:
    """Return the ids that are not soft-deleted."""
    return frozenset(account.unique_id for account in listed if not account.is_deleted)


def _finding(name: str, ids: set[str]) -> Finding:
    return Finding(name, SEVERITIES[name], len(ids), tuple(sorted(ids)[:SHOWN_IDS]))
