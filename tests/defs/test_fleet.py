"""How all customers stand: judged, sorted, checked, and asked for once an hour whatever the cycle does."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, get_args
from uuid import UUID

import dagster as dg
import psycopg
import pytest
from dagster._core.definitions.freshness import FreshnessState, TimeWindowFreshnessPolicy
from dagster._core.definitions.freshness_evaluator import TimeWindowFreshnessPolicyEvaluator
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.definitions.sensor_definition import SensorExecutionData
from dagster._core.execution.api import execute_run
from dagster._core.loader import LoadingContextForTest
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.test_utils import freeze_time
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._grpc.impl import get_external_sensor_execution
from dagster_shared.serdes import serialize_value

from symvanta_pipeline.definitions import defs
from symvanta_pipeline.defs import fleet
from symvanta_pipeline.defs.assets import SYNC
from symvanta_pipeline.defs.columns import COLUMNS, FLEET_STATUS
from symvanta_pipeline.defs.fleet import FLEET, LATE_CHECK, ORDER, PERSON_CHECK, Standing, in_order, report, standing_of
from symvanta_pipeline.ledger import connections
from symvanta_pipeline.ledger.alerts import Facts
from symvanta_pipeline.ledger.status import CustomerRecord, State
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres
from tests.support.parts import CANARY, Parts, refusing_connections
from tests.support.runs import CHECKS, Finished, latest_evaluation, launch, of_tick, one, register

NOW = datetime(2026, 11, 24, 10, 3, tzinfo=UTC)
ID = UUID(int=1)
FACTS = Facts(ID, run_id="run")
# A customer that was accepted in the cycle that has just ended.
RECORD = CustomerRecord(
    "acme",
    ID,
    "connected",
    NOW - timedelta(days=9),
    last_accepted_at=NOW - timedelta(minutes=1),
    outcome="accepted",
    outcome_at=NOW - timedelta(minutes=1),
    outcome_since=NOW - timedelta(days=3),
)


def ago(**units: float) -> datetime:
    return NOW - timedelta(**units)


def held(hours: float, *, by: str = "lost") -> CustomerRecord:
    return replace(
        RECORD,
        last_accepted_at=ago(hours=hours + 1),
        outcome="held",
        outcome_at=ago(minutes=1),
        outcome_since=ago(hours=hours),
        outcome_kind=by,
        sentence="held by lost: 6 of 10",
    )


# One customer


@pytest.mark.parametrize(
    ("record", "facts", "state", "since", "is_late"),
    [
        (RECORD, FACTS, "healthy", ago(days=3), False),
        (replace(RECORD, outcome="busy"), FACTS, "healthy", ago(minutes=1), False),
        (replace(RECORD, last_accepted_at=ago(minutes=90)), FACTS, "healthy", ago(days=3), False),
        (replace(RECORD, last_accepted_at=ago(minutes=91)), FACTS, "late", ago(minutes=91), True),
        # Whatever the reason: who is held for long was not accepted either.
        (held(0.5), FACTS, "held", ago(hours=0.5), False),
        (held(5), FACTS, "held", ago(hours=5), True),
        (replace(held(5), change_hash="ab", held_since=ago(hours=7)), FACTS, "held", ago(hours=7), True),
        (replace(held(5), outcome="failing"), FACTS, "failing", ago(hours=5), True),
        # Who is not connected cannot be accepted.
        (
            replace(RECORD, connection_state="parked", last_accepted_at=ago(days=2)),
            replace(FACTS, parked_at=ago(days=1)),
            "parked",
            ago(days=1),
            False,
        ),
        (
            replace(RECORD, connection_state="disconnected", last_accepted_at=ago(days=2)),
            replace(FACTS, disconnected_at=ago(days=1)),
            "disconnected",
            ago(days=1),
            False,
        ),
        (CustomerRecord("new", ID, "connected", ago(minutes=2)), FACTS, "new", ago(minutes=2), False),
        (CustomerRecord("new", ID, "connected", ago(minutes=91)), FACTS, "late", ago(minutes=91), True),
        # Connected again a moment ago: the first push is on its way.
        (
            replace(RECORD, last_accepted_at=ago(days=9), connected_at=ago(minutes=2)),
            FACTS,
            "new",
            ago(minutes=2),
            False,
        ),
        (
            replace(RECORD, last_accepted_at=ago(days=9), connected_at=ago(minutes=91)),
            FACTS,
            "late",
            ago(minutes=91),
            True,
        ),
    ],
)
def test_a_customer_is_judged(
    record: CustomerRecord, facts: Facts, state: State, since: datetime, is_late: bool
) -> None:
    standing = standing_of(record, facts, NOW)
    assert (standing.state, standing.since, standing.is_late) == (state, since, is_late)
    assert (standing.run_id, standing.last_accepted) == ("run", record.last_accepted_at)


# All of them


def standing(customer: str, state: State, *, hours: float = 1, is_late: bool = False) -> Standing:
    return Standing(
        customer, state, ago(hours=hours), ago(hours=hours), f"What to do about {customer}.", "run", is_late
    )


EVERYBODY = [
    standing("ann", "healthy"),
    standing("bob", "late", hours=3, is_late=True),
    standing("cat", "held"),
    standing("dot", "held", hours=9, is_late=True),
    standing("eve", "disconnected"),
    standing("fay", "parked"),
    standing("gil", "new"),
    standing("hal", "failing"),
    standing("ida", "held"),
]


def told(standings: list[Standing], departed: tuple[float, ...] = ()) -> dict[str, Any]:
    result = report(in_order(standings, NOW), departed)
    values: dict[str, Any] = {}
    for name, value in (result.metadata or {}).items():
        assert isinstance(value, dg.MetadataValue)
        values[name] = value.value
    return values


def checked(standings: list[Standing]) -> dict[str, dg.AssetCheckResult]:
    return {str(check.check_name): check for check in report(in_order(standings, NOW), []).check_results or []}


def test_what_needs_a_person_comes_first_and_what_lasts_longest_before() -> None:
    assert set(ORDER) == set(get_args(State))
    assert [s.customer for s in in_order(EVERYBODY, NOW)] == [
        "dot",
        "cat",
        "ida",
        "fay",
        "hal",
        "bob",
        "gil",
        "ann",
        "eve",
    ]


def test_every_customer_is_in_the_table_with_the_columns_that_are_described() -> None:
    [first, *others] = [record.data for record in told(EVERYBODY)["customers"].records]
    assert list(first) == [column.name for column in COLUMNS[FLEET_STATUS]]
    assert first == {
        "customer": "dot",
        "state": "held",
        "since": "2026-11-24 01:03",
        "last_accepted": "2026-11-24 01:03",
        "next_step": "What to do about dot.",
        "run_id": "run",
    }
    assert len(others) == len(EVERYBODY) - 1


# A sentence as long as that of a brake with its two commands.
SENTENCE = "Nothing was sent: held by lost: 40 of 100 are not active any more (limit 20 % and 5). " * 3


def fleet_of(customers: int, *, held: int) -> list[Standing]:
    run_id = "5ef1c1d2-0000-4000-8000-000000000000"
    return [
        replace(standing(f"customer-{n:04}", "held" if n < held else "healthy"), next_step=SENTENCE, run_id=run_id)
        for n in range(customers)
    ]


def stored(standings: list[Standing]) -> int:
    """Return how many bytes Dagster stores of the materialization."""
    result = report(in_order(standings, NOW), [])
    return len(serialize_value(dg.AssetMaterialization(FLEET, metadata=result.metadata)))


@pytest.mark.parametrize(("held", "most"), [(0, 30_000), (5, 35_000), (1000, 100_000)])
def test_a_thousand_customers_are_no_burden_for_the_page_that_loads_a_hundred_of_them(held: int, most: int) -> None:
    """Guards against a row and a sentence for everybody each hour: 815 KB where all are held."""
    assert stored(fleet_of(1000, held=held)) < most


def test_a_table_of_everybody_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "ROWS", 1000)
    assert stored(fleet_of(1000, held=0)) > 30_000
    assert stored(fleet_of(1000, held=1000)) > 100_000


def test_of_however_many_each_who_needs_a_look_is_found() -> None:
    many = fleet_of(1000, held=300)
    values = told(many)
    assert values["dagster/row_count"] == 1000
    assert (values["state held"], values["state healthy"]) == (300, 700)
    shown = [record.data["customer"] for record in values["customers"].records]
    names = {s.customer for s in many if s.state == "held"}
    assert len(shown) == 100
    assert {*shown, *values["not_in_table"]["held"]} == names
    assert list(values["not_in_table"]) == ["held"], "who is well is a number, and a partition"
    lines = values["needs_a_person"].splitlines()
    assert len(lines) == 2 + 50 + 2
    assert lines[-1] == "and 250 more: [their partitions](/assets/vanta/user_account_sync?view=partitions) say why"
    assert checked(many)[PERSON_CHECK].metadata["names"].value == [s.customer for s in in_order(many, NOW)[:300]]


def test_who_needs_a_look_is_linked_to_partition_and_run() -> None:
    lines = told(EVERYBODY)["needs_a_person"].splitlines()[2:]
    assert [line.split("]")[0] for line in lines] == [f"| [{c}" for c in ("dot", "cat", "ida", "fay", "hal", "bob")]
    assert lines[0] == (
        "| [dot](/assets/vanta/user_account_sync?view=partitions&partition=dot) | held | 2026-11-24 01:03 "
        "| 2026-11-24 01:03 | What to do about dot. | [run](/runs/run) |"
    )
    never = replace(standing("a.b~c", "parked"), since=None, last_accepted=None, run_id=None)
    assert "partition=a.b~c) | parked |  | never | What to do about a.b~c. |  |" in told([never])["needs_a_person"]
    assert told([EVERYBODY[0]])["needs_a_person"] == "Nobody."


def test_figures_of_the_fleet_have_no_holes() -> None:
    figures = told(EVERYBODY, (60, 120, 7200))
    assert {name: figures[name] for name in figures if name.startswith("state ")} == {
        "state new": 1,
        "state healthy": 1,
        "state late": 1,
        "state held": 3,
        "state parked": 1,
        "state failing": 1,
        "state disconnected": 1,
    }
    assert (figures["late_customers"], figures["dagster/row_count"]) == (2, 9)
    assert (figures["departures"], figures["departure_minutes_longest"], figures["departure_minutes_median"]) == (
        3,
        120,
        2,
    )
    assert told([]).keys() == figures.keys()


def test_late_customers_are_counted_and_named() -> None:
    late = checked(EVERYBODY)[LATE_CHECK]
    assert (late.passed, late.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert (late.metadata["customers"].value, late.metadata["names"].value) == (2, ["dot", "bob"])
    assert late.description == (
        "dot: held since 2026-11-24 01:03 UTC. What to do about dot.\n\n"
        "bob: late since 2026-11-24 07:03 UTC. What to do about bob."
    )


def test_who_waits_for_a_person_is_named_and_warned_of() -> None:
    waits = checked(EVERYBODY)[PERSON_CHECK]
    assert (waits.passed, waits.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert waits.metadata["names"].value == ["dot", "cat", "ida", "fay", "hal"]


def test_many_are_counted_and_the_first_are_told_of() -> None:
    many = [standing(f"customer-{n:03}", "parked") for n in range(300)]
    waits = checked(many)[PERSON_CHECK]
    assert waits.metadata["customers"].value == 300
    assert (waits.description or "").endswith("customer-019.\n\nand 280 more: `names` has them all")


def test_a_fleet_that_is_well_passes() -> None:
    for well in ([], [EVERYBODY[0], EVERYBODY[4], EVERYBODY[6]]):
        checks = checked(well)
        assert set(checks) == {LATE_CHECK, PERSON_CHECK}
        assert all(check.passed and check.description is None for check in checks.values())


# The asset, on real parts


def materialize(instance: dg.DagsterInstance) -> Finished:
    job = defs.resolve_job_def("fleet_status_job")
    run = instance.create_run_for_job(job)
    execute_run(InMemoryJob(job), run, instance)
    return Finished(instance, run.run_id)


def test_a_cycle_is_told_of_customer_by_customer(parts: Parts, instance: dg.DagsterInstance) -> None:
    for slug in ("acme", "held", "parked"):
        parts.customer(slug, people=2)
    organization = parts.sym.connection.execute("SELECT id FROM organizations WHERE slug = 'held'").fetchall()[0][0]
    broken = parts.person(organization, email=None)
    parked = parts.customer("gone")
    connections.park(parts.ledger, parked, "the grant was refused", token_generation=1)
    register(instance, "acme", "held", "parked")
    runs = {slug: launch(instance, one(slug)).run_id for slug in ("acme", "held")}

    finished = materialize(instance)
    assert finished.success
    assert finished.checked() == {"": {LATE_CHECK: True, PERSON_CHECK: False}}
    event = instance.get_latest_materialization_event(FLEET)
    assert event is not None
    assert event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    table = metadata["customers"].value
    assert isinstance(table, dg.TableMetadataValue)
    rows = {str(record.data["customer"]): record.data for record in table.records}
    assert list(rows) == ["held", "gone", "parked", "acme"]
    assert [rows[customer]["state"] for customer in rows] == ["held", "parked", "new", "healthy"]
    assert str(broken) in str(rows["held"]["next_step"])
    # And on the customer's partition, to which the table leads, whoever is in it or not.
    [check] = [key for key in CHECKS if key.name == "accepted_by_vanta"]
    evaluation = latest_evaluation(instance, check, "held")
    assert evaluation is not None
    assert str(broken) in str(evaluation.metadata["reason"].value)
    assert [rows[customer]["run_id"] for customer in ("held", "acme", "gone")] == [runs["held"], runs["acme"], None]
    assert not CANARY.search(repr(event))


def test_a_ledger_that_is_away_fails_the_run_in_words(
    parts: Parts, instance: dg.DagsterInstance, postgres: EmbeddedPostgres
) -> None:
    with refusing_connections(parts.ledger_url, postgres):
        finished = materialize(instance)
    assert not finished.success
    assert "the pipeline's own database cannot be reached" in finished.failure


def freshness(instance: dg.DagsterInstance, asset: dg.AssetKey, minutes: float) -> FreshnessState:
    """Evaluate an asset's policy as the daemon does, in so many minutes."""
    node = defs.resolve_asset_graph().get(asset)
    with freeze_time(datetime.now(UTC) + timedelta(minutes=minutes)):
        evaluation = TimeWindowFreshnessPolicyEvaluator().evaluate_freshness(LoadingContextForTest(instance), node)
        # In a thread of its own: the browser's tests leave a loop that counts as running in this one.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, evaluation).result()


