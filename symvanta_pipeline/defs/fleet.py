"""How all customers stand, once an hour: one table, sorted by what needs a person (Dagster: an asset, job, sensor).

Belongs here: gathering what the ledger says of every customer into one materialization, its checks, and when it is
due. Does not belong here: judging a customer (``ledger.status``), telling people (``alerts``).

It asks the ledger alone, so that it also tells of hours in which no run happened at all.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, get_args
from urllib.parse import quote

import dagster as dg
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES
from dagster._core.storage.tags import PRIORITY_TAG, SCHEDULED_EXECUTION_TIME_TAG
from dagster._time import get_current_datetime

from symvanta_pipeline.defs.assets import SYNC, user_account_sync_job
from symvanta_pipeline.defs.code import code_references, code_version
from symvanta_pipeline.defs.columns import (
    FLEET_STATUS,
    PERSONAL,
    asset_key,
    column_metadata,
    column_schema,
    markdown_table,
)
from symvanta_pipeline.defs.events import departures
from symvanta_pipeline.defs.external import OWNERS
from symvanta_pipeline.defs.resources import Ledger
from symvanta_pipeline.ledger import alerts, snapshots
from symvanta_pipeline.ledger.alerts import Facts
from symvanta_pipeline.ledger.database import LedgerError
from symvanta_pipeline.ledger.status import LATE_AFTER, CustomerRecord, State, status_of
from symvanta_pipeline.settings import SettingsError

FLEET: Final = asset_key(FLEET_STATUS)
# What needs a person comes first.
ORDER: Final[tuple[State, ...]] = ("held", "parked", "failing", "late", "new", "healthy", "disconnected")
NEEDS_A_PERSON: Final = frozenset({"held", "parked", "failing"})
NEEDS_A_LOOK: Final = NEEDS_A_PERSON | {"late"}
WINDOW: Final = timedelta(hours=24)
SHOWN: Final = 20  # customers that a check's sentence names
# Dagster's page of an asset loads up to a hundred materializations at once: each has to stay small, however many
# customers there are.
LINKED: Final = 50  # customers that are told of with the ways there
ROWS: Final = 100  # of the table
PARTITIONS: Final = "/assets/vanta/user_account_sync?view=partitions"

# A tick that asks for many runs takes seconds: whoever looks in between would take the first few for all.
SETTLED: Final = timedelta(minutes=1)
AT_LAST: Final = timedelta(minutes=55)
# Before the runs of the next hour, whose priority is 0.
PRIORITY: Final = "5"
# A short cycle and then a long one: told of at a minute past one hour, and at five to the end of the next.
LONGEST_GAP: Final = timedelta(hours=1) + AT_LAST
FRESH: Final = dg.FreshnessPolicy.time_window(
    warn_window=LONGEST_GAP + timedelta(minutes=5), fail_window=LONGEST_GAP + timedelta(minutes=35)
)

LATE_CHECK: Final = "every_connected_customer_was_accepted_within_90_minutes"
PERSON_CHECK: Final = "nobody_waits_for_a_person"


@dataclass(frozen=True)
class Standing:
    """How one customer stands.

    Attributes:
        customer: the partition key.
        state: as `symvanta_pipeline.ledger.status` judges it.
        since: since when it stands so, as far as that is known.
        last_accepted: when Vanta last accepted a push.
        next_step: what happened and what to do, without personal data.
        run_id: Dagster's run of the latest attempt.
        is_late: whether it is connected, and nothing was accepted for longer than it may take, whatever its state.
    """

    customer: str
    state: State
    since: datetime | None
    last_accepted: datetime | None
    next_step: str
    run_id: str | None
    is_late: bool


def standing_of(record: CustomerRecord, facts: Facts, now: datetime) -> Standing:
    """Judge one customer at a moment of the ledger's clock."""
    status = status_of(record, now)
    usable_since = max(record.connected_at, record.last_accepted_at or record.connected_at)
    since = {
        "held": record.held_since if record.change_hash and record.held_since else record.outcome_since,
        "parked": facts.parked_at,
        "failing": record.outcome_since,
        "late": usable_since,
        "new": record.connected_at,
        "healthy": max(record.connected_at, record.outcome_since or usable_since)
        if record.outcome == "accepted"
        else usable_since,
        "disconnected": facts.disconnected_at,
    }[status.state]
    return Standing(
        customer=record.customer,
        state=status.state,
        since=since,
        last_accepted=record.last_accepted_at,
        next_step=status.next_step,
        run_id=facts.run_id,
        is_late=record.connection_state == "connected" and now - usable_since > LATE_AFTER,
    )


