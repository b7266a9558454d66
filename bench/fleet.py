"""A whole Dagster with a fleet of customers and the past of a day, for benches that look at it.

Belongs here: starting it, recording one stretch, and having the rest copied from it. Does not belong here: measuring.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

from bench import past
from bench.cycle import _connect, _fill, _require, _set_environment
from symvanta_pipeline.dagster_instance import dagster_instance
from symvanta_pipeline.defs.partitions import CUSTOMERS
from symvanta_pipeline.ledger import database
from symvanta_pipeline.sandbox.dagster_processes import REPOSITORY, Webserver
from symvanta_pipeline.sandbox.dagster_stack import LAUNCH, STATUSES, DagsterStack, have_ended
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres
from symvanta_pipeline.sandbox.vanta.control import VantaServer

STRETCH = 25  # customers a run, the default
CYCLES = 24

INSTIGATORS = """
query Instigators($repository: RepositorySelector!) {
  repositoryOrError(repositorySelector: $repository) {
    ... on Repository { schedules { scheduleState { id } } sensors { sensorState { id } } }
  }
}"""
STOP_SCHEDULE = "mutation Stop($id: String!) { stopRunningSchedule(id: $id) { __typename } }"
STOP_SENSOR = "mutation Stop($id: String!) { stopSensor(id: $id) { __typename } }"


@dataclass(frozen=True)
class Fleet:
    """A Dagster that knows some customers.

    Attributes:
        customers: their partition keys.
        home: DAGSTER_HOME.
        webserver: the UI.
        settings: variables of its processes.
        dagster: URL of Dagster's database.
        code_server_seconds: from starting the code server to its first answer.
    """

    customers: list[str]
    home: Path
    webserver: Webserver
    settings: Mapping[str, str]
    dagster: str
    code_server_seconds: float


@contextmanager
def running_fleet(size: int, postgres: EmbeddedPostgres, vanta: VantaServer, folder: Path) -> Iterator[Fleet]:
    """Start a fleet on databases of its own, with a past; the daemon is ended once that is there.

    The variables of this process are those of the fleet that was started last.
    """
    names = {place: f"{place}_{size}" for place in ("sym", "symvanta", "dagster")}
    postgres.ensure_databases(*names.values())
    home = folder / f"fleet-{size}"
    home.mkdir()
    settings = _set_environment(postgres, vanta, home, names)
    stretch = min(size, STRETCH)
    customers = past.slugs(size, stretch)
    database.migrate(postgres.url(names["symvanta"]))
    organizations = _fill(postgres.url(names["sym"]), customers)
    _connect(postgres.url(names["symvanta"]), organizations, vanta)
    with ExitStack() as running:
        dagster = DagsterStack(home, running)
        began = time.monotonic()
        dagster.start_code_server()
        webserver = dagster.start_webserver()  # waits for the code server
        answered = time.monotonic() - began
        with dagster_instance() as instance:
            instance.add_dynamic_partitions(CUSTOMERS, customers)
        dagster.wait_until(webserver.is_up, "its webserver answers")
        _stop_instigators(webserver)
        daemon = dagster.start_daemon()
        ledger_url, dagster_url = postgres.url(names["symvanta"]), postgres.url(names["dagster"])
        _record(webserver, customers[:stretch], ledger_url)
        daemon.stop()
        with closing(psycopg.connect(dagster_url)) as connection:
            past.repeat(connection, size // stretch, _hours())
        yield Fleet(customers, home, webserver, settings, dagster_url, answered)


def _stop_instigators(webserver: Webserver) -> None:
    """Turn schedules and sensors off, so that nothing runs but what is recorded; ``past`` turns them on again."""
    found = webserver.query(INSTIGATORS, repository=REPOSITORY)["repositoryOrError"]
    for schedule in found["schedules"]:
        webserver.query(STOP_SCHEDULE, id=schedule["scheduleState"]["id"])
    for sensor in found["sensors"]:
        webserver.query(STOP_SENSOR, id=sensor["sensorState"]["id"])


def _record(webserver: Webserver, stretch: list[str], ledger_url: str) -> None:
    """Sync a stretch and look at the fleet, through the daemon's queue."""
    tags = {ASSET_PARTITION_RANGE_START_TAG: stretch[0], ASSET_PARTITION_RANGE_END_TAG: stretch[-1]}
    _run(webserver, past.SYNC_JOB, tags)
    with closing(database.connect(ledger_url)) as ledger:
        past.accepted(ledger, _hours())
    _run(webserver, past.FLEET_JOB, {})


def _run(webserver: Webserver, job: str, tags: Mapping[str, str]) -> None:
    launched = webserver.query(
        LAUNCH,
        params={
            "selector": {**REPOSITORY, "pipelineName": job},
            "runConfigData": {},
            "mode": "default",
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        },
    )["launchRun"]
    run = str(launched["run"]["runId"])
    while not have_ended(webserver, [run]):
        time.sleep(0.5)
    [ended] = webserver.query(STATUSES, ids=[run])["runsOrError"]["results"]
    _require(ended["status"] == "SUCCESS", f"{job} succeeded, not {ended['status']}")


def _hours() -> list[datetime]:
    """List the hours of the past, oldest first; the last has just begun."""
    last = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    return [last - timedelta(hours=ago) for ago in reversed(range(CYCLES))]
