"""What the tests of token custody share: marked secrets, workers that are processes, and the watch for leaks."""

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from symvanta_pipeline import token_store
from symvanta_pipeline.sandbox.vanta.config import VantaConfig
from symvanta_pipeline.sandbox.vanta.control import VantaServer, start_vanta
from tests.support import leaks
from tests.support.parts import (
    CLIENT_SECRET,
    Parts,
    dagster_url,
    databases,
    environment,
    parts,
    sym_url,
    symvanta_url,
    until,
)
from tests.support.runs import instance

__all__ = ["dagster_url", "databases", "environment", "instance", "parts", "sym_url", "symvanta_url"]

ROOT = Path(__file__).parents[2]
CONFIG = VantaConfig(
    client_secret=CLIENT_SECRET,
    secret_marker=f"Marked{secrets.token_hex(8)}",  # in every token and code that the stand-ins issue
    token_requests_per_minute=100_000,
    resource_requests_per_minute=100_000,
)


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VantaServer]:
    """As the fixture of the support's parts, with marked secrets."""
    with start_vanta(CONFIG, log=tmp_path_factory.mktemp("vanta") / "stderr") as running:
        yield running


@pytest.fixture
def stand_in_with(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> Callable[..., AbstractContextManager[VantaServer]]:
    """Put a stand-in of the test's own, with other settings, in the place of the shared one."""

    @contextmanager
    def start(**settings: Any) -> Iterator[VantaServer]:
        with start_vanta(CONFIG.model_copy(update=settings), log=parts.folder / "vanta") as running:
            monkeypatch.setenv("VANTA_API_URL", running.url)
            parts.vanta = running
            yield running

    return start


# The watch.


@pytest.fixture(autouse=True)
def nothing_leaks(parts: Parts, capfd: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Iterator[None]:
    """Run the test with everything logged, then fail it if a secret or a person is found where none belongs."""
    if "leaks_on_purpose" in request.fixturenames:
        yield
        return
    with leaks.watched(parts, capfd):
        yield


@pytest.fixture
def leaks_on_purpose() -> None:
    """Take this test out of the watch: it keeps one of its own."""


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saving a token is tried again after milliseconds; how often and for how long stays as it is."""
    monkeypatch.setattr(token_store, "FIRST_SAVE_WAIT", 0.05)


# Workers.


@dataclass
class Worker:
    """A process that pushes for one customer.

    Attributes:
        pid: its process id.
        log: what it printed and logged.
    """

    pid: int
    log: Path
    _ask: Callable[[dict[str, Any]], int]
    _result: Path
    _code: int | None = None

    def stall(self) -> None:
        """Stop it where it is, as a machine that swaps or a suspended one does."""
        os.kill(self.pid, signal.SIGSTOP)
        until(lambda: psutil.Process(self.pid).status() == psutil.STATUS_STOPPED, "the worker stopped")

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill it, and make sure that this is what ended it."""
        os.kill(self.pid, signal.SIGKILL)
        assert self.code() == -signal.SIGKILL

    def ended(self) -> dict[str, Any]:
        """Wait for its end and return its result."""
        assert self.code() == 0
        result: dict[str, Any] = json.loads(self._result.read_text())
        return result

    def code(self) -> int:
        if self._code is None:
            self._code = self._ask({"wait": self.pid})
        return self._code

    def clear_away(self) -> None:
        """End it if it still runs, stopped or not."""
        if self._code is None:
            os.kill(self.pid, signal.SIGKILL)
            self.code()


@pytest.fixture(scope="session")
def ask_workers() -> Iterator[Callable[[dict[str, Any]], int]]:
    """The process that forks the workers, for as long as somebody needs one."""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.custody.workers"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def ask(request: dict[str, Any]) -> int:
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
            return int(stdout.readline())

        yield ask
        stdin.close()
        process.wait(30)


@pytest.fixture
def start(
    ask_workers: Callable[[dict[str, Any]], int], parts: Parts, environment: Mapping[str, str]
) -> Iterator[Callable[..., Worker]]:
    """Start workers; none outlives the test."""
    started: list[Worker] = []

    def start_one(whose: str, *, work: str = "push") -> Worker:
        name = f"worker-{len(started)}"
        log, result = parts.folder / f"{name}.log", parts.folder / f"{name}.json"
        request = {
            "environment": {name: os.environ[name] for name in environment},
            "folder": str(parts.folder),
            "log": str(log),
            "result": str(result),
            "whose": whose,
            "work": work,
        }
        started.append(Worker(ask_workers({"start": request}), log, ask_workers, result))
        return started[-1]

    yield start_one
    for worker in started:
        worker.clear_away()
