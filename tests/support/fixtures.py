"""One running pipeline for all tests that need one, since it takes a while to start: a pytest plugin.

Belongs here: what was done to it before any test looks. Does not belong here: any expectation.

The tests that share it belong to one group of pytest-xdist's, so that a single worker starts it.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from dagster._core.storage.tags import PARENT_RUN_ID_TAG, SCHEDULED_EXECUTION_TIME_TAG

from symvanta_pipeline.sandbox.dagster_processes import DagsterProcess
from symvanta_pipeline.sandbox.dagster_stack import launch_tick
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres
from tests.support.stack import BY_SLUG, CONNECTED, Stack, own_databases, running_stack, until

HOURS_DOWN = 6
HELD_BACK = "harborline"  # whose first PUT is answered after its worker is dead
CLEAR_OF_THE_HOUR = 120  # seconds before a full hour in which no daemon is started: it would tick twice


@dataclass
class Cycle:
    """What happened when the daemon came back after hours, while a cycle was under way whose worker then died.

    Attributes:
        daemon: the one that runs now.
        crashed: id of the run of an earlier hour, which was killed in the middle of a PUT.
        ticks: the hours that the daemon ticked for.
        ticks_after_restart: the same, once another daemon has looked.
        faults: the stand-in's faults with how often they fired.
        puts: customers in the order in which the stand-in was sent their accounts.
    """

    daemon: DagsterProcess
    crashed: str
    ticks: list[datetime]
    ticks_after_restart: list[datetime]
    faults: list[dict[str, object]]
    puts: list[str]


@pytest.fixture(scope="session")
def stack(
    postgres: EmbeddedPostgres,
    demo_sym_template: str,
    symvanta_template: str,
    dagster_template: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stack]:
    """Everything but the daemon, with some demo customers connected."""
    templates = {
        "SYM_DATABASE_URL": demo_sym_template,
        "SYMVANTA_DATABASE_URL": symvanta_template,
        "DAGSTER_POSTGRES_URL": dagster_template,
    }
    folder = tmp_path_factory.mktemp("stack")
    with own_databases(postgres, templates) as urls, running_stack(folder, urls, connect=CONNECTED) as running:
        yield running


@pytest.fixture(scope="session")
def cycle(stack: Stack) -> Cycle:
    """The daemon's first work: see ``Cycle``. It stays up; its schedule is off afterwards."""
    keep_clear_of_the_hour()
    stack.vanta.fault("put", "slow", tenant=str(BY_SLUG[HELD_BACK].id), delay=3600)
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    [crashed] = launch_tick(stack.webserver, hour - timedelta(hours=1))
    stack.start_schedule_in_the_past(hours=HOURS_DOWN)
    daemon = stack.dagster.start_daemon()
    until(lambda: any(fault["fired"] for fault in stack.vanta.faults()), "the PUT that is held back")
    until(lambda: stack.runs(SCHEDULED_EXECUTION_TIME_TAG, hour.isoformat()), "the run of the new tick")
    stack.worker(crashed).kill()
    stack.ended(crashed)
    until(lambda: stack.runs(PARENT_RUN_ID_TAG, crashed), "another try of the run that crashed")
    stack.settle()
    ticks = stack.ticks()
    daemon = stack.restarted(daemon)
    stack.settle()
    after = stack.ticks()
    stack.stop_schedule()
    faults = stack.vanta.faults()
    stack.vanta.clear_faults()
    return Cycle(daemon, crashed, ticks, after, faults, [put["slug"] for put in stack.puts()])


def keep_clear_of_the_hour() -> None:
    """Wait where a full hour is near: the schedule would tick in the middle of what is set up."""
    left = 3600 - time.time() % 3600
    if left < CLEAR_OF_THE_HOUR:
        time.sleep(left + 1)