def in_order(standings: Sequence[Standing], now: datetime) -> list[Standing]:
    """Put first what needs a person, and within one state what has lasted longest."""
    return sorted(standings, key=lambda s: (ORDER.index(s.state), s.since or now, s.customer))


def report(standings: Sequence[Standing], departed: Sequence[float]) -> dg.MaterializeResult[None]:
    """Say how the fleet stands.

    Args:
        standings: of all customers, in order.
        departed: seconds from Sym to Vanta of each departure of the last `WINDOW`.
    """
    return dg.MaterializeResult(
        asset_key=FLEET,
        metadata={
            "needs_a_person": dg.MetadataValue.md(_attention(standings)),
            "customers": dg.MetadataValue.table(
                [dg.TableRecord(_row(standing)) for standing in standings[:ROWS]], schema=column_schema(FLEET_STATUS)
            ),
            "not_in_table": dg.MetadataValue.json(_names(standings[ROWS:])),
            "dagster/row_count": dg.MetadataValue.int(len(standings)),
            **_counts(standings),
            **departures(departed),
            "code_version": dg.MetadataValue.text(code_version(FLEET_STATUS)),
        },
        check_results=[
            _check(LATE_CHECK, [s for s in standings if s.is_late], dg.AssetCheckSeverity.ERROR),
            _check(PERSON_CHECK, [s for s in standings if s.state in NEEDS_A_PERSON], dg.AssetCheckSeverity.WARN),
        ],
    )


@dg.asset(
    key=FLEET,
    deps=[SYNC],
    group_name="ops",
    kinds={"postgres", "table"},
    owners=OWNERS,
    tags={"system": "symvanta", PERSONAL: "no"},
    code_version=code_version(FLEET_STATUS),
    freshness_policy=FRESH,
    metadata={
        "dagster/code_references": code_references(
            ("defs/fleet.py", "def report"), ("ledger/status.py", "def status_of")
        ),
        **column_metadata(FLEET_STATUS),
    },
    check_specs=[
        dg.AssetCheckSpec(
            LATE_CHECK,
            asset=FLEET,
            description="Vanta accepted a push of each connected customer within the last 90 minutes, or the customer "
            "connected since. Counts and names those that it did not, whatever the reason.",
        ),
        dg.AssetCheckSpec(
            PERSON_CHECK,
            asset=FLEET,
            description="No customer is held, parked or failing. Names those that are, and what to do: "
            "see docs/runbook.md.",
        ),
    ],
    description=(
        "How every customer stands, what needs a person first: a row a customer with its state, since when, the last "
        "accepted push and the next step, as `symvanta customers` says it. Materialized after each hourly cycle, and "
        "by five to the hour at the latest, also where no run happened.\n\n"
        f"The table ends after {ROWS} customers; who needs a look and is not in it is named beside it, and "
        f"[every customer's partition]({PARTITIONS}) says what was accepted last, and why nothing was since.\n\n"
        "Departures are the minutes from a deactivation in Sym until Vanta accepted it, over the last 24 hours."
    ),
)
def fleet_status(ledger: Ledger) -> Iterator[dg.MaterializeResult[None]]:
    """Ask the ledger how every customer stands."""
    try:
        with ledger.open() as live:
            connection = live.get()
            now = alerts.now(connection)
            facts = alerts.facts(connection)
            standings = [
                standing_of(record, facts.get(record.organization_id, Facts(record.organization_id)), now)
                for record in snapshots.customer_records(connection)
            ]
            departed = snapshots.departure_seconds(connection, since=now - WINDOW)
    except (SettingsError, LedgerError) as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    yield report(in_order(standings, now), departed)


fleet_status_job = dg.define_asset_job(
    "fleet_status_job",
    selection=dg.AssetSelection.assets(FLEET),
    tags={PRIORITY_TAG: PRIORITY},
    description="Looks how every customer stands. Reads the ledger alone; safe to launch at any time.",
)


