"""Commands on a leash: Dagster's code server, webserver, daemon, and our own, each ending with whoever started them.

Belongs here: starting a command, ending it with all that it started, and asking its webserver
over GraphQL. Does not belong here: what is launched (``demo``).

Run as ``python -m symvanta_pipeline.sandbox.dagster_processes MODULE`` it imports that command, which takes seconds,
waits for the arguments on standard input, and becomes it: in a process group of its own that ends as soon as
standard input closes, which the kernel sees to when the parent dies.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import requests

STOP_TIMEOUT = 10.0  # seconds that a group has to end by itself before it is killed
POLL = 0.1

# The modules behind Dagster's commands; each has a ``main``.
WEBSERVER = "dagster_webserver.cli"
DAEMON = "dagster._daemon.cli"
DAGSTER = "dagster._cli"

REPOSITORY = {"repositoryName": "__repository__", "repositoryLocationName": "symvanta_pipeline"}
ADD_PARTITION = """
mutation Add($repository: RepositorySelector!, $definition: String!, $key: String!) {
  addDynamicPartition(repositorySelector: $repository, partitionsDefName: $definition, partitionKey: $key) {
    __typename
  }
}"""


class DagsterError(Exception):
    """A process of Dagster's did not do what was asked of it; the text says where its log is."""


@dataclass
class DagsterProcess:
    """One running command, Dagster's or our own, with everything that it started.

    Attributes:
        log: where its output goes.
    """

    name: str
    log: Path
    _process: subprocess.Popen[bytes] = field(repr=False)
    _asked_to_end: bool = field(default=False, repr=False)

    @classmethod
    def load(cls, name: str, module: str, *, env: Mapping[str, str], log: Path) -> Self:
        """Start a process that imports ``module`` and waits for ``begin``; others cannot read what ``env`` adds."""
        with log.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - Dagster's own modules, no shell
                [sys.executable, "-m", __name__, module],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env},
                start_new_session=True,
            )
        return cls(name, log, process)

    def begin(self, *arguments: str) -> None:
        """Let it work, with the command's arguments.

        Raises:
            DagsterError: it has ended already.
        """
        try:
            self._stdin.write(json.dumps(arguments).encode() + b"\n")
            self._stdin.flush()
        except BrokenPipeError:
            self.require_running()

    @property
    def pid(self) -> int:
        """Its process id, and that of its group."""
        return self._process.pid

    def require_running(self) -> None:
        """Raise where it has ended unasked.

        Raises:
            DagsterError: it has.
        """
        if self._process.poll() is not None and not self._asked_to_end:
            raise DagsterError(f"{self.name} ended by itself; its log is {self.log}")

    def ask_to_end(self) -> None:
        """Ask it, and all that it started, to end; returns at once."""
        self._asked_to_end = True
        _signal_group(self.pid, signal.SIGTERM)

    def stop(self) -> None:
        """End it and everything that it started; safe to repeat."""
        self.ask_to_end()
        deadline = time.monotonic() + STOP_TIMEOUT
        while time.monotonic() < deadline and _group_lives(self._process):
            time.sleep(POLL)
        _signal_group(self.pid, signal.SIGKILL)
        self._process.wait()
        with suppress(BrokenPipeError):
            self._stdin.close()

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None  # noqa: S101 - a pipe was asked for
        return self._process.stdin

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@dataclass(frozen=True)
class Webserver:
    """A webserver's GraphQL API.

    Attributes:
        url: of the UI.
    """

    url: str

    def is_up(self) -> bool:
        """Tell whether it answers."""
        try:
            return requests.get(f"{self.url}/server_info", timeout=2).ok
        except requests.RequestException:
            return False

    def add_partition(self, definition: str, key: str) -> None:
        """Add a key to a dynamic partitions definition, as the UI does; one that is there already is fine.

        Raises:
            DagsterError: it was refused.
        """
        added = self.query(ADD_PARTITION, repository=REPOSITORY, definition=definition, key=key)["addDynamicPartition"]
        if added["__typename"] not in {"AddDynamicPartitionSuccess", "DuplicateDynamicPartitionError"}:
            raise DagsterError(f"Dagster refused a partition ({added['__typename']})")

    def query(self, text: str, **variables: Any) -> dict[str, Any]:
        """Run one query or mutation and return its data.

        Raises:
            DagsterError: the webserver did not answer with data.
        """
        try:
            response = requests.post(
                f"{self.url}/graphql", json={"query": text, "variables": variables}, timeout=(5, 60)
            )
            answer = response.json()
        except requests.RequestException as error:
            raise DagsterError(f"the Dagster webserver did not answer ({type(error).__name__})") from None
        if not answer.get("data"):
            raise DagsterError("the Dagster webserver refused a query; see its log")
        data: dict[str, Any] = answer["data"]
        return data


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _group_lives(leader: subprocess.Popen[bytes]) -> bool:
    leader.poll()  # a zombie would count as living
    try:
        os.killpg(leader.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _end_with_stdin() -> None:
    """Wait for the end of standard input, then end the whole group, and insist."""
    while os.read(0, 1024):
        pass
    os.killpg(os.getpgrp(), signal.SIGTERM)
    time.sleep(STOP_TIMEOUT)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _become(module: str) -> None:
    command = importlib.import_module(module)
    arguments = sys.stdin.buffer.readline()
    if not arguments:
        return  # whoever started this has ended
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    sys.argv = [module, *json.loads(arguments)]
    command.main()


if __name__ == "__main__":
    _become(sys.argv[1])
