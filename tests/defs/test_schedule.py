"""The hourly schedule: who is due, and how they are cut into runs."""

from datetime import UTC, datetime
from itertools import pairwise

import dagster as dg
import pytest
from dagster._core.definitions.schedule_definition import ScheduleExecutionData
from dagster._core.remote_representation.external_data import ScheduleExecutionErrorSnap
from dagster._grpc.impl import get_external_schedule_execution
from dagster_shared.error import SerializableErrorInfo
from hypothesis import given
from hypothesis import strategies as st

from symvanta_pipeline.definitions import defs
from symvanta_pipeline.defs.partitions import CUSTOMERS
from symvanta_pipeline.defs.schedule import stretches
from symvanta_pipeline.ledger import connections
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres
from tests.support.parts import Parts, refusing_connections
from tests.support.runs import one, register, stretch

HOUR = datetime(2026, 11, 23, 22, 0, tzinfo=UTC)
ABCDE = list("abcde")


@st.composite
def partitions_and_due(draw: st.DrawFn) -> tuple[list[str], set[str]]:
    """Draw partitions in an order of their own, and some of them, with strangers, as due."""
    names = [f"customer-{n}" for n in draw(st.permutations(range(draw(st.integers(0, 12)))))]
    due = {name for name in names if draw(st.booleans())} | draw(st.sets(st.just("not-registered")))
    return names, due


@given(partitions_and_due(), st.integers(1, 14))
def test_stretches_hold_exactly_the_due_ones(drawn: tuple[list[str], set[str]], longest: int) -> None:
    partitions, due = drawn
    cuts = list(stretches(partitions, due, longest))
    # A range means everything between its ends, in the order of the partitions.
    ranges = [partitions[partitions.index(first) : partitions.index(last) + 1] for first, last in cuts]
    held = [name for members in ranges for name in members]
    assert held == [name for name in partitions if name in due]
    assert all(0 < len(members) <= longest for members in ranges)
    # No more runs than needed: two neighbours are apart because one is full, or because somebody stands between them.
    for left, right in pairwise(ranges):
        between = partitions[partitions.index(left[-1]) + 1 : partitions.index(right[0])]
        assert len(left) == longest or between


@pytest.mark.parametrize(
    ("due", "longest", "cuts"),
    [
        ("", 2, []),
        ("abcde", 9, ["ae"]),
        ("abcde", 2, ["ab", "cd", "ee"]),
        ("abcde", 1, ["aa", "bb", "cc", "dd", "ee"]),
        ("abde", 9, ["ab", "de"]),
        ("ace", 9, ["aa", "cc", "ee"]),
        ("bcd", 2, ["bc", "dd"]),
        ("xyz", 2, []),
    ],
)
def test_stretches(due: str, longest: int, cuts: list[str]) -> None:
    assert list(stretches(ABCDE, set(due), longest)) == [tuple(cut) for cut in cuts]


def evaluate(instance: dg.DagsterInstance, at: datetime = HOUR) -> ScheduleExecutionData:
    """Evaluate it as the code server does."""
    tick = _tick(instance, at)
    assert isinstance(tick, ScheduleExecutionData), tick
    return tick


def error(instance: dg.DagsterInstance) -> SerializableErrorInfo:
    """Return what the UI shows of a tick that failed."""
    tick = _tick(instance, HOUR)
    assert isinstance(tick, ScheduleExecutionErrorSnap)
    assert tick.error is not None
    assert tick.error.cause is not None
    return tick.error.cause


def _tick(instance: dg.DagsterInstance, at: datetime) -> ScheduleExecutionData | ScheduleExecutionErrorSnap:
    return get_external_schedule_execution(
        defs.get_repository_def(), instance.get_ref(), "hourly_user_account_sync", at.timestamp(), "UTC", None
    )


def asked(tick: ScheduleExecutionData) -> dict[str, dict[str, str]]:
    """Return run keys and the tags that say for which customers, of what a tick asks for."""
    return {
        str(request.run_key): {k: v for k, v in request.tags.items() if k in {**one(""), **stretch("", "")}}
        for request in tick.run_requests or []
    }


def test_parked_and_disconnected_customers_are_cut_around(
    parts: Parts, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    organizations = {slug: parts.customer(slug) for slug in "abcdefgh"}
    register(instance, *organizations)
    assert connections.park(parts.ledger, organizations["c"], "refused", token_generation=1)
    parts.ledger.execute("UPDATE connections SET state = 'disconnected', disconnected_at = now() WHERE customer = 'e'")
    instance.add_dynamic_partitions(CUSTOMERS, ["never-connected"])
    assert asked(evaluate(instance)) == {
        "2026-11-23T22:00Z a b": stretch("a", "b"),
        "2026-11-23T22:00Z d d": one("d"),
        "2026-11-23T22:00Z f h": stretch("f", "h"),
    }
    assert asked(evaluate(instance)) == asked(evaluate(instance))
    assert set(asked(evaluate(instance, HOUR.replace(hour=23)))).isdisjoint(asked(evaluate(instance)))

    monkeypatch.setenv("SYMVANTA_CUSTOMERS_PER_RUN", "2")
    assert [tags for _, tags in sorted(asked(evaluate(instance)).items())] == [
        stretch("a", "b"),
        one("d"),
        stretch("f", "g"),
        one("h"),
    ]


def test_what_a_tick_asks_for_can_run(parts: Parts, instance: dg.DagsterInstance) -> None:
    """A range in the order of registration, which is not that of the alphabet."""
    register(instance, "zeta", "acme")
    for slug in ("acme", "zeta"):
        parts.customer(slug)
    [tags] = asked(evaluate(instance)).values()
    assert tags == stretch("zeta", "acme")
    job = defs.resolve_job_def("user_account_sync_job")
    result = job.execute_in_process(instance=instance, tags=tags)
    assert {event.partition for event in result.get_asset_materialization_events()} == {"zeta", "acme"}


def test_nobody_connected_is_a_skip_with_a_reason(parts: Parts, instance: dg.DagsterInstance) -> None:
    connections.park(parts.ledger, parts.customer("acme"), "refused", token_generation=1)
    register(instance, "acme")
    tick = evaluate(instance)
    assert not tick.run_requests
    assert tick.skip_message == "no customer is connected: see `symvanta customers`"


@pytest.mark.usefixtures("parts")
def test_a_malformed_setting_fails_the_tick_in_words(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in ("many", "0"):
        monkeypatch.setenv("SYMVANTA_CUSTOMERS_PER_RUN", value)
        assert error(instance).message.strip() == (
            "symvanta_pipeline.settings.SettingsError: "
            "SYMVANTA_CUSTOMERS_PER_RUN is malformed: it should hold a whole number of at least 1"
        )


def test_a_ledger_that_is_away_fails_the_tick_in_words(
    parts: Parts, instance: dg.DagsterInstance, postgres: EmbeddedPostgres
) -> None:
    parts.customer("acme")
    register(instance, "acme")
    with refusing_connections(parts.ledger_url, postgres):
        shown = error(instance)
    assert "LedgerUnavailable: the pipeline's own database cannot be reached" in shown.message
    assert parts.ledger_url.split(":")[2].partition("@")[0] not in shown.to_string()


def test_tables_that_were_never_made_fail_the_tick_in_words(
    parts: Parts, instance: dg.DagsterInstance, sym_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    del parts
    monkeypatch.setenv("SYMVANTA_DATABASE_URL", sym_url)
    assert (
        "LedgerOutdated: the pipeline's own tables do not exist yet; run: symvanta migrate" in error(instance).message
    )
