"""What a check says.

Belongs here: its form. Does not belong here: any check.
"""

from dataclasses import dataclass
from typing import Final, Literal

State = Literal["ok", "warn", "fail", "skipped"]
SHOWN_NAMES: Final = 5


@dataclass(frozen=True)
class Verdict:
    """One check's result; holds no secret, no database's URL and nobody's address.

    Attributes:
        state: ``ok``; ``warn``: works, and somebody should look; ``fail``: something does not work; ``skipped``: could
            not be looked at.
        detail: what was found.
        do: what to do about it; blank where nothing has to be done.
    """

    state: State
    detail: str
    do: str = ""


def ok(detail: str) -> Verdict:
    """Say that all is well."""
    return Verdict("ok", detail)


def warn(detail: str, do: str) -> Verdict:
    """Say that somebody should look."""
    return Verdict("warn", detail, do)


def fail(detail: str, do: str) -> Verdict:
    """Say that something does not work."""
    return Verdict("fail", detail, do)


def skipped(detail: str) -> Verdict:
    """Say why nothing was looked at."""
    return Verdict("skipped", detail)


def named(names: list[str]) -> str:
    """List the first few names, and say how many there are in all."""
    shown = ", ".join(names[:SHOWN_NAMES])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > SHOWN_NAMES else shown


def number(count: int, noun: str) -> str:
    """Count things in words: ``1 token``, ``2 tokens``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
