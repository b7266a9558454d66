"""The three assets, from Sym's rows to what Vanta accepted (Dagster: one multi-asset).

Belongs here: what is selected, what is emitted, how a run fails. Does not belong here: how a customer is synced
(``sync``), when (``schedule``), what is told of it (``events``, ``checks``).

One op does all three, since the push is never a step that loads what an earlier run stored: stale state must
not be pushable. Events carry their partition and are *yielded*, which stores them at once: a killed worker does
not forget who was done.
"""

import logging
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg
from dagster._core.storage.tags import (
    BACKFILL_ID_TAG,
    PARENT_RUN_ID_TAG,
    RETRY_NUMBER_TAG,
    SCHEDULED_EXECUTION_TIME_TAG,
)

from symvanta_pipeline.dagster_instance import keep_connections
from symvanta_pipeline.defs.checks import CHECKS, checks_of, targets_of
from symvanta_pipeline.defs.code import code_references, code_version
from symvanta_pipeline.defs.columns import (
    IDENTITIES_TABLE,
    ORGANIZATIONS_TABLE,
    PERSONAL,
    USERS_TABLE,
    asset_key,
    column_metadata,
)
from symvanta_pipeline.defs.events import Links, materializations_of
from symvanta_pipeline.defs.external import OWNERS
from symvanta_pipeline.defs.partitions import customers
from symvanta_pipeline.defs.resources import Ledger, SymDatabase, Vanta, customer_sync
from symvanta_pipeline.ledger.database import LedgerError
from symvanta_pipeline.ledger.status import LATE_AFTER
from symvanta_pipeline.settings import ScheduleSettings, SettingsError, load
from symvanta_pipeline.sync import ACCOUNTS as ACCOUNTS_ASSET
from symvanta_pipeline.sync import SENT as SENT_ASSET
from symvanta_pipeline.sync import USERS as USERS_ASSET
from symvanta_pipeline.sync import CustomerResult, Failure, Reach

USERS = asset_key(USERS_ASSET)
ACCOUNTS = asset_key(ACCOUNTS_ASSET)
SYNC = asset_key(SENT_ASSET)

# An hourly push may be late by a quarter of an hour before Dagster says a word; after LATE_AFTER it fails.
FRESH: Final = dg.FreshnessPolicy.time_window(fail_window=LATE_AFTER, warn_window=timedelta(minutes=75))


def _spec(
    key: dg.AssetKey,
    description: str,
    *,
    deps: Sequence[str],
    group: str,
    kinds: set[str],
    code: Sequence[tuple[str, str]],
    freshness: dg.FreshnessPolicy | None = None,
) -> dg.AssetSpec:
    asset = key.to_user_string()
    return dg.AssetSpec(
        key,
        deps=[asset_key(dep) for dep in deps],
        description=description,
        group_name=group,
        kinds=kinds,
        owners=OWNERS,
        tags={"system": group, PERSONAL: "yes"},
        code_version=code_version(asset),
        freshness_policy=freshness,
        metadata={"dagster/code_references": code_references(*code), **column_metadata(asset)},
    )


