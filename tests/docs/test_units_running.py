"""The code server and the daemon as their units start them, ended as systemd ends them, in the middle of a push."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import psutil
import psycopg
import pytest

from symvanta_pipeline.sandbox.dagster_stack import free_port
from tests.conftest import SESSION_VARIABLE
from tests.docs.test_units import DEPLOY, read, words
from tests.support.docs import CHECKOUT
from tests.support.parts import Parts, dagster_url, databases, environment, parts, stand_in, sym_url, symvanta_url
from tests.support.stack import until

__all__ = ["dagster_url", "databases", "environment", "parts", "stand_in", "sym_url", "symvanta_url"]

pytestmark = pytest.mark.timeout(240)


@dataclass
class Machine:
    """Where the units run, with ports and folders of their own."""

    home: Path
    env: dict[str, str]
    dagster: psycopg.Connection
    port: int = field(default_factory=free_port)

    def start(self, name: str) -> "subprocess.Popen[bytes]":
        command = [
            word.replace("4266", str(self.port)).replace("/etc/symvanta", str(self.home))
            for word in words(DEPLOY / "systemd" / f"{name}.service")
        ]
        with (self.home / f"{name}.log").open("ab") as log:
            return subprocess.Popen(command, cwd=self.home, env=self.env, stdout=log, stderr=log)

    def runs(self) -> list[tuple[str, bool]]:
        """List all runs, oldest first: status, and whether it repeats another one."""
        rows = self.dagster.execute("SELECT status, parent_run_id IS NOT NULL FROM runs_told ORDER BY id").fetchall()
        return [(status, is_repeated) for status, is_repeated in rows]


@pytest.fixture
def machine(environment: dict[str, str], dagster_url: str, tmp_path: Path) -> Iterator[Machine]:
    home = tmp_path / "home"
    home.mkdir()
    # Looking every second spares the test most of a minute; nothing else is changed.
    yaml = (CHECKOUT / "dagster.yaml").read_text().replace("poll_interval_seconds: 30", "poll_interval_seconds: 1")
    (home / "dagster.yaml").write_text(yaml)
    env = os.environ | environment | {"DAGSTER_POSTGRES_URL": dagster_url, "DAGSTER_HOME": str(home)}
    assert SESSION_VARIABLE in env
    with psycopg.connect(dagster_url.replace("+psycopg2", ""), autocommit=True) as connection:
        connection.execute(
            "CREATE TEMP VIEW runs_told AS SELECT id, status,"
            " (SELECT value FROM run_tags WHERE run_tags.run_id = runs.run_id AND key = 'dagster/parent_run_id')"
            " AS parent_run_id FROM runs WHERE pipeline_name = 'user_account_sync_job'"
        )
        made = Machine(home, env, connection)
        text = (DEPLOY / "workspace.yaml").read_text().replace("4266", str(made.port))
        (home / "workspace.yaml").write_text(text)
        yield made


@contextmanager
def ended(process: "subprocess.Popen[bytes]") -> Iterator["subprocess.Popen[bytes]"]:
    """End a process and its children with the block."""
    try:
        yield process
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        for child in children:
            child.kill()
        process.kill()
        process.wait(10)


def stop_as_systemd(process: "subprocess.Popen[bytes]", *, within: float) -> bool:
    """Stop a unit whose KillMode is mixed: SIGTERM for its main process, then SIGKILL for whatever is left.

    Returns:
        Whether the main process ended in time.
    """
    everybody = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(within)
    was_in_time = process.poll() is not None
    for one in everybody:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait(10)
    return was_in_time


@contextmanager
def pushing(machine: Machine, parts: Parts, *, seconds: float) -> Iterator[tuple["subprocess.Popen[bytes]", UUID]]:
    """Run both units until a push that takes so long is under way; yields the code server and whose push it is."""
    acme = parts.customer("acme", people=3)
    parts.vanta.clear_faults()
    parts.vanta.fault("put", "slow_before", delay=seconds, tenant=str(acme))
    with ended(machine.start("symvanta-code")) as code, ended(machine.start("symvanta-daemon")):
        until(lambda: parts.intents(acme) == [None], "the push begin")
        assert machine.runs() == [("STARTED", False)]
        yield code, acme


def test_a_code_server_that_is_stopped_waits_for_its_runs(parts: Parts, machine: Machine) -> None:
    service = read(DEPLOY / "systemd" / "symvanta-code.service")["Service"]
    with pushing(machine, parts, seconds=4) as (code, acme):
        assert stop_as_systemd(code, within=float(service["TimeoutStopSec"]))
        assert machine.runs() == [("SUCCESS", False)]
    assert parts.intents(acme) == ["accepted"]


def test_a_run_that_does_not_end_in_time_is_killed_and_repeated(parts: Parts, machine: Machine) -> None:
    with pushing(machine, parts, seconds=60) as (code, acme):
        assert not stop_as_systemd(code, within=3)
        assert machine.runs() == [("STARTED", False)], "a run that was killed cannot say so"
        with ended(machine.start("symvanta-code")):
            until(lambda: machine.runs() == [("FAILURE", False), ("SUCCESS", True)], "the run repeated")
    assert parts.at_vanta(acme) == parts.at_sym(acme)
    assert parts.intents(acme) == ["superseded", "accepted"]
