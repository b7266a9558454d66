"""Runs of the real definitions on a real instance, in this process, and what Dagster says of them afterwards.

Belongs here: launching as the daemon does, and reading events back. Does not belong here: any expectation.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.execution.api import execute_run
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
    SCHEDULED_EXECUTION_TIME_TAG,
)
from sqlalchemy import text

from symvanta_pipeline.definitions import defs  # before any instance is made
from symvanta_pipeline.defs import checks
from symvanta_pipeline.defs.assets import ACCOUNTS, SYNC, USERS
from symvanta_pipeline.defs.partitions import CUSTOMERS, customers

ASSETS = (USERS, ACCOUNTS, SYNC)
CHECKS = tuple(check.key for check in checks.CHECKS)


def one(partition: str) -> dict[str, str]:
    """Tag a run of a single customer."""
    return {PARTITION_NAME_TAG: partition}


def stretch(first: str, last: str) -> dict[str, str]:
    """Tag a run of several neighbours."""
    return {ASSET_PARTITION_RANGE_START_TAG: first, ASSET_PARTITION_RANGE_END_TAG: last}


def of_tick(tick: datetime) -> dict[str, str]:
    """Tag a run as the scheduler does."""
    return {SCHEDULED_EXECUTION_TIME_TAG: tick.isoformat()}


@dataclass(frozen=True)
class Finished:
    """A run that has ended, and its instance."""

    instance: dg.DagsterInstance
    run_id: str

    @property
    def success(self) -> bool:
        return self.run.status is dg.DagsterRunStatus.SUCCESS

    @property
    def run(self) -> dg.DagsterRun:
        run = self.instance.get_run_by_id(self.run_id)
        assert run is not None
        return run

    @property
    def failure(self) -> str:
        """The words that the run failed with."""
        [entry] = self.instance.all_logs(self.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
        assert entry.dagster_event is not None
        failure = entry.dagster_event.step_failure_data
        if failure.user_failure_data:
            return failure.user_failure_data.description or ""
        assert failure.error is not None
        return failure.error.to_string()

    def materialized(self) -> dict[str, list[str]]:
        """Tell which assets this run materialized, by partition."""
        found: dict[str, list[str]] = {}
        for entry in self.instance.all_logs(self.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION):
            event = entry.dagster_event
            assert event is not None
            assert event.asset_key is not None
            found.setdefault(event.partition or "", []).append(event.asset_key.to_user_string())
        return found

    def checked(self) -> dict[str, dict[str, bool]]:
        """Tell how the checks of this run ended, by partition and name."""
        found: dict[str, dict[str, bool]] = {}
        for entry in self.instance.all_logs(self.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION):
            assert entry.dagster_event is not None
            evaluation = entry.dagster_event.asset_check_evaluation_data
            found.setdefault(evaluation.partition or "", {})[evaluation.check_name] = evaluation.passed
        return found


def launch(
    instance: dg.DagsterInstance,
    tags: Mapping[str, str],
    *,
    assets: Collection[dg.AssetKey] = ASSETS,
    checks: Collection[dg.AssetCheckKey] | None = None,
) -> Finished:
    """Run it in this process; without a selection, the job that the schedule launches.

    Args:
        instance: where it is recorded.
        tags: which customers, and whatever else.
        assets: which are selected.
        checks: which are selected; None for those of the assets.
    """
    if (set(assets), checks) == (set(ASSETS), None):
        return execute(instance, "user_account_sync_job", tags)
    job = defs.resolve_implicit_global_asset_job_def().get_subset(
        asset_selection=frozenset(assets), asset_check_selection=None if checks is None else frozenset(checks)
    )
    return _execute(instance, job, tags)


def execute(instance: dg.DagsterInstance, job: str, tags: Mapping[str, str]) -> Finished:
    """Run one of the project's jobs in this process."""
    return _execute(instance, defs.resolve_job_def(job), tags)


def _execute(instance: dg.DagsterInstance, job: dg.JobDefinition, tags: Mapping[str, str]) -> Finished:
    run = instance.create_run_for_job(job, tags=tags)
    execute_run(InMemoryJob(job), run, instance)
    return Finished(instance, run.run_id)


def status(instance: dg.DagsterInstance, asset: dg.AssetKey) -> tuple[set[str], set[str]]:
    """Tell which partitions the UI shows as materialized and which as failed."""
    value = get_and_update_asset_status_cache_value(instance, asset, customers)
    assert value is not None
    with dg.partition_loading_context(dynamic_partitions_store=instance):
        materialized = value.deserialize_materialized_partition_subsets(customers)
        failed = value.deserialize_failed_partition_subsets(customers)
        return set(materialized.get_partition_keys()), set(failed.get_partition_keys())


def latest_check(instance: dg.DagsterInstance, check: dg.AssetCheckKey, partition: str) -> bool | None:
    """Tell how a check of one customer last ended, read back as the UI does; None if it never ran."""
    evaluation = latest_evaluation(instance, check, partition)
    return evaluation.passed if evaluation else None


def latest_evaluation(
    instance: dg.DagsterInstance, check: dg.AssetCheckKey, partition: str
) -> dg.AssetCheckEvaluation | None:
    """Return what a check of one customer told last."""
    records = instance.event_log_storage.get_asset_check_execution_history(
        check, limit=1, partition_filter=PartitionKeyFilter(key=partition)
    )
    if not records or records[0].event is None or records[0].event.dagster_event is None:
        return None
    return records[0].event.dagster_event.asset_check_evaluation_data


def backend(instance: dg.DagsterInstance) -> int:
    """Tell which of the server's processes the next query goes to: another one for each new connection."""
    with instance.event_log_storage.index_connection() as connection:  # type: ignore[attr-defined]
        return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())


@pytest.fixture
def instance(dagster_url: str, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance on PostgreSQL; its files are in the test's folder."""
    home = tmp_path / "dagster"
    home.mkdir()
    storage = {"storage": {"postgres": {"postgres_url": dagster_url}}, "telemetry": {"enabled": False}}
    with dg.instance_for_test(overrides=storage, temp_dir=str(home)) as opened:
        yield opened


def register(instance: dg.DagsterInstance, *partitions: str) -> None:
    """Add partitions in this order, as connecting does."""
    for partition in partitions:
        instance.add_dynamic_partitions(CUSTOMERS, [partition])