def a_push(parts: Parts, instance: dg.DagsterInstance) -> None:
    parts.customer("acme")
    register(instance, "acme")
    launch(instance, one("acme"))


@pytest.mark.parametrize(
    ("asset", "make", "windows"),
    [(FLEET, lambda _, instance: materialize(instance), (120, 150)), (SYNC, a_push, (75, 90))],
    ids=["fleet", "sync"],
)
def test_dagster_s_own_freshness_is_that_of_the_latest_materialization(
    parts: Parts,
    instance: dg.DagsterInstance,
    asset: dg.AssetKey,
    make: Callable[[Parts, dg.DagsterInstance], object],
    windows: tuple[int, int],
) -> None:
    warns, fails = windows
    assert freshness(instance, asset, 0) is FreshnessState.UNKNOWN
    make(parts, instance)
    expected = {
        0: FreshnessState.PASS,
        warns - 1: FreshnessState.PASS,
        warns + 1: FreshnessState.WARN,
        fails + 1: FreshnessState.FAIL,
    }
    assert {minutes: freshness(instance, asset, minutes) for minutes in expected} == expected


# When it is due

ORIGIN = InProcessCodeLocationOrigin(
    LoadableTargetOrigin(module_name="symvanta_pipeline.definitions"), location_name="symvanta_pipeline"
)
HOUR = datetime(2026, 11, 24, 10, tzinfo=UTC)