SPECS = [
    _spec(
        USERS,
        "Everyone in Sym's database who belongs to the customer: admins, members and guests, also those who "
        "left. One row per user and identity. Read afresh in every run, in one read-only transaction.\n\n"
        "A partition is a customer. Materializing this alone reads and checks, and sends nothing.",
        deps=[ORGANIZATIONS_TABLE, USERS_TABLE, IDENTITIES_TABLE],
        group="sym",
        kinds={"postgres", "pandas"},
        code=[("sym/users.sql", "SELECT"), ("sym/contract.py", "def violations"), ("sync.py", "class CustomerSync")],
    ),
    _spec(
        ACCOUNTS,
        "The same people as Vanta's UserAccount records, one a user, and what the next push would change at Vanta. "
        "Nothing is sent by materializing this: together with `sym/users` it is `symvanta plan` in the UI.\n\n"
        "Its checks are the brakes: a change that looks like a broken read is held until a person approves it.",
        deps=[USERS_ASSET],
        group="vanta",
        kinds={"pandas"},
        code=[("accounts/mapping.py", "def to_accounts"), ("accounts/brakes.py", "def judge")],
    ),
    _spec(
        SYNC,
        "What Vanta accepted: one PUT replaces everything that it knew of the customer. Materializing this "
        "reads and maps afresh, then sends; Vanta keeps the last accepted state of a customer that is held.\n\n"
        "Who needs a person, and why: [ops/fleet_status](/assets/ops/fleet_status). Freshness looks at all customers "
        "together, so that one healthy customer hides another one's silence: each customer's own is checked there.",
        deps=[ACCOUNTS_ASSET],
        group="vanta",
        kinds={"vanta"},
        code=[("vanta/client.py", "def put_accounts"), ("sync.py", "class CustomerSync")],
        freshness=FRESH,
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
    check_specs=[check.spec() for check in CHECKS],
    partitions_def=customers,
    can_subset=True,
    backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=_customers_per_run()),
)
def user_account_sync(
    context: dg.AssetExecutionContext, sym: SymDatabase, ledger: Ledger, vanta: Vanta
) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
    """Sync each customer of the run; what is selected decides how far, and only the third asset sends."""
    keep_connections(context.instance)
    partitions, tick = _partitions(context), _tick(context.run)
    failed: list[CustomerResult] = []
    try:
        with customer_sync(
            sym,
            ledger,
            vanta,
            reach=_reach(context),
            run_id=context.run.run_id,
            tick=tick,
            began=_began(context.instance, context.run),
        ) as sync:
            links = Links.from_settings()
            for result in sync.results(partitions):
                yield from materializations_of(result, context.selected_asset_keys, links)
                targets = targets_of(context.instance, result.customer, context.selected_asset_check_keys)
                yield from checks_of(result, context.selected_asset_check_keys, targets)
                if not _is_stopped(failed):
                    _log(context.log, result, tick)
                if result.failure:
                    failed.append(result)
    except (SettingsError, LedgerError) as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    if failed:
        # The others are done; a run that hid this behind a green mark would keep it from the alert.
        raise _failure(failed, len(partitions), tick)


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
    return datetime.fromisoformat(tick) if tick and not _is_by_hand(run) else None


def _began(instance: dg.DagsterInstance, run: dg.DagsterRun) -> datetime | None:
    """Return when the backfill began that a run is a part of: all of its runs are one cycle. None for other runs."""
    backfill_id = run.tags.get(BACKFILL_ID_TAG)
    backfill = instance.get_backfill(backfill_id) if backfill_id and not _is_by_hand(run) else None
    return datetime.fromtimestamp(backfill.backfill_timestamp, UTC) if backfill else None


def _is_by_hand(run: dg.DagsterRun) -> bool:
    """Tell whether a person repeats a run, which has the tags of that run."""
    return PARENT_RUN_ID_TAG in run.tags and RETRY_NUMBER_TAG not in run.tags


def _is_told(result: CustomerResult, tick: datetime | None) -> bool:
    """Tell whether a failure is announced: once, or to the person who asks. The hours after only name the customer."""
    return result.is_news or tick is None


def _is_stopped(failed: Sequence[CustomerResult]) -> bool:
    """Tell whether a failure ended the run for everybody: who comes after it was not tried, and is told of with it."""
    return any(result.failure and result.failure.of_all for result in failed)


def _log(log: dg.DagsterLogManager, result: CustomerResult, tick: datetime | None) -> None:
    for warning in result.warnings:
        log.warning(f"{result.customer}: {warning}")
    if result.failure:
        level = logging.ERROR if _is_told(result, tick) else logging.INFO
        log.log(level, f"{result.customer}: {result.failure.sentence}")


def _sentence(failure: Failure) -> str:
    """Return what is told of a failure; a cycle that was stopped is told of in one sentence for all."""
    return f"not tried: {failure.sentence}" if failure.of_all and not failure.is_attempt else failure.sentence


def _failure(failed: Sequence[CustomerResult], total: int, tick: datetime | None) -> dg.Failure:
    """Say who did not get through and why, what is new first; of who is known to be held, the name alone."""
    names: dict[str, list[str]] = {}
    known: list[str] = []
    for result in failed:
        if result.failure and _is_told(result, tick):
            names.setdefault(_sentence(result.failure), []).append(result.customer)
        else:
            known.append(result.customer)
    sentences = [f"{', '.join(of)}: {sentence}" for sentence, of in names.items()]
    if known:
        sentences.append(f"still, since earlier runs (symvanta customers says why): {', '.join(known)}")
    others = "; the others are done" if len(failed) < total else ""
    return dg.Failure(
        "\n".join([f"{len(failed)} of {total} customers did not get through{others}.", *sentences]),
        metadata={"customers": dg.JsonMetadataValue(sorted(result.customer for result in failed))},
        allow_retries=False,
    )
