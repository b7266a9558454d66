"""The rate budget: how many requests may leave for Vanta a minute, over all processes and machines together.

Belongs here: reserving a time, letting a request go, pausing everybody after a 429.
Does not belong here: HTTP, reading ``Retry-After``, the table itself (the ledger's migrations create ``rate_budgets``).

Vanta documents 5 requests a minute at the token endpoint and 20 at the resource endpoints, not per whom; the worst
reading, per application, is assumed. A budget is one row in PostgreSQL, and its clock is PostgreSQL's. It is used in
two steps: ``take`` reserves the next time and waits for it, so that those who come first are served first; ``spend``,
immediately before the request, lets it go only if no more than the budget went in the window up to now. The bound
thus holds whatever happened between the two, and a reservation that nobody uses costs no more than its time.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any

import psycopg

from symvanta_pipeline.settings import VantaApiSettings

# Vanta counts requests as they arrive: half a second covers what the network adds to one and not to another.
WINDOW = timedelta(seconds=60.5)

# How often a waiter looks whether a pause voided its reservation.
_LOOK_EVERY = 5.0
_SHORTEST_SLEEP = 0.005
# A reservation that was within max_wait stays so, although asking for it took a moment.
_GRACE = 0.25

# NULLs (no pause yet, fewer than N times yet) do not count in greatest().
_EARLIEST = """greatest(clock_timestamp(), held.paused_until, held.slots[cardinality(held.slots)],
    held.slots[cardinality(held.slots) - %(n)s + 1] + %(window)s,
    held.spent[cardinality(held.spent) - %(n)s + 1] + %(window)s)"""

# One statement: reserves the next time unless it is too far off, and returns nothing then.
_RESERVE = f"""
INSERT INTO rate_budgets AS held (name, slots) VALUES (%(name)s, ARRAY[clock_timestamp()])
ON CONFLICT (name) DO UPDATE
SET slots = (held.slots || {_EARLIEST})[greatest(1, cardinality(held.slots) - %(n)s + 2):]
WHERE %(max_wait)s::float8 IS NULL
   OR {_EARLIEST} <= clock_timestamp() + make_interval(secs => %(max_wait)s::float8)
RETURNING slots[cardinality(slots)], pauses,
    extract(epoch FROM slots[cardinality(slots)] - clock_timestamp())::float8
"""  # noqa: S608 - constants of this module

# Lets a request go only where nothing speaks against it at this very moment, under the row's lock.
_SPEND = """
UPDATE rate_budgets AS held
SET spent = (spent || clock_timestamp())[greatest(1, cardinality(spent) - %(n)s + 2):]
WHERE name = %(name)s AND pauses = %(pauses)s
  AND clock_timestamp() >= greatest(%(at)s, paused_until, spent[cardinality(spent) - %(n)s + 1] + %(window)s)
RETURNING true
"""

_LOOK = """
SELECT pauses = %(pauses)s, extract(epoch FROM
    greatest(%(at)s, paused_until, spent[cardinality(spent) - %(n)s + 1] + %(window)s) - clock_timestamp())::float8
FROM rate_budgets WHERE name = %(name)s
"""

_EARLIEST_WAIT = f"""
SELECT extract(epoch FROM {_EARLIEST} - clock_timestamp())::float8 FROM rate_budgets AS held WHERE name = %(name)s
"""  # noqa: S608 - constants of this module

_SPARE = """
SELECT CASE WHEN paused_until > clock_timestamp() THEN 0
    ELSE %(n)s - (SELECT count(*) FROM unnest(slots) AS slot WHERE slot > clock_timestamp() - %(window)s) END
FROM rate_budgets WHERE name = %(name)s
"""

# Times to come are dropped: whoever reserved them sees the counter and reserves again.
_PAUSE = """
INSERT INTO rate_budgets AS held (name, paused_until, pauses)
VALUES (%(name)s, clock_timestamp() + make_interval(secs => %(seconds)s::float8), 1)
ON CONFLICT (name) DO UPDATE
SET paused_until = greatest(held.paused_until, excluded.paused_until), pauses = held.pauses + 1,
    slots = ARRAY(SELECT slot FROM unnest(held.slots) AS slot WHERE slot <= clock_timestamp() ORDER BY slot)