def evaluate(instance: dg.DagsterInstance, at: datetime, cursor: str | None = None) -> SensorExecutionData:
    """Evaluate the sensor as the code server does, at a moment."""
    with freeze_time(at):
        tick = get_external_sensor_execution(
            defs.get_repository_def(),
            ORIGIN,
            instance.get_ref(),
            "fleet_status_after_each_cycle",
            last_tick_completion_timestamp=None,
            last_run_key=None,
            cursor=cursor,
            log_key=None,
            last_sensor_start_timestamp=None,
        )
    assert isinstance(tick, SensorExecutionData), tick
    return tick


def asked(tick: SensorExecutionData) -> str | None:
    """Return the run key that a tick asks for, if it asks."""
    keys = [request.run_key for request in tick.run_requests or []]
    assert len(keys) <= 1
    return keys[0] if keys else None


class Runs:
    """Runs of the hourly schedule, as the daemon leaves them behind."""

    def __init__(self, instance: dg.DagsterInstance, url: str) -> None:
        self.instance = instance
        self.database = psycopg.connect(url, autocommit=True)

    def add(self, hour: datetime, status: dg.DagsterRunStatus, *, asked_at: datetime | None = None) -> None:
        job = defs.resolve_job_def("user_account_sync_job")
        origin = RemoteJobOrigin(RemoteRepositoryOrigin(ORIGIN, "__repository__"), job.name)
        run = self.instance.create_run_for_job(job, tags=one("acme") | of_tick(hour), remote_job_origin=origin)
        self.database.execute(
            "UPDATE runs SET status = %s, create_timestamp = %s WHERE run_id = %s",
            [status.value, (asked_at or hour).replace(tzinfo=None), run.run_id],
        )

    def end(self, status: dg.DagsterRunStatus = dg.DagsterRunStatus.SUCCESS) -> None:
        self.database.execute("UPDATE runs SET status = %s", [status.value])


