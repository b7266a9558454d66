"""What Dagster keeps for ever: deleting the runs that nothing needs any more, with their events, checks and logs.

Belongs here: which of Dagster's runs stay, and how the others go. Does not belong here: our own tables
(``ledger.retention``), when this is done (``defs.housekeeping``), ticks (Dagster's own retention has those).

Dagster works out what a partition looks like from its events: with a run goes what only that run told. So a run stays
as long as it told the latest of anything: a customer that has not got through for a year keeps its last success.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES, BulkActionsFilter, BulkActionStatus
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.runs import SqlRunStorage
from dagster._core.storage.runs.schema import RunsTable
from sqlalchemy import Row, func, select

BUDGET: Final = timedelta(minutes=30)
# Runs that go together: Dagster opens a connection for each thing that it is asked, which costs more than the work.
BATCH: Final = 10
# Between two batches, so that whoever else needs the database gets a turn.
PAUSE = 0.05  # seconds
# A bound on memory for the first time after years: the oldest; what is beyond it is found the next time.
MOST_RUNS = 100_000

_BACKFILLS_UNDER_WAY: Final = [each for each in BulkActionStatus if each not in BULK_ACTION_TERMINAL_STATUSES]

_events = SqlEventLogStorageTable.c
_checks = AssetCheckExecutionsTable.c


@dataclass(frozen=True)
class PrunedRuns:
    """What became of the runs that ended longer ago than they are kept.

    Attributes:
        deleted: gone, with all that belonged to them.
        kept: still needed, since they told the latest of something.
        left: not come to before the time was up; the next prune does.
        logs_left: of those deleted, whose files of what was printed could not be removed.
    """

    deleted: int
    kept: int
    left: int
    logs_left: int


def prune_runs(instance: dg.DagsterInstance, *, keep: timedelta, budget: timedelta = BUDGET) -> PrunedRuns:
    """Delete runs that ended a while ago and told the latest of nothing, a few at a time, oldest first.

    Safe while runs are written, and for two at a time. They go in short statements, their own rows last: where this
    is killed, the next prune finds them again.

    Args:
        instance: Dagster's, on a SQL database.
        keep: how long runs stay after they ended, whatever they told.
        budget: how long this may take; the batch at hand is finished.
    """
    deadline = time.monotonic() + budget.total_seconds()
    ended = _ended(instance, datetime.now(UTC) - keep)
    if not ended:
        return PrunedRuns(deleted=0, kept=0, left=0, logs_left=0)
    checks = _latest_checks(_storage(instance))
    needed = _told_latest(_storage(instance)) | {check.run_id for check in checks} | _of_backfills_under_way(instance)
    spare = [run_id for run_id in ended if run_id not in needed]
    deleted = logs_left = 0
    for first in range(0, len(spare), BATCH):
        if time.monotonic() >= deadline:
            break
        batch = spare[first : first + BATCH]
        logs_left += sum(not _delete_logs(instance, run_id) for run_id in batch)
        _delete_runs(instance, batch, checks)
        deleted += len(batch)
        time.sleep(PAUSE)
    return PrunedRuns(deleted, kept=len(ended) - len(spare), left=len(spare) - deleted, logs_left=logs_left)


def _storage(instance: dg.DagsterInstance) -> SqlEventLogStorage:
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        raise TypeError(f"events can be pruned in a SQL database alone, not in {type(storage).__name__}")
    return storage


def _run_storage(instance: dg.DagsterInstance) -> SqlRunStorage:
    storage = instance.run_storage
    if not isinstance(storage, SqlRunStorage):
        raise TypeError(f"runs can be pruned in a SQL database alone, not in {type(storage).__name__}")
    return storage


def _ended(instance: dg.DagsterInstance, before: datetime) -> list[str]:
    """List the ids of runs that ended before a time, oldest first."""
    finished = [status.value for status in FINISHED_STATUSES]
    oldest = (
        select(RunsTable.c.run_id)
        .where(RunsTable.c.status.in_(finished), RunsTable.c.update_timestamp < before.replace(tzinfo=None))
        .order_by(RunsTable.c.id)
        .limit(MOST_RUNS)
    )
    with _run_storage(instance).connect() as connection:
        return list(connection.scalars(oldest))


def _told_latest(storage: SqlEventLogStorage) -> set[str]:
    """Give the runs of the latest event of each kind about each asset and partition.

    Each kind, since Dagster asks for the latest materialization, and for whether a later one was only planned: that is
    how a partition is failed.
    """
    latest = (
        select(func.max(_events.id))
        .where(_events.asset_key.is_not(None))
        .group_by(_events.asset_key, _events.dagster_event_type, _events.partition)
    )
    with storage.index_connection() as connection:
        return set(connection.scalars(select(_events.run_id).where(_events.id.in_(latest)).distinct()))


def _latest_checks(storage: SqlEventLogStorage) -> Sequence[Row[tuple[str, str, str]]]:
    """Give asset, name and run of the latest execution of each check for each partition."""
    latest = select(func.max(_checks.id)).group_by(_checks.asset_key, _checks.check_name, _checks.partition)
    query = select(_checks.asset_key, _checks.check_name, _checks.run_id).where(_checks.id.in_(latest)).distinct()
    with storage.index_connection() as connection:
        return connection.execute(query).all()


def _of_backfills_under_way(instance: dg.DagsterInstance) -> set[str]:
    """Give the runs by which Dagster judges how far a backfill is."""
    backfills = instance.get_backfills(BulkActionsFilter(statuses=_BACKFILLS_UNDER_WAY))
    return {
        run_id
        for backfill in backfills
        for run_id in instance.get_run_ids(dg.RunsFilter.for_backfill(backfill.backfill_id))
    }


def _delete_logs(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Remove what the run's steps printed; files of another user's must not keep the rest from going."""
    try:
        instance.compute_log_manager.delete_logs(prefix=[run_id])
    except OSError:
        return False
    return True


def _delete_runs(
    instance: dg.DagsterInstance, run_ids: Sequence[str], checks: Sequence[Row[tuple[str, str, str]]]
) -> None:
    """Do what `instance.delete_run` does and what it leaves out, in the order that a kill in between does no harm to.

    Of concurrency slots, which it frees as well, a run that ended so long ago has none.
    """
    with _storage(instance).index_connection() as connection:
        # Dagster 1.13 deletes no check executions with a run. By asset and name, which its index begins with.
        connection.execute(
            AssetCheckExecutionsTable.delete().where(
                _checks.asset_key.in_({check.asset_key for check in checks}),
                _checks.check_name.in_({check.check_name for check in checks}),
                _checks.run_id.in_(run_ids),
            )
        )
        # And it deletes these after the events by which they are found, so that a kill in between would leave them.
        connection.execute(
            AssetEventTagsTable.delete().where(
                AssetEventTagsTable.c.event_id.in_(select(_events.id).where(_events.run_id.in_(run_ids)))
            )
        )
        connection.execute(SqlEventLogStorageTable.delete().where(_events.run_id.in_(run_ids)))
    with _run_storage(instance).connect() as connection:
        connection.execute(RunsTable.delete().where(RunsTable.c.run_id.in_(run_ids)))
