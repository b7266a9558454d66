"""Pruning runs: what Dagster shows of the customers stays, and everything else that is old goes."""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.storage.dagster_run import FINISHED_STATUSES, NOT_FINISHED_STATUSES
from dagster._core.storage.tags import BACKFILL_ID_TAG
from sqlalchemy import func, select

from symvanta_pipeline import housekeeping
from symvanta_pipeline.defs.assets import SYNC
from symvanta_pipeline.housekeeping import PrunedRuns, prune_runs
from tests.housekeeping.past import CUSTOMERS, Past, picture
from tests.support.parts import Parts, held, meanwhile
from tests.support.runs import ASSETS, CHECKS, Finished, launch, stretch

MONTH = timedelta(days=30)
SUCCESS, FAILURE, CANCELED = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED
STARTED = dg.DagsterRunStatus.STARTED
NOTHING = PrunedRuns(deleted=0, kept=0, left=0, logs_left=0)


def test_old_runs_go_with_all_that_belonged_to_them(instance: dg.DagsterInstance, past: Past) -> None:
    gone = [past.first, past.add(60), past.add(31)]
    kept = [past.add(29), past.add(1)]
    full = past.rows(kept[0])
    assert all(full.values()), full
    before = picture(instance)
    assert prune_runs(instance, keep=MONTH) == PrunedRuns(deleted=3, kept=0, left=0, logs_left=0)
    assert picture(instance) == before
    assert [past.rows(run_id) for run_id in kept] == [full, full]
    assert not any(count for run_id in gone for count in past.rows(run_id).values())
    assert not any(past.orphans().values())
    assert prune_runs(instance, keep=MONTH) == NOTHING


def test_a_customer_keeps_its_last_success_however_long_ago_that_was(instance: dg.DagsterInstance, past: Past) -> None:
    past.add(70)
    last = past.add(60)
    past.add(50, failed=["bold"], status=FAILURE)
    recent = past.add(1, failed=["bold"], status=FAILURE)
    before = picture(instance)
    assert before[f"status of {SYNC.to_user_string()}"] == (set(CUSTOMERS), {"bold"})
    assert prune_runs(instance, keep=MONTH) == PrunedRuns(deleted=3, kept=1, left=0, logs_left=0)
    assert set(instance.get_run_ids()) == {last, recent}
    assert picture(instance) == before


def test_what_is_not_finished_stays(instance: dg.DagsterInstance, past: Past) -> None:
    under_way = {past.add(80, status=status) for status in NOT_FINISHED_STATUSES}
    past.add(1)
    assert prune_runs(instance, keep=MONTH) == PrunedRuns(deleted=1, kept=0, left=0, logs_left=0)
    assert under_way < set(instance.get_run_ids())


@pytest.mark.parametrize(
    ("status", "stays"), [(BulkActionStatus.REQUESTED, 1), (BulkActionStatus.COMPLETED_SUCCESS, 0)]
)
def test_a_backfill_keeps_its_runs_until_it_is_done(
    instance: dg.DagsterInstance, past: Past, status: BulkActionStatus, stays: int
) -> None:
    run = past.add(60, tags={BACKFILL_ID_TAG: "abcdefgh"})
    past.add(1)
    backfill = PartitionBackfill(
        "abcdefgh", status, from_failure=False, tags={}, backfill_timestamp=0.0, asset_selection=[SYNC]
    )
    instance.add_backfill(backfill)
    assert prune_runs(instance, keep=MONTH) == PrunedRuns(deleted=2 - stays, kept=stays, left=0, logs_left=0)
    assert (run in instance.get_run_ids()) == bool(stays)


def test_what_runs_printed_goes_with_them(instance: dg.DagsterInstance, past: Past) -> None:
    gone, guarded, kept = past.first, past.add(60), past.add(1)
    storage = Path(instance.root_directory) / "storage"
    for run_id in (gone, kept, "elsewhere"):
        logs = storage / run_id / "compute_logs"
        logs.mkdir(parents=True)
        (logs / "step.err").write_text("printed")
    (storage / guarded).symlink_to(storage / "elsewhere")  # which Dagster refuses to remove, whoever asks
    assert prune_runs(instance, keep=MONTH) == PrunedRuns(deleted=2, kept=0, left=0, logs_left=1)
    assert {path.name for path in storage.iterdir()} == {guarded, kept, "elsewhere"}
    assert set(instance.get_run_ids()) == {kept}