@dg.sensor(
    job=fleet_status_job,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Asks for the fleet's status once an hour: when the runs of that hour's cycle have ended, or by five to the "
        "hour at the latest, so that a long cycle, or none at all, is told of too."
    ),
)
def fleet_status_after_each_cycle(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Ask once for each hour; the run key of the hour makes asking again harmless."""
    now = get_current_datetime()
    hour = now.replace(minute=0, second=0, microsecond=0)
    if context.cursor == hour.isoformat():
        return dg.SkipReason(f"the status of {hour:%H:%M} UTC was asked for")
    if now - hour < AT_LAST and (reason := _is_under_way(context.instance, hour, now)):
        return dg.SkipReason(reason)
    return dg.SensorResult(run_requests=[dg.RunRequest(run_key=f"{hour:%Y-%m-%dT%H:%MZ}")], cursor=hour.isoformat())


def _is_under_way(instance: dg.DagsterInstance, hour: datetime, now: datetime) -> str:
    """Say why the cycle of an hour is not over; "" if it is. Retries of its runs are of the same cycle."""
    cycle = dg.RunsFilter(job_name=user_account_sync_job.name, tags={SCHEDULED_EXECUTION_TIME_TAG: hour.isoformat()})
    newest = next(iter(instance.get_run_records(cycle, limit=1)), None)
    if newest is None:
        return f"the cycle of {hour:%H:%M} UTC has not begun"
    unfinished = dg.RunsFilter(job_name=cycle.job_name, tags=cycle.tags, statuses=list(NOT_FINISHED_STATUSES))
    if now - newest.create_timestamp < SETTLED or instance.get_run_records(unfinished, limit=1):
        return f"the cycle of {hour:%H:%M} UTC is under way"
    return ""


def _attention(standings: Sequence[Standing]) -> str:
    """Write down who needs a look and why, with the ways there."""
    found = [standing for standing in standings if standing.state in NEEDS_A_LOOK]
    rows = [
        [
            f"[{s.customer}]({PARTITIONS}&partition={quote(s.customer, safe='')})",
            s.state,
            _minute(s.since) or "",
            _minute(s.last_accepted) or "never",
            s.next_step,
            f"[run](/runs/{quote(s.run_id, safe='')})" if s.run_id else "",
        ]
        for s in found[:LINKED]
    ]
    if not rows:
        return "Nobody."
    table = markdown_table(["customer", "state", "since", "last accepted", "what to do", "latest"], rows)
    more = len(found) - len(rows)
    return f"{table}\n\nand {more} more: [their partitions]({PARTITIONS}) say why" if more else table


def _names(standings: Sequence[Standing]) -> dict[str, list[str]]:
    """Name those who need a look, by state."""
    names: dict[str, list[str]] = {}
    for standing in standings:
        if standing.state in NEEDS_A_LOOK:
            names.setdefault(standing.state, []).append(standing.customer)
    return names


def _row(standing: Standing) -> Mapping[str, str | None]:
    return {
        "customer": standing.customer,
        "state": standing.state,
        "since": _minute(standing.since),
        "last_accepted": _minute(standing.last_accepted),
        # Of who is well it is always the same.
        "next_step": None if standing.state == "healthy" else standing.next_step,
        "run_id": standing.run_id,
    }


def _minute(moment: datetime | None) -> str | None:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}" if moment else None


def _counts(standings: Sequence[Standing]) -> dict[str, dg.MetadataValue]:
    counted = Counter(standing.state for standing in standings)
    return {
        **{f"state {state}": dg.MetadataValue.int(counted[state]) for state in get_args(State)},
        "late_customers": dg.MetadataValue.int(sum(standing.is_late for standing in standings)),
    }


def _check(name: str, found: Sequence[Standing], severity: dg.AssetCheckSeverity) -> dg.AssetCheckResult:
    """Count and name the customers that break a promise."""
    lines = [f"{s.customer}: {s.state} since {_minute(s.since)} UTC. {s.next_step}" for s in found[:SHOWN]]
    if more := len(found) - len(lines):
        lines.append(f"and {more} more: `names` has them all")
    return dg.AssetCheckResult(
        passed=not found,
        asset_key=FLEET,
        check_name=name,
        severity=severity,
        description="\n\n".join(lines) or None,
        metadata={
            "customers": dg.MetadataValue.int(len(found)),
            "names": dg.MetadataValue.json([s.customer for s in found]),
        },
    )