"""


class WouldWait(Exception):
    """The next free time is further off than the caller is willing to wait.

    Attributes:
        seconds: how far off it is, from now.
    """

    def __init__(self, name: str, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"the rate budget {name} has nothing free for {seconds:.1f} s")


@dataclass(frozen=True)
class Slot:
    """A reserved time.

    Attributes:
        name: the budget that it belongs to.
        at: from when on it can be spent, by the database's clock.
        pauses: how many pauses the budget had seen; after another one the reservation is void.
        waited: seconds that ``take`` slept for it.
    """

    name: str
    at: datetime
    pauses: int
    waited: float = 0.0


class Statements:
    """Runs single statements in autocommit over one kept connection, opened at first use and again if it breaks.

    A statement whose answer was lost is run again: at worst that costs a slot, never one too many.
    """

    def __init__(self, connect: Callable[[], psycopg.Connection]) -> None:
        self._connect = connect
        self._connection: psycopg.Connection | None = None
        self._lock = threading.Lock()

    def row(self, statement: str, parameters: dict[str, Any]) -> tuple[Any, ...] | None:
        """Run one statement and give its first row, if it has one.

        Raises:
            psycopg.Error: the database refuses, or cannot be reached a second time.
        """
        with self._lock:
            try:
                return self._run(statement, parameters)
            except psycopg.OperationalError:
                if self._connection is None or not self._connection.closed:
                    raise
            self.close()
            return self._run(statement, parameters)

    def close(self) -> None:
        """Close the connection; the next statement opens another one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _run(self, statement: str, parameters: dict[str, Any]) -> tuple[Any, ...] | None:
        if self._connection is None:
            self._connection = self._connect()
            # A transaction held open through a wait would hold the row's lock against everybody.
            self._connection.autocommit = True
        cursor = self._connection.execute(statement, parameters)
        return cursor.fetchone() if cursor.description else None


class Budget:
    """One budget: so many requests in any window, whoever makes them.

    Args:
        statements: how to reach the table.
        name: of the budget's row; the same in all processes.
        per_window: how many requests; processes that disagree for a while do no harm.
        pauses_too: further budgets of the same endpoint, which a 429 pauses as well.
        window: how long the window is.
    """

    def __init__(
        self,
        statements: Statements,
        name: str,
        per_window: int,
        *,
        pauses_too: tuple[str, ...] = (),
        window: timedelta = WINDOW,
    ) -> None:
        if per_window < 1:
            raise ValueError(f"the rate budget {name} needs at least one request a window")
        self.name = name
        self._statements = statements
        self._pauses = (name, *pauses_too)
        self._per_window = per_window
        self._parameters = {"name": name, "n": per_window, "window": window}

    def take(self, max_wait: float | None = None) -> Slot:
        """Reserve the next free time and sleep until it has come. Not to be called inside a transaction.

        Args:
            max_wait: seconds; ``None`` waits as long as it takes.

        Raises:
            WouldWait: it would take longer; no reservation is kept.
        """
        wait = _Wait(max_wait)
        slot, seconds = self._reserve(wait)
        if seconds > 0:
            slot = self._free(slot, wait)
        return replace(slot, waited=wait.waited)

    def spend(self, slot: Slot, max_wait: float | None = None) -> float:
        """Let one request go; to be called immediately before it is sent.

        Waits further where late comers used up the window, and reserves anew where a pause made the slot void.

        Args:
            slot: from ``take``; good for one request.
            max_wait: seconds that may be waited in here; ``None`` waits as long as it takes.

        Returns:
            Seconds waited in here, on top of the slot's own.

        Raises:
            WouldWait: it would take longer; nothing may be sent. The slot may be spent later.
        """
        wait = _Wait(max_wait)
        while not self._statements.row(_SPEND, self._parameters | {"at": slot.at, "pauses": slot.pauses}):
            slot = self._free(slot, wait)
        return wait.waited

    def pause(self, seconds: float) -> None:
        """Stop the whole endpoint after a 429: nothing goes for so long, and every reservation becomes void."""
        for name in self._pauses:
            self._statements.row(_PAUSE, {"name": name, "seconds": seconds})

    def wait_seconds(self) -> float:
        """Tell how long ``take`` would wait now; reserves nothing."""
        row = self._statements.row(_EARLIEST_WAIT, self._parameters)
        return max(0.0, row[0]) if row else 0.0

    def spare(self) -> int:
        """Count the requests that nobody has made or reserved in the window up to now; reserves nothing."""
        row = self._statements.row(_SPARE, self._parameters)
        return max(0, int(row[0])) if row else self._per_window

    @property
    def per_window(self) -> int:
        """How many requests the budget has in all."""
        return self._per_window

    def _reserve(self, wait: "_Wait") -> tuple[Slot, float]:
        """Reserve the next free time; gives it and the seconds until it comes."""
        row = self._statements.row(_RESERVE, self._parameters | {"max_wait": wait.left()})
        if row is None:
            raise WouldWait(self.name, self.wait_seconds())
        at, pauses, seconds = row
        return Slot(self.name, at, pauses), seconds

    def _free(self, slot: Slot, wait: "_Wait") -> Slot:
        """Wait until nothing speaks against spending the slot, or its successor if a pause makes it void."""
        while True:
            row = self._statements.row(_LOOK, self._parameters | {"at": slot.at, "pauses": slot.pauses})
            is_valid, seconds = row or (False, 0.0)
            if not is_valid:
                slot, seconds = self._reserve(wait)
            if seconds <= 0:
                return slot
            wait.sleep(self.name, seconds)