def test_it_ends_when_its_time_is_up_and_goes_on_the_next_time(instance: dg.DagsterInstance, past: Past) -> None:
    last = [past.add(60), past.add(59, failed=CUSTOMERS, status=FAILURE), past.add(40), past.add(1)][-1]
    assert prune_runs(instance, keep=MONTH, budget=timedelta()) == PrunedRuns(deleted=0, kept=0, left=4, logs_left=0)
    assert prune_runs(instance, keep=MONTH) == PrunedRuns(deleted=4, kept=0, left=0, logs_left=0)
    assert instance.get_run_ids() == [last]


def test_of_more_than_it_can_bear_in_mind_the_oldest_go_first(
    instance: dg.DagsterInstance, past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a bound that took the newest: of a backlog of years the oldest runs would have stayed for ever."""
    monkeypatch.setattr(housekeeping, "MOST_RUNS", 3)
    old = [past.first, *(past.add(days) for days in range(60, 40, -5))]
    past.add(1)
    assert prune_runs(instance, keep=MONTH) == PrunedRuns(deleted=3, kept=0, left=0, logs_left=0)
    assert set(old) & set(instance.get_run_ids()) == set(old[3:])


def test_more_than_a_batch_of_runs_goes_and_those_between_them_stay(instance: dg.DagsterInstance, past: Past) -> None:
    old = [past.add(days) for days in range(60, 60 - 2 * housekeeping.BATCH, -1)]
    needed = past.add(31, ["cold"], status=FAILURE, failed=["cold"], unproved=["cold"])
    recent = past.add(1, ["acme", "bold"])
    before = picture(instance)
    told = prune_runs(instance, keep=MONTH)
    assert (told.deleted, told.kept) == (len(old), 2)
    assert {needed, recent, old[-1]} == set(instance.get_run_ids())
    assert picture(instance) == before
    assert not any(past.orphans().values())


def lived(past: Past, choose: random.Random) -> None:
    """Let up to nine runs of some customers have ended in one way or another within the last 90 days."""
    past.restart()
    for days in sorted((choose.uniform(0, 90) for _ in range(choose.randint(3, 9))), reverse=True):
        first = choose.randrange(len(CUSTOMERS))
        carried = CUSTOMERS[first : choose.randint(first, len(CUSTOMERS)) + 1]
        failed, unread, unproved = ([c for c in carried if choose.random() < share] for share in (0.4, 0.2, 0.3))
        ended = FAILURE if failed or unread else SUCCESS
        past.add(
            days,
            carried,
            failed=failed,
            unread=unread,
            unproved=unproved,
            status=choose.choices([ended, CANCELED, STARTED], [8, 1, 1])[0],
        )


@pytest.mark.parametrize("seed", range(5))
def test_whatever_happened_the_picture_stays_and_what_is_not_in_it_goes(
    instance: dg.DagsterInstance, past: Past, seed: int
) -> None:
    choose = random.Random(seed)
    lived(past, choose)
    before = picture(instance)
    for days in sorted((choose.uniform(1, 80) for _ in range(2)), reverse=True):
        keep = timedelta(days=days)
        prune_runs(instance, keep=keep)
        past.forget_status_cache()  # the events alone must tell it
        assert picture(instance) == before
        old = dg.RunsFilter(statuses=FINISHED_STATUSES, updated_before=datetime.now(UTC) - keep)
        assert set(instance.get_run_ids(old)) <= set(before["runs"])
        assert not any(past.orphans().values())


def told_by_each(past: Past) -> list[str]:
    """Let each run but the last have told something of its own last, and return them all."""
    return [
        past.add(80),  # what was read back of bold
        past.add(70, unproved=["bold"]),  # cold's last success
        past.add(60, ["cold"], failed=["cold"], status=CANCELED),  # cold's last users
        past.add(50, ["cold"], unread=["cold"], status=FAILURE),  # that cold is failed
        past.add(1, ["acme", "bold"], unproved=["bold"]),
    ]


def test_a_run_stays_for_a_single_thing_that_it_told_last(instance: dg.DagsterInstance, past: Past) -> None:
    needed = told_by_each(past)
    before = picture(instance)
    assert prune_runs(instance, keep=MONTH) == PrunedRuns(deleted=1, kept=4, left=0, logs_left=0)
    past.forget_status_cache()
    assert picture(instance) == before
    assert set(instance.get_run_ids()) == set(needed)


def of_nothing(_: Any) -> set[str]:
    return set()


def of_each_asset(storage: Any) -> set[str]:
    return latest_materialized(storage, housekeeping._events.asset_key)


def of_successes(storage: Any) -> set[str]:
    return latest_materialized(storage, housekeeping._events.asset_key, housekeeping._events.partition)


def latest_materialized(storage: Any, *columns: Any) -> set[str]:
    events = housekeeping._events
    kind = dg.DagsterEventType.ASSET_MATERIALIZATION.value
    latest = select(func.max(events.id)).where(events.dagster_event_type == kind).group_by(*columns)
    with storage.index_connection() as connection:
        return set(connection.scalars(select(events.run_id).where(events.id.in_(latest))))


def of_no_run(_: Any) -> list[SimpleNamespace]:
    return [SimpleNamespace(asset_key=k.asset_key.to_string(), check_name=k.name, run_id="") for k in CHECKS]


@pytest.mark.parametrize(
    ("wrong", "lost"),
    [
        ({"_told_latest": of_nothing, "_latest_checks": of_no_run}, "ASSET_MATERIALIZATION of vanta/user_account_sync"),
        ({"_told_latest": of_each_asset}, "ASSET_MATERIALIZATION of vanta/user_account_sync"),
        ({"_told_latest": of_successes}, "status of vanta/user_account_sync"),
        ({"_latest_checks": of_no_run}, "checks"),
    ],
)
def test_the_picture_shows_what_a_wrong_prune_loses(
    instance: dg.DagsterInstance,
    past: Past,
    monkeypatch: pytest.MonkeyPatch,
    wrong: dict[str, Callable[[Any], Any]],
    lost: str,
) -> None:
    told_by_each(past)
    before = picture(instance)
    for name, choice in wrong.items():
        monkeypatch.setattr(housekeeping, name, choice)
    prune_runs(instance, keep=MONTH)
    past.forget_status_cache()
    after = picture(instance)
    assert lost in {name for name in before if before[name] != after[name]}


def test_nothing_is_lost_while_a_run_is_written(instance: dg.DagsterInstance, past: Past, parts: Parts) -> None:
    for customer in CUSTOMERS:
        parts.customer(customer, people=2)
    old = [past.add(days) for days in range(52, 40, -1)]
    whole = past.rows(old[-1])
    finished: list[Finished] = []
    with (
        held(parts.ledger_url, "SELECT FROM connections WHERE customer = 'bold' FOR UPDATE") as hold,
        meanwhile(lambda: finished.append(launch(instance, stretch("acme", "cold")))),
    ):
        try:
            hold.until_somebody_waits()  # acme is done, bold under way, cold was only planned
            before = picture(instance)
            assert prune_runs(instance, keep=MONTH) == PrunedRuns(deleted=12, kept=1, left=0, logs_left=0)
            assert instance.get_runs_count(dg.RunsFilter(statuses=[STARTED])) == 1
            assert picture(instance) == before
        finally:
            hold.release()
    [run] = finished
    assert run.materialized() == {customer: [key.to_user_string() for key in ASSETS] for customer in CUSTOMERS}
    assert past.rows(run.run_id) == whole
    assert prune_runs(instance, keep=MONTH) == PrunedRuns(deleted=1, kept=0, left=0, logs_left=0)
    assert instance.get_run_ids() == [run.run_id]
    assert (Path(instance.root_directory) / "storage" / run.run_id / "compute_logs").is_dir()


def test_two_at_once_do_the_same_as_one(instance: dg.DagsterInstance, past: Past) -> None:
    old = [past.add(days) for days in range(52, 40, -1)]
    needed = {old[-1], past.add(2, failed=["cold"], status=FAILURE)}
    before = picture(instance)
    with dg.DagsterInstance.from_ref(instance.get_ref()) as other, meanwhile(lambda: prune_runs(other, keep=MONTH)):
        prune_runs(instance, keep=MONTH)
    assert picture(instance) == before
    assert set(instance.get_run_ids()) == needed
    assert not any(past.orphans().values())
