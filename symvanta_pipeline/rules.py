"""The vocabulary of broken rules, shared by those who check (sym, accounts) and those who tell (sync, cli).

Belongs here: what a broken rule is, and whom it names, in words safe to log. Does not belong here: any rule.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from uuid import UUID

SHOWN_IDS = 5


def shown_id(unique_id: str) -> str:
    """Return an id that somebody else chose as it is if it is a UUID, else its hash: it may be an e-mail address."""
    try:
        UUID(unique_id)
    except ValueError:
        return f"sha256:{sha256(unique_id.encode()).hexdigest()[:16]}"
    return unique_id


@dataclass(frozen=True)
class Violation:
    """One rule that some records of one customer break.

    Attributes:
        rule: the rule's name, e.g. ``email``.
        column: the column it looks at.
        count: how many users (or rows, where no user can be named) break it.
        unique_ids: up to five ``users.id`` of those who do. Never a name, never an e-mail address.
    """

    rule: str
    column: str
    count: int
    unique_ids: tuple[str, ...] = ()

    @classmethod
    def of(cls, rule: str, column: str, ids: Iterable[object]) -> "Violation":
        """Build one from everybody who breaks the rule; counts all, keeps the first five in sorted order."""
        distinct = sorted({str(i) for i in ids})
        return cls(rule, column, len(distinct), tuple(distinct[:SHOWN_IDS]))

    def __str__(self) -> str:
        """Say rule, count, column and whom, without any personal data."""
        who = f": {', '.join(self.unique_ids)}" if self.unique_ids else ""
        more = ", ..." if self.count > len(self.unique_ids) > 0 else ""
        return f"rule {self.rule} ({self.column}) broken by {self.count}{who}{more}"


class RulesBroken(Exception):
    """The records of one customer cannot be sent as they are; nothing was sent and nobody was left out."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(str(v) for v in self.violations))