class EarliestOf:
    """Two budgets of one endpoint, for those who may use either: whichever is free earlier. Used like a ``Budget``.

    Args:
        own: theirs alone, preferred where both are free.
        shared: everybody's.
    """

    def __init__(self, own: Budget, shared: Budget) -> None:
        self._own = own
        self._shared = shared

    def take(self, max_wait: float | None = None) -> Slot:
        """See ``Budget.take``."""
        wait, own = _Wait(max_wait), self._own.wait_seconds()
        if self._shared.wait_seconds() < own:
            # Others may take it in between: then their own one is earlier after all.
            with suppress(WouldWait):
                return self._shared.take(own if max_wait is None else min(own, max_wait))
        return self._own.take(wait.left())

    def spend(self, slot: Slot, max_wait: float | None = None) -> float:
        """See ``Budget.spend``."""
        return (self._own if slot.name == self._own.name else self._shared).spend(slot, max_wait)

    def pause(self, seconds: float) -> None:
        """See ``Budget.pause``."""
        self._own.pause(seconds)

    def wait_seconds(self) -> float:
        """See ``Budget.wait_seconds``."""
        return min(self._own.wait_seconds(), self._shared.wait_seconds())


class RateBudgets:
    """All budgets of Sym's application at Vanta, over one kept connection; a context manager that closes it.

    Args:
        connect: opens a connection to the pipeline's own database.
        token_per_minute: requests to the token endpoint, suspend calls included: one is kept for people who are
            connecting, the others are for the hourly runs.
        resource_per_minute: requests to the resource endpoints.
        window: for how long a request counts.

    Raises:
        ValueError: a budget that is too small to be divided so.

    Attributes:
        token_background: the hourly runs' token calls.
        token_interactive: a connecting person's token calls.
        resource: PUT and read-back.
    """

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection],
        *,
        token_per_minute: int,
        resource_per_minute: int,
        window: timedelta = WINDOW,
    ) -> None:
        if token_per_minute < 2:  # noqa: PLR2004 - one for people, one for the runs
            raise ValueError("the token endpoint's budget needs at least 2 requests a minute, one of them for people")
        self._statements = Statements(connect)
        background, interactive = "token_background", "token_interactive"
        self.token_background = Budget(
            self._statements, background, token_per_minute - 1, pauses_too=(interactive,), window=window
        )
        own = Budget(self._statements, interactive, 1, pauses_too=(background,), window=window)
        self.token_interactive = EarliestOf(own, self.token_background)
        self.resource = Budget(self._statements, "resource", resource_per_minute, window=window)

    @classmethod
    def from_settings(cls, connect: Callable[[], psycopg.Connection], settings: VantaApiSettings) -> "RateBudgets":
        """Build them as the environment says."""
        return cls(
            connect,
            token_per_minute=settings.vanta_token_requests_per_minute,
            resource_per_minute=settings.vanta_resource_requests_per_minute,
        )

    def close(self) -> None:
        """Close the connection."""
        self._statements.close()

    def __enter__(self) -> "RateBudgets":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Wait:
    """How long one caller has slept, and how long it still may."""

    def __init__(self, max_wait: float | None) -> None:
        self.waited = 0.0
        self._until = None if max_wait is None else time.monotonic() + max_wait

    def left(self) -> float | None:
        """Seconds that may still be waited; ``None`` for any number."""
        return None if self._until is None else max(0.0, self._until - time.monotonic())

    def sleep(self, name: str, seconds: float) -> None:
        """Sleep towards a time that is so far off, not longer than until the next look at the budget.

        Raises:
            WouldWait: it is further off than may be waited.
        """
        left = self.left()
        if left is not None and seconds > left + _GRACE:
            raise WouldWait(name, seconds)
        started = time.monotonic()
        time.sleep(min(max(seconds, _SHORTEST_SLEEP), _LOOK_EVERY))
        self.waited += time.monotonic() - started
