"""House-keeping once a day: forgetting what nobody needs any more (Dagster: a job and its schedule).

Belongs here: when, how long things are kept, and what is told of it. Does not belong here: what may go and how
(``housekeeping`` for Dagster's runs, ``ledger.retention`` for our own tables).
"""

from datetime import timedelta

import dagster as dg
from dagster._core.storage.tags import PRIORITY_TAG

from symvanta_pipeline.defs.resources import Ledger
from symvanta_pipeline.housekeeping import prune_runs
from symvanta_pipeline.ledger import retention
from symvanta_pipeline.ledger.database import LedgerError
from symvanta_pipeline.settings import RetentionSettings, SettingsError, load

# Before what is pushed in bulk, whose priority is 0: behind it, a queue that is never empty would starve this. Hourly
# runs leave it a place (dagster.yaml); a backfill that takes that one is waited for by a run's length.
PRIORITY = "1"


@dg.op(description="Deletes runs with their events, checks and logs, but for those that told the latest of anything.")
def prune_dagster(context: dg.OpExecutionContext) -> None:
    """Delete what Dagster keeps for ever."""
    pruned = prune_runs(context.instance, keep=_kept()[0])
    context.log.info(
        f"{pruned.deleted} runs deleted, {pruned.kept} old ones kept for what they told last, {pruned.left} left"
    )
    if pruned.logs_left:
        context.log.warning(
            f"what {pruned.logs_left} of the deleted runs printed could not be removed: see their owner"
        )
    context.add_output_metadata(vars(pruned))


@dg.op(description="Deletes what is older than an audit asks for from the ledger, and what has expired.")
def prune_ledger(context: dg.OpExecutionContext, ledger: Ledger) -> None:
    """Delete what our own tables keep for ever."""
    keep_runs, keep_ledger = _kept()
    try:
        with ledger.open() as live:
            pruned = retention.prune(live.get(), keep_ledger=keep_ledger, keep_runs=keep_runs)
    except (SettingsError, LedgerError) as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    context.log.info(", ".join(f"{table}: {rows} rows deleted" for table, rows in pruned.items()))
    context.add_output_metadata(pruned)


def _kept() -> tuple[timedelta, timedelta]:
    """Return how long runs are kept, and how long the ledger."""
    try:
        settings = load(RetentionSettings)
    except SettingsError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    return timedelta(days=settings.symvanta_keep_runs_days), timedelta(days=settings.symvanta_keep_ledger_days)


@dg.job(
    executor_def=dg.in_process_executor,
    tags={PRIORITY_TAG: PRIORITY},
    description="Forgets what nobody needs any more, in Dagster's database and in our own. Safe to launch at any time.",
)
def housekeeping_job() -> None:
    """Do both, neither waiting for the other."""
    prune_dagster()
    prune_ledger()


daily_housekeeping = dg.ScheduleDefinition(
    name="daily_housekeeping",
    job=housekeeping_job,
    cron_schedule="30 3 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Keeps the databases from growing for ever.",
)
