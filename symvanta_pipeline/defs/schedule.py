"""The hourly schedule: which customers are due and how they are cut into runs (Dagster: a schedule).

Belongs here: when, and how many customers a run carries. Does not belong here: what a run does (``assets``).
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import dagster as dg
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
)

from symvanta_pipeline.defs.assets import user_account_sync_job
from symvanta_pipeline.defs.partitions import CUSTOMERS
from symvanta_pipeline.defs.resources import Ledger
from symvanta_pipeline.settings import ScheduleSettings, load


def stretches(partitions: Sequence[str], due: set[str], longest: int) -> Iterator[tuple[str, str]]:
    """Cut the ordered partitions into contiguous stretches of due customers, as (first, last).

    Cut around those not due: a range run that skipped one would mark it as failed when another one fails.
    """
    stretch: list[str] = []
    for partition in partitions:
        if partition in due:
            stretch.append(partition)
        if stretch and (partition not in due or len(stretch) == longest):
            yield stretch[0], stretch[-1]
            stretch = []
    if stretch:
        yield stretch[0], stretch[-1]


@dg.schedule(
    job=user_account_sync_job,
    cron_schedule="0 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Tells Vanta once an hour who every connected customer's Sym users are.",
)
def hourly_user_account_sync(
    context: dg.ScheduleEvaluationContext, ledger: Ledger
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Ask for one run per stretch of connected customers; run keys make asking twice harmless."""
    tick = context.scheduled_execution_time.astimezone(UTC)
    longest = load(ScheduleSettings).symvanta_customers_per_run
    partitions = context.instance.get_dynamic_partitions(CUSTOMERS)
    cuts = list(stretches(partitions, ledger.connected_customers(), longest))
    if not cuts:
        yield dg.SkipReason("no customer is connected: see `symvanta customers`")
    for first, last in cuts:
        yield run_request(tick, first, last)


def run_request(tick: datetime, first: str, last: str) -> dg.RunRequest:
    """Return the request for one stretch of one hour; a single customer gets Dagster's plain partition tag."""
    run_key = f"{tick:%Y-%m-%dT%H:%MZ} {first} {last}"
    if first == last:
        return dg.RunRequest(run_key=run_key, partition_key=first)
    return dg.RunRequest(
        run_key=run_key,
        tags={ASSET_PARTITION_RANGE_START_TAG: first, ASSET_PARTITION_RANGE_END_TAG: last},
    )
