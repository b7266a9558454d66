"""A whole Dagster on one machine: code server, webserver and daemon, and a tick of the schedule through its queue.

Belongs here: what the demo, the bench and the tests start alike. Does not belong here: what is synced, or shown.
"""

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

from symvanta_pipeline.sandbox.dagster_processes import (
    DAEMON,
    DAGSTER,
    REPOSITORY,
    WEBSERVER,
    DagsterError,
    DagsterProcess,
    Webserver,
)

MODULES = {"code server": DAGSTER, "webserver": WEBSERVER, "daemon": DAEMON}
START_TIMEOUT = 120.0  # seconds for Dagster to come up on a busy machine
POLL = 0.25
ENDED = {"SUCCESS", "FAILURE", "CANCELED"}
# Dagster's own tags, spelled out: importing Dagster for them would take this process seconds.
RUN_KEY_TAG = "dagster/run_key"
SCHEDULED_EXECUTION_TIME_TAG = ".dagster/scheduled_execution_time"

DRY_RUN = """
mutation Tick($schedule: ScheduleSelector!, $at: Float!) {
  scheduleDryRun(selectorData: $schedule, timestamp: $at) {
    __typename
    ... on DryRunInstigationTick {
      evaluationResult { skipReason error { message } runRequests { runKey tags { key value } } }
    }
  }
}"""
LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) { __typename ... on LaunchRunSuccess { run { runId } } }
}"""
STATUSES = """
query Statuses($ids: [String]!) {
  runsOrError(filter: {runIds: $ids}) { ... on Runs { results { runId status } } }
}"""


class DagsterStack:
    """Dagster's processes, in the order in which they can start; all end with ``running``.

    Args:
        home: a folder with dagster.yaml; logs go there.
        running: ends what is started.
        env: variables of the processes, added to this one's.
    """

    def __init__(self, home: Path, running: ExitStack, *, env: Mapping[str, str] | None = None) -> None:
        self._home = home
        self._env = {**(env or {}), "DAGSTER_HOME": str(home)}
        self._processes: list[DagsterProcess] = []
        self._loaded: dict[str, DagsterProcess] = {}
        self._workspace = home / "workspace.yaml"
        self._code_port = free_port()
        running.callback(self._stop)

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of what was started, by name; each is also the id of its process group."""
        return {process.name: process.pid for process in self._processes}

    def start_code_server(self) -> None:
        """Start one code server for webserver and daemon together: each of its own would load everything again.

        The other two begin to import what they need, beside it.
        """
        self._workspace.write_text(
            "load_from:\n  - grpc_server:\n"
            f"      host: 127.0.0.1\n      port: {self._code_port}\n      location_name: symvanta_pipeline\n"
        )
        address = ["-h", "127.0.0.1", "-p", str(self._code_port)]
        location = ["-m", "symvanta_pipeline.definitions", "--location-name", "symvanta_pipeline"]
        self._begin("code server", "api", "grpc", *address, *location, "--use-python-environment-entry-point")
        self._load("webserver")
        self._load("daemon")

    def start_webserver(self, *, preferred_port: int | None = None) -> Webserver:
        """Start the UI, on the preferred port if that is free, else on any."""
        self.wait_until(lambda: listens(self._code_port), "its code server answers")
        port = preferred_port if preferred_port and not listens(preferred_port) else free_port()
        self._begin("webserver", "-h", "127.0.0.1", "-p", str(port), "-w", str(self._workspace))
        return Webserver(f"http://127.0.0.1:{port}")

    def start_daemon(self) -> DagsterProcess:
        """Start what takes runs from the queue and ticks schedules and sensors."""
        return self._begin("daemon", "run", "-w", str(self._workspace))

    def wait_until(self, ready: Callable[[], bool], what: str) -> None:
        """Wait for something that one of the processes does.

        Raises:
            DagsterError: one of them ended, or it took too long.
        """
        deadline = time.monotonic() + START_TIMEOUT
        while not ready():
            self.require_running()
            if time.monotonic() > deadline:
                raise DagsterError(f"Dagster did not get to where {what}; its logs are in {self._home}")
            time.sleep(POLL)

    def require_running(self) -> None:
        """Raise where one of the processes has ended unasked."""
        for process in self._processes:
            process.require_running()

    def _begin(self, name: str, *arguments: str) -> DagsterProcess:
        if name not in self._loaded:
            self._load(name)
        process = self._loaded.pop(name)
        process.begin(*arguments)
        return process

    def _load(self, name: str) -> None:
        log = self._home / f"{name.replace(' ', '-')}.log"
        process = DagsterProcess.load(f"Dagster's {name}", MODULES[name], env=self._env, log=log)
        self._processes.append(process)
        self._loaded[name] = process

    def _stop(self) -> None:
        """End all of them at once, the last one first."""
        for process in reversed(self._processes):
            process.ask_to_end()
        for process in reversed(self._processes):
            process.stop()


def launch_tick(webserver: Webserver, tick: datetime) -> list[str]:
    """Evaluate the real hourly schedule for one time, queue what it asks for, and return the runs' ids.

    Raises:
        DagsterError: it asked for nothing, or Dagster refused a run.
    """
    schedule = {**REPOSITORY, "scheduleName": "hourly_user_account_sync"}
    evaluated = webserver.query(DRY_RUN, schedule=schedule, at=tick.timestamp())["scheduleDryRun"]
    requests_of_tick = (evaluated.get("evaluationResult") or {}).get("runRequests") or []
    if not requests_of_tick:
        raise DagsterError("the hourly schedule asked for no run; see Dagster's logs")
    return [_launch(webserver, request, tick) for request in requests_of_tick]


def _launch(webserver: Webserver, request: Mapping[str, Any], tick: datetime) -> str:
    """Queue one run request with the tags that the daemon would give it, so that it never asks for it again."""
    tags = {tag["key"]: tag["value"] for tag in request["tags"]}
    tags |= {RUN_KEY_TAG: request["runKey"], SCHEDULED_EXECUTION_TIME_TAG: tick.isoformat()}
    launched = webserver.query(
        LAUNCH,
        params={
            "selector": {**REPOSITORY, "pipelineName": "user_account_sync_job"},
            "runConfigData": {},
            "mode": "default",
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        },
    )["launchRun"]
    if "run" not in launched:
        raise DagsterError(f"Dagster refused the run ({launched['__typename']})")
    return str(launched["run"]["runId"])


def have_ended(webserver: Webserver, runs: Sequence[str]) -> bool:
    """Tell whether all of these runs have ended, however."""
    found = webserver.query(STATUSES, ids=list(runs))["runsOrError"].get("results", [])
    return len(found) == len(runs) and all(run["status"] in ENDED for run in found)


def listens(port: int) -> bool:
    """Tell whether somebody answers on a port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """Find a port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
