"""Who gets the places of a queue that is never empty: dagster.yaml and the priorities, as Dagster's daemon judges."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import yaml  # type: ignore[import-untyped] # its stubs are a package of their own
from dagster._core.instance.ref import InstanceRef
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.storage.tags import BACKFILL_ID_TAG, PRIORITY_TAG, SCHEDULE_NAME_TAG
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon

from symvanta_pipeline.defs import fleet, housekeeping, sensor
from symvanta_pipeline.defs.assets import user_account_sync_job
from symvanta_pipeline.defs.fleet import fleet_status_job
from symvanta_pipeline.defs.housekeeping import housekeeping_job
from symvanta_pipeline.defs.schedule import hourly_user_account_sync
from tests.support.runs import of_tick, one
from tests.support.stack import CHECKOUT

ORIGIN = RemoteRepositoryOrigin(
    InProcessCodeLocationOrigin(
        LoadableTargetOrigin(module_name="symvanta_pipeline.definitions"), location_name="symvanta_pipeline"
    ),
    "__repository__",
)
SYNC, FLEET, HOUSE = user_account_sync_job.name, fleet_status_job.name, housekeeping_job.name
HOUR = datetime(2026, 11, 24, 3, tzinfo=UTC)
# As the scheduler tags a run: tests/e2e sees the same of the real one.
HOURLY = {SCHEDULE_NAME_TAG: hourly_user_account_sync.name}
PLACES = 4
FLEET_TAGS, HOUSE_TAGS = dict(fleet_status_job.tags or {}), dict(housekeeping_job.tags)
Change = Callable[[dict[str, dict[str, list[object]]]], object]


class Queue:
    """A queue that Dagster's daemon takes runs from; a run that is taken stays under way until it is ended."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.daemon = QueuedRunCoordinatorDaemon(interval_seconds=1)
        self.under_way: list[dg.DagsterRun] = []
        self._added = 0

    def add(self, job: str, tags: Mapping[str, str]) -> str:
        """Put a run in; each of a customer of its own, since two of one customer never run together."""
        self._added += 1
        carried = one(f"customer-{self._added}") if job == SYNC else {}
        origin = RemoteJobOrigin(ORIGIN, job)
        run = dg.DagsterRun(job, status=dg.DagsterRunStatus.QUEUED, tags={**carried, **tags}, remote_job_origin=origin)
        self.instance.run_storage.add_run(run)
        return run.run_id

    def take(self) -> list[str]:
        """Let the daemon choose once; what it chooses has begun. Return the jobs."""
        chosen = self.daemon._get_runs_to_dequeue(
            self.instance, self.instance.get_concurrency_config(), fixed_iteration_time=None
        )
        for run in chosen:
            self._report(run, dg.DagsterEventType.PIPELINE_START)
        self.under_way += chosen
        return [run.job_name for run in chosen]

    def end_one(self) -> None:
        """End what has been under way longest."""
        self._report(self.under_way.pop(0), dg.DagsterEventType.PIPELINE_SUCCESS)

    def _report(self, run: dg.DagsterRun, event: dg.DagsterEventType) -> None:
        self.instance.report_dagster_event(dg.DagsterEvent(event.value, run.job_name), run.run_id)


@contextmanager
def queue(url: str, home: Path, change: Change = lambda _: None) -> Iterator[Queue]:
    """Open the queue of the project's dagster.yaml, perhaps with something changed in it."""
    config = yaml.safe_load((CHECKOUT / "dagster.yaml").read_text())
    assert config["run_queue"]["max_concurrent_runs"] == PLACES
    change(config)
    (home / "dagster.yaml").write_text(yaml.safe_dump(config))
    storage = {"storage": {"postgres": {"postgres_url": url}}}
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(home), overrides=storage)) as instance:
        yield Queue(instance)


def fill(queue: Queue) -> None:
    """More hours of runs than are ever got through, and all places that they may have taken."""
    for hour in range(3):
        for _ in range(5):
            queue.add(SYNC, HOURLY | of_tick(HOUR - timedelta(hours=hour)))
    assert set(queue.take()) == {SYNC}


def all_that_must_not_wait(queue: Queue) -> None:
    queue.add(HOUSE, HOUSE_TAGS)
    queue.add(FLEET, FLEET_TAGS)
    queue.add(SYNC, {PRIORITY_TAG: sensor.PRIORITY})


def test_hourly_runs_leave_a_place(dagster_url: str, tmp_path: Path) -> None:
    """Guards against a backlog of hourly runs: housekeeping never came, and the fleet's status waited for one."""
    with queue(dagster_url, tmp_path) as waiting:
        fill(waiting)
        assert len(waiting.under_way) == PLACES - 1
        assert waiting.take() == []
        for job, tags in ((HOUSE, HOUSE_TAGS), (FLEET, FLEET_TAGS)):
            waiting.add(job, tags)
            assert waiting.take() == [job], "at once, although more hourly runs wait"
            waiting.under_way.insert(0, waiting.under_way.pop())
            waiting.end_one()
        waiting.end_one()
        assert waiting.take() == [SYNC]


def test_who_connected_goes_first_then_the_fleet_then_housekeeping_then_the_hour(
    dagster_url: str, tmp_path: Path
) -> None:
    with queue(dagster_url, tmp_path) as waiting:
        fill(waiting)
        # A person's backfill has the place that is left, and more of it waits.
        for _ in range(5):
            waiting.add(SYNC, {BACKFILL_ID_TAG: "abc"})
        assert waiting.take() == [SYNC]
        all_that_must_not_wait(waiting)
        for job, priority in ((SYNC, sensor.PRIORITY), (FLEET, fleet.PRIORITY), (HOUSE, housekeeping.PRIORITY)):
            waiting.end_one()
            assert waiting.take() == [job]
            assert waiting.under_way[-1].tags[PRIORITY_TAG] == priority
        assert int(sensor.PRIORITY) > int(fleet.PRIORITY) > int(housekeeping.PRIORITY) > 0


def test_without_the_limit_and_behind_the_hour_housekeeping_would_starve(dagster_url: str, tmp_path: Path) -> None:
    def without_limit(config: dict[str, dict[str, list[object]]]) -> None:
        del config["run_queue"]["tag_concurrency_limits"][-1]

    with queue(dagster_url, tmp_path, without_limit) as waiting:
        fill(waiting)
        assert len(waiting.under_way) == PLACES
        waiting.add(HOUSE, {PRIORITY_TAG: "-1"})
        for _ in range(10):
            waiting.end_one()
            assert waiting.take() == [SYNC]
