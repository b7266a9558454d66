"""Rate limits: 5 token calls and 20 resource calls a minute at Vanta.

Belongs here: counting. Does not belong here: which call counts against which budget (``app``).
"""

import time
from collections import deque
from collections.abc import Callable

WINDOW_SECONDS = 60.0


class SlidingWindow:
    """Grants at most ``limit`` calls in any 60 seconds; refused calls are not counted."""

    def __init__(self, limit: int, *, now: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._now = now
        self._granted: deque[float] = deque()

    def take(self) -> float:
        """Take a slot: 0.0 where there was one, else the seconds until the next."""
        now = self._now()
        while self._granted and self._granted[0] <= now - WINDOW_SECONDS:
            self._granted.popleft()
        if len(self._granted) >= self._limit:
            return self._granted[0] + WINDOW_SECONDS - now
        self._granted.append(now)
        return 0.0
