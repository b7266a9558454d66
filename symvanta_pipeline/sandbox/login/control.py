"""Starting and steering a stand-in for Sym's login from another process: the demo and the tests.

Belongs here: the handle on the child process and its ``/_sandbox`` controls. Does not belong here: the child's code.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import requests
from pydantic import JsonValue

from symvanta_pipeline.sandbox.login.config import LoginConfig
from symvanta_pipeline.sandbox.process import Child, start_child

TIMEOUT = 10.0


@dataclass(frozen=True)
class LoginServer:
    """A running stand-in, ended when its ``with`` block or this process ends.

    Attributes:
        child: its process.
        config: what it was started with; ``port`` may be 0, the address is ``url``.
    """

    child: Child
    config: LoginConfig

    @property
    def url(self) -> str:
        """The issuer, without a slash at the end."""
        return self.child.url

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.child.pid

    def stop(self) -> None:
        """End it. Safe to repeat."""
        self.child.stop()

    def add_person(self, subject: str, label: str) -> None:
        """Let somebody sign in; a known subject gets the new label."""
        self._sandbox("POST", "people", [subject, label])

    def rotate_keys(self) -> None:
        """Sign with a new key from now on, and publish it alone."""
        self._sandbox("POST", "keys")

    def journal(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """All requests so far, oldest first, or those to one endpoint (``journal.Entry`` has the keys)."""
        entries: list[dict[str, Any]] = self._sandbox("GET", "journal").json()
        return [entry for entry in entries if endpoint in {None, entry["endpoint"]}]

    def clear_journal(self) -> None:
        """Forget all requests."""
        self._sandbox("DELETE", "journal")

    def fault(self, kind: str, times: int = 1, **options: JsonValue) -> None:
        """Switch a fault on (``faults.Fault`` has the kinds and options)."""
        self._sandbox("POST", "faults", {"kind": kind, "times": times, **options})

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


def start_login(config: LoginConfig | None = None, *, port: int | None = None, log: Path | None = None) -> LoginServer:
    """Start a stand-in as a child process and wait until it answers.

    Args:
        config: its settings; the defaults where not given.
        port: overrides the configured one; 0 takes any free one.
        log: file for its stderr.

    Raises:
        ChildFailedError: it did not start, for instance because the port is taken.
    """
    config = config or LoginConfig()
    if port is not None:
        config = config.model_copy(update={"port": port})
    child = start_child("symvanta_pipeline.sandbox.login", env=config.environment(), log=log)
    return LoginServer(child, config)
