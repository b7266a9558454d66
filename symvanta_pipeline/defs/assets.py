"""The three assets, from Sym's rows to what Vanta accepted, and their checks (Dagster: one multi-asset).

Belongs here: what is selected, what is emitted, how a run fails. Does not belong here: how a customer is synced
(``sync``), when (``schedule``).

One op does all three, since the push is never a step that loads what an earlier run stored: stale state must
not be pushable. Events carry their partition and are *yielded*, which stores them at once: a killed worker does
not forget who was done.
"""

import warnings
from collections.abc import Iterator, Mapping
from datetime import datetime

import dagster as dg
from dagster._core.storage.tags import PARENT_RUN_ID_TAG, RETRY_NUMBER_TAG, SCHEDULED_EXECUTION_TIME_TAG

from symvanta_pipeline.defs.events import checks_of, materializations_of
from symvanta_pipeline.defs.partitions import customers
from symvanta_pipeline.defs.resources import Ledger, SymDatabase, Vanta, customer_sync
from symvanta_pipeline.ledger.database import LedgerError
from symvanta_pipeline.settings import ScheduleSettings, SettingsError, load
from symvanta_pipeline.sync import CustomerResult, Reach

USERS = dg.AssetKey(["sym", "users"])
ACCOUNTS = dg.AssetKey(["vanta", "user_accounts"])
SYNC = dg.AssetKey(["vanta", "user_account_sync"])

SPECS = [
    dg.AssetSpec(
        USERS,
        description=(
            "Everyone in Sym's database who belongs to the customer: admins, members and guests, also those who "
            "left. One row per user and identity. Read afresh in every run, in one read-only transaction."
        ),
        group_name="sym",
        kinds={"postgres", "pandas"},
    ),
    dg.AssetSpec(
        ACCOUNTS,
        deps=[USERS],
        description="The same people as Vanta's UserAccount records. Nothing is sent by materializing this.",
        group_name="vanta",
        kinds={"pandas"},
    ),
    dg.AssetSpec(
        SYNC,
        deps=[ACCOUNTS],
        description=(
            "What Vanta accepted: one PUT replaces everything that it knew of the customer. Materializing this "
            "reads and maps afresh, then sends."
        ),
        group_name="vanta",
        kinds={"vanta"},
    ),
]


def _check(name: str, asset: dg.AssetKey, description: str) -> dg.AssetCheckSpec:
    """Return a check with a result of its own for each customer."""
    with warnings.catch_warnings():
        # Partitioned checks are preview in Dagster 1.13, hence the tight bound on its version.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return dg.AssetCheckSpec(name, asset=asset, partitions_def=customers, description=description)


CHECKS = [
    _check(
        "rows_keep_the_contract",
        USERS,
        "Everyone read from Sym has a known type, known identities and an address.",
    ),
    _check(
        "records_are_valid",
        ACCOUNTS,
        "Vanta's schema holds for every record; one bad record would refuse the whole body.",
    ),
    _check(
        "accepted_by_vanta",
        SYNC,
        "Vanta said that it accepted the latest push. Executing this check alone sends nothing.",
    ),
]


def _customers_per_run() -> int:
    """Return the setting, or its default where it is malformed: loading must not fail, the schedule's tick tells."""
    try:
        return load(ScheduleSettings).symvanta_customers_per_run
    except SettingsError:
        return int(ScheduleSettings.model_fields["symvanta_customers_per_run"].default)


@dg.multi_asset(
    name="user_account_sync",
    specs=SPECS,
    check_specs=CHECKS,
    partitions_def=customers,
    can_subset=True,
    backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=_customers_per_run()),
)
def user_account_sync(
    context: dg.AssetExecutionContext, sym: SymDatabase, ledger: Ledger, vanta: Vanta
) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
    """Sync each customer of the run; what is selected decides how far, and only the third asset sends."""
    partitions = _partitions(context)
    failed: dict[str, CustomerResult] = {}
    try:
        with customer_sync(
            sym, ledger, vanta, reach=_reach(context), run_id=context.run.run_id, tick=_tick(context.run)
        ) as sync:
            for result in sync.results(partitions):
                yield from materializations_of(result, context.selected_asset_keys)
                yield from checks_of(result, context.selected_asset_check_keys)
                for warning in result.warnings:
                    context.log.warning(f"{result.customer}: {warning}")
                if result.failure:
                    context.log.error(f"{result.customer}: {result.failure.sentence}")
                    failed[result.customer] = result
    except (SettingsError, LedgerError) as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    if failed:
        # The others are done; a run that hid this behind a green mark would keep it from the alert.
        raise _failure(failed, len(partitions))


user_account_sync_job = dg.define_asset_job(
    "user_account_sync_job",
    selection=dg.AssetSelection.assets(USERS, ACCOUNTS, SYNC),
    description="Reads, maps and pushes; what the hourly schedule and a person's backfill run.",
)


def _partitions(context: dg.AssetExecutionContext) -> list[str]:
    if context.has_partition_key or context.has_partition_key_range:
        partitions = list(context.partition_keys)
        if not partitions:
            raise dg.Failure("this run's range of partitions holds no customer any more", allow_retries=False)
        return partitions
    if context.selected_asset_keys:
        raise dg.Failure("no customer was chosen: launch the run for one partition or for several", allow_retries=False)
    return list(context.instance.get_dynamic_partitions(customers.name or ""))


def _reach(context: dg.AssetExecutionContext) -> Reach:
    selected = context.selected_asset_keys
    if SYNC in selected:
        return Reach.PUSH
    checked = {key.asset_key for key in context.selected_asset_check_keys}
    return Reach.MAP if ACCOUNTS in selected or checked - {USERS} else Reach.READ


def _tick(run: dg.DagsterRun) -> datetime | None:
    """Return the hour that a scheduled run, or its retry by the daemon, stands for; None for a person's run."""
    tick = run.tags.get(SCHEDULED_EXECUTION_TIME_TAG)
    by_hand = PARENT_RUN_ID_TAG in run.tags and RETRY_NUMBER_TAG not in run.tags
    return datetime.fromisoformat(tick) if tick and not by_hand else None


def _failure(failed: Mapping[str, CustomerResult], total: int) -> dg.Failure:
    names: dict[str, list[str]] = {}
    for name, result in failed.items():
        if result.failure:
            names.setdefault(result.failure.sentence, []).append(name)
    sentences = [f"{', '.join(of)}: {sentence}" for sentence, of in names.items()]
    others = "; the others are done" if len(failed) < total else ""
    return dg.Failure(
        "\n".join([f"{len(failed)} of {total} customers did not get through{others}.", *sentences]),
        metadata={"customers": dg.JsonMetadataValue(sorted(failed))},
        allow_retries=False,
    )
