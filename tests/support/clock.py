"""A clock that can be set, for what asks PostgreSQL and for this process: a day of hours in a minute.

Belongs here: setting it for both. Does not belong here: what happens at which hour.

PostgreSQL is told another time by libfaketime (Debian's package ``libfaketime``), which it loads when it starts and
which reads a file at each look at the clock; this process by time-machine. Nothing else is: whatever starts
afterwards has the real time.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import time_machine

LIBRARIES = tuple(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


@dataclass(frozen=True)
class Clock:
    """What the clock shows, as its distance from the real time.

    Attributes:
        file: holds the distance in seconds; every process with `environment` follows it at once.
    """

    file: Path

    def __post_init__(self) -> None:
        self._set(0)

    def environment(self) -> Mapping[str, str]:
        """Return what makes a process follow this clock; it must not be Python, whose sleep does not bear it."""
        return {
            "LD_PRELOAD": str(LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    @contextmanager
    def at(self, moment: datetime) -> Iterator[None]:
        """Let both go on from this moment, and come back to the real time."""
        self._set(round((moment - datetime.now(UTC)).total_seconds()))
        try:
            with time_machine.travel(moment, tick=True):
                yield
        finally:
            self._set(0)

    def _set(self, seconds: int) -> None:
        unfinished = self.file.with_suffix(".new")
        unfinished.write_text(f"{seconds:+d}")
        unfinished.replace(self.file)  # nobody may find it empty
