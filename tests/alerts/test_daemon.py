"""The real dagster-daemon, ended by SIGTERM in the middle of a message, and started again."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from symvanta_pipeline.ledger import database
from symvanta_pipeline.sandbox.dagster_processes import DAEMON, DagsterProcess
from tests.alerts.receiver import Fault, Receiver
from tests.alerts.world import World
from tests.support.stack import until

ROOT = Path(__file__).parents[2]
Start = Callable[[], DagsterProcess]


@pytest.fixture
def world(symvanta_url: str) -> Iterator[World]:
    with database.connect(symvanta_url) as connection:
        world = World(symvanta_url, connection)
        world.customer("acme")
        world.hold("acme")
        world.pass_time(minutes=6)
        yield world


@pytest.fixture
def start(world: World, receiver: Receiver, dagster_url: str, tmp_path: Path) -> Iterator[Start]:
    """Start the daemon; the sensor's first tick comes at once."""
    (tmp_path / "dagster.yaml").write_text(
        "storage: {postgres: {postgres_url: {env: DAGSTER_POSTGRES_URL}}}\ntelemetry: {enabled: false}\n"
    )
    environment = {
        "DAGSTER_HOME": str(tmp_path),
        "DAGSTER_POSTGRES_URL": dagster_url,
        "SYMVANTA_DATABASE_URL": world.url,
        "SYMVANTA_ALERT_WEBHOOK_URL": f"{receiver.url}/webhook",
        "PYTHONPATH": str(ROOT),
    }
    with ExitStack() as running:

        def daemon() -> DagsterProcess:
            log = tmp_path / f"daemon-{len(list(tmp_path.glob('*.log')))}.log"
            process = DagsterProcess.load("the daemon", DAEMON, env=environment, log=log)
            running.enter_context(process)
            process.begin("run", "-m", "tests.alerts.location")
            return process

        yield daemon


def sent(world: World) -> list[tuple[str, bool]]:
    return world.ledger.execute("SELECT target, sent_at IS NOT NULL FROM alerts ORDER BY id").fetchall()


def test_a_daemon_that_is_asked_to_end_finishes_its_message_and_the_next_one_repeats_nothing(
    start: Start, world: World, receiver: Receiver, dagster_url: str
) -> None:
    receiver.fail("/webhook", Fault(200, way="hold"))
    with start() as daemon:
        receiver.wait()
        daemon.ask_to_end()
        until(lambda: "Received interrupt" in daemon.log.read_text(), "the daemon was asked to end")
        receiver.release()
    assert sent(world) == [("log", True), ("webhook", True)]

    with psycopg.connect(dagster_url.replace("+psycopg2", ""), autocommit=True) as dagster:
        # As if a minute had passed: it ticks at once.
        dagster.execute("TRUNCATE jobs, job_ticks, instigators")
        start()
        ticks = "SELECT status FROM job_ticks WHERE status <> 'STARTED'"
        until(lambda: dagster.execute(ticks.encode()).fetchall() == [("SKIPPED",)], "the next daemon ticked")
    assert sent(world) == [("log", True), ("webhook", True)]
    assert len(receiver.got) == 1