@pytest.fixture
def runs(instance: dg.DagsterInstance, dagster_url: str) -> Iterator[Runs]:
    made = Runs(instance, dagster_url.replace("+psycopg2", ""))
    yield made
    made.database.close()


def test_it_is_asked_for_when_the_runs_of_the_hour_have_ended(runs: Runs, instance: dg.DagsterInstance) -> None:
    at = HOUR + timedelta(minutes=3)
    assert evaluate(instance, at).skip_message == "the cycle of 10:00 UTC has not begun"
    runs.add(HOUR, dg.DagsterRunStatus.SUCCESS)
    runs.add(HOUR, dg.DagsterRunStatus.QUEUED)
    assert evaluate(instance, at).skip_message == "the cycle of 10:00 UTC is under way"
    for ended in (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED):
        runs.end(ended)
        tick = evaluate(instance, at)
        assert asked(tick) == "2026-11-24T10:00Z"
    again = evaluate(instance, at, tick.cursor)
    assert (asked(again), again.skip_message) == (None, "the status of 10:00 UTC was asked for")


def test_the_first_few_runs_of_a_tick_are_not_taken_for_all(runs: Runs, instance: dg.DagsterInstance) -> None:
    at = HOUR + timedelta(minutes=3)
    runs.add(HOUR, dg.DagsterRunStatus.SUCCESS, asked_at=at - timedelta(seconds=59))
    assert evaluate(instance, at).skip_message == "the cycle of 10:00 UTC is under way"
    assert asked(evaluate(instance, at + timedelta(seconds=1)))


