"""The handle on a running stand-in server, seen from the process that started it.

Belongs here: what every stand-in can be told through its ``/_sandbox`` routes. Does not belong here: what one alone can
(``vanta.control``, ``login.control``), the child's code.
"""

from dataclasses import dataclass
from typing import Any, Self

import requests
from pydantic import JsonValue

from symvanta_pipeline.sandbox.process import Child

TIMEOUT = 10.0


@dataclass(frozen=True)
class StandIn:
    """A running stand-in, ended when its ``with`` block or this process ends.

    Attributes:
        child: its process.
    """

    child: Child

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return self.child.url

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.child.pid

    def stop(self) -> None:
        """End it. Safe to repeat."""
        self.child.stop()

    def journal(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """All requests so far, oldest first, or those to one endpoint (``journal.Entry`` has the keys)."""
        entries: list[dict[str, Any]] = self._sandbox("GET", "journal").json()
        return [entry for entry in entries if endpoint in {None, entry["endpoint"]}]

    def clear_journal(self) -> None:
        """Forget all requests."""
        self._sandbox("DELETE", "journal")

    def faults(self) -> list[dict[str, Any]]:
        """All faults with the number of times that each ``fired``."""
        faults: list[dict[str, Any]] = self._sandbox("GET", "faults").json()
        return faults

    def clear_faults(self) -> None:
        """Switch all faults off."""
        self._sandbox("DELETE", "faults")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _sandbox(self, method: str, path: str, content: JsonValue = None) -> requests.Response:
        response = requests.request(method, f"{self.url}/_sandbox/{path}", json=content, timeout=TIMEOUT)
        response.raise_for_status()
        return response
