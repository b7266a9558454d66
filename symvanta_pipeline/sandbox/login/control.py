"""Starting and steering a stand-in for Sym's login from another process: the demo and the tests.

Belongs here: what it can be told beside what every stand-in can (``sandbox.control``). Does not belong here: its code.
"""

from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from symvanta_pipeline.sandbox.control import StandIn
from symvanta_pipeline.sandbox.login.config import LoginConfig
from symvanta_pipeline.sandbox.process import start_child


@dataclass(frozen=True)
class LoginServer(StandIn):
    """A running stand-in; its ``url`` is the issuer.

    Attributes:
        config: what it was started with; ``port`` may be 0, the address is ``url``.
    """

    config: LoginConfig

    def add_person(self, subject: str, label: str) -> None:
        """Let somebody sign in; a known subject gets the new label."""
        self._sandbox("POST", "people", [subject, label])

    def rotate_keys(self) -> None:
        """Sign with a new key from now on, and publish it alone."""
        self._sandbox("POST", "keys")

    def fault(self, kind: str, times: int = 1, **options: JsonValue) -> None:
        """Switch a fault on (``faults.Fault`` has the kinds and options)."""
        self._sandbox("POST", "faults", {"kind": kind, "times": times, **options})


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