def test_a_cycle_that_takes_for_ever_starves_nothing(runs: Runs, instance: dg.DagsterInstance) -> None:
    cursor, keys = None, []
    runs.add(HOUR, dg.DagsterRunStatus.STARTED)
    for minutes in range(0, 240, 5):
        tick = evaluate(instance, HOUR + timedelta(minutes=minutes), cursor)
        cursor = tick.cursor or cursor
        keys.append(asked(tick))
    assert [key for key in keys if key] == [f"2026-11-24T{hour}:00Z" for hour in (10, 11, 12, 13)]
    assert [index for index, key in enumerate(keys) if key] == [11, 23, 35, 47], "at five to the hour"


def test_another_hour_s_runs_and_another_job_s_are_none_of_this_cycle(runs: Runs, instance: dg.DagsterInstance) -> None:
    runs.add(HOUR, dg.DagsterRunStatus.SUCCESS)
    runs.add(HOUR - timedelta(hours=1), dg.DagsterRunStatus.STARTED)
    instance.create_run_for_job(
        defs.resolve_job_def("fleet_status_job"),
        tags=of_tick(HOUR),
        remote_job_origin=RemoteJobOrigin(RemoteRepositoryOrigin(ORIGIN, "__repository__"), "fleet_status_job"),
    )
    assert asked(evaluate(instance, HOUR + timedelta(minutes=3)))


def test_the_longest_gap_that_the_sensor_leaves_is_no_breach_of_freshness(
    runs: Runs, instance: dg.DagsterInstance
) -> None:
    """Guards against the window of the hourly push, which a short cycle followed by a long one exceeds."""
    runs.add(HOUR, dg.DagsterRunStatus.SUCCESS)
    runs.add(HOUR + timedelta(hours=1), dg.DagsterRunStatus.STARTED)
    cursor, times = None, []
    for minutes in range(120):
        tick = evaluate(instance, HOUR + timedelta(minutes=minutes), cursor)
        cursor = tick.cursor or cursor
        times += [minutes] if asked(tick) else []
    assert times == [1, 115]
    gap, in_the_queue = timedelta(minutes=times[1] - times[0]), timedelta(minutes=30)
    policy = defs.resolve_asset_graph().get(FLEET).freshness_policy
    assert isinstance(policy, TimeWindowFreshnessPolicy)
    assert policy.warn_window
    assert gap < timedelta(hours=1) + fleet.AT_LAST < policy.warn_window.to_timedelta()
    assert gap + in_the_queue < policy.fail_window.to_timedelta()
    hourly = defs.resolve_asset_graph().get(SYNC).freshness_policy
    assert isinstance(hourly, TimeWindowFreshnessPolicy)
    assert gap > hourly.fail_window.to_timedelta(), "the window that this guards against"


def test_it_goes_before_the_runs_that_wait() -> None:
    assert int((fleet.fleet_status_job.tags or {})["dagster/priority"]) > 0
