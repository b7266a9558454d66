"""The sensor that gives a newly connected customer its first sync at once (Dagster: a sensor).

Belongs here: noticing a consent that no push has followed yet, and a partition whose registration was lost. Does not
belong here: the hourly runs (``schedule``).
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import dagster as dg
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
    PRIORITY_TAG,
)

from symvanta_pipeline.defs.assets import user_account_sync_job
from symvanta_pipeline.defs.partitions import CUSTOMERS, customers
from symvanta_pipeline.defs.resources import Ledger
from symvanta_pipeline.ledger.connections import Connection

# Ahead of the hourly runs, whose priority is 0: somebody is waiting in front of a browser.
PRIORITY = "10"
LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dg.sensor(
    job=user_account_sync_job,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Asks for the first sync of every newly connected customer, and registers its partition if need be.",
)
def newly_connected_customers(context: dg.SensorEvaluationContext, ledger: Ledger) -> dg.SensorResult | dg.SkipReason:
    """Ask once per consent; the run key of organization and consent makes asking again harmless."""
    registered = context.instance.get_dynamic_partitions(CUSTOMERS)
    attempts = ledger.attempts()
    lost = [connection.customer for connection, _ in attempts if connection.customer not in registered]
    waiting = [c for c, tried in attempts if c.state == "connected" and not tried]
    if waiting:
        covered = _covered([*registered, *lost], _runs_under_way(context.instance))
        waiting = [c for c in waiting if not covered.get(c.customer, LONG_AGO) >= c.connected_at]
    if not waiting and not lost:
        return dg.SkipReason("nobody connected since the last look")
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(
                run_key=_run_key(connection),
                partition_key=connection.customer,
                tags={PRIORITY_TAG: PRIORITY},
            )
            for connection in waiting
        ],
        dynamic_partitions_requests=[customers.build_add_request(lost)] if lost else [],
    )


def _run_key(connection: Connection) -> str:
    """Name one consent; by its time as well, since generations repeat where our own database was restored."""
    return f"{connection.organization_id} {connection.generation} {connection.connected_at:%Y-%m-%dT%H:%M:%S.%fZ}"


def _runs_under_way(instance: dg.DagsterInstance) -> Sequence[dg.RunRecord]:
    return instance.get_run_records(dg.RunsFilter(statuses=list(NOT_FINISHED_STATUSES)))


def _covered(partitions: Sequence[str], runs: Iterable[dg.RunRecord]) -> dict[str, datetime]:
    """Return since when some run under way carries a partition: one from before a consent may not use its token.

    A second run of a customer that is carried since its consent would only wait for the first one's lock.
    """
    covered: dict[str, datetime] = {}
    for run in sorted(runs, key=lambda run: run.create_timestamp):
        tags = run.dagster_run.tags
        carried = [partition] if (partition := tags.get(PARTITION_NAME_TAG)) else []
        first, last = tags.get(ASSET_PARTITION_RANGE_START_TAG), tags.get(ASSET_PARTITION_RANGE_END_TAG)
        if first in partitions and last in partitions:
            carried = list(partitions[partitions.index(first) : partitions.index(last) + 1])
        covered |= dict.fromkeys(carried, run.create_timestamp)
    return covered
