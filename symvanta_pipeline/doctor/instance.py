"""Dagster: its configuration, its database, and whether its daemon does what the pipeline needs.

Belongs here: asking over connections that may only read. Does not belong here: what runs do.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import dagster as dg
import dagster_postgres.run_storage
import psycopg
from alembic.script import ScriptDirectory
from dagster._core.instance.config import dagster_instance_config
from dagster._core.instance.ref import InstanceRef
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, TickStatus
from dagster._core.storage.tags import SCHEDULE_NAME_TAG
from dagster._daemon.controller import DEFAULT_HEARTBEAT_INTERVAL_SECONDS, get_daemon_statuses
from dagster_postgres.utils import pg_alembic_config
from sqlalchemy import make_url
from yaml import YAMLError  # type: ignore[import-untyped] # its stubs are a package of their own

from symvanta_pipeline.doctor.verdict import Verdict, fail, named, number, ok, warn
from symvanta_pipeline.settings import DagsterSettings, load

CONNECT_TIMEOUT: Final = 8  # seconds
READ_ONLY: Final = "-c default_transaction_read_only=on -c statement_timeout=10s"
LOCATION: Final = "symvanta_pipeline"
HOURLY: Final = "hourly_user_account_sync"

# Dagster calls a daemon well for half an hour after its last sign of life; by then a cycle is missed.
SILENT_AFTER: Final = timedelta(minutes=5)
TICK_LATE_AFTER: Final = timedelta(minutes=70)
QUEUED_LONG_AFTER: Final = timedelta(hours=1)

# Dagster's own default of max_concurrent_runs, and its word for none.
MOST_RUNS: Final = 10
UNLIMITED: Final = -1

# What of dagster.yaml the pipeline's promises rest on, and what it is worth otherwise.
EXPECTED: Final[Mapping[tuple[str, ...], object]] = {
    ("storage", "postgres", "postgres_url"): {"env": "DAGSTER_POSTGRES_URL"},
    ("run_monitoring", "enabled"): True,
    ("run_retries", "enabled"): True,
    ("run_retries", "retry_on_asset_or_op_failure"): False,
}
_RIGHTS: Final = """
WITH held AS (
    SELECT oid, relname::text AS name, relowner FROM pg_class
    WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace
)
SELECT current_user::text,
       ARRAY(
           SELECT name FROM held
           WHERE NOT (has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT')
                      AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE'))
             AND name <> 'alembic_version'
           ORDER BY 1
       ),
       ARRAY(SELECT name FROM held WHERE NOT pg_has_role(relowner, 'USAGE') ORDER BY 1)
"""
FROM_THE_PROJECT: Final = "take dagster.yaml from the project, and change in it what differs here"


def configuration() -> Verdict:
    """Read dagster.yaml as Dagster does, and look at what the pipeline's promises rest on."""
    home = _home()
    if not (home / "dagster.yaml").is_file():
        return fail(
            f"there is none in {home}", "let DAGSTER_HOME name the folder that holds the project's dagster.yaml"
        )
    try:
        config, _ = dagster_instance_config(str(home))
    except (dg.DagsterError, YAMLError) as error:  # their texts quote the file
        return fail(f"Dagster does not accept it ({type(error).__name__})", FROM_THE_PROJECT)
    others = [".".join(path) for path, value in EXPECTED.items() if _at(config, path) != value]
    if not _at(config, ("run_launcher",)):  # Dagster's own default does not notice a run that died with its code server
        others.append("run_launcher")
    others += [] if _leaves_a_place(config) else ["run_queue.tag_concurrency_limits"]
    if others:
        return warn(f"differs from the project's in {', '.join(others)}", FROM_THE_PROJECT)
    if not os.environ.get("DAGSTER_HOME"):
        return warn(
            f"DAGSTER_HOME is not set: the one in {home} is taken, and dagster-daemon would take none",
            f"export DAGSTER_HOME={home}",
        )
    return ok(f"{home} has the project's")


def database() -> Verdict:
    """Connect, and compare the revision of its tables with the one that this Dagster was written for."""
    try:
        with _connection() as connection:
            [(exists,)] = connection.execute("SELECT to_regclass('alembic_version') IS NOT NULL").fetchall()
            found = connection.execute("SELECT version_num FROM alembic_version").fetchall() if exists else []
    except psycopg.Error as error:
        told = f"cannot be reached ({type(error).__name__})"
        return fail(told, "start it, or correct DAGSTER_POSTGRES_URL; until then nothing is scheduled")
    script = ScriptDirectory.from_config(pg_alembic_config(str(dagster_postgres.run_storage.__file__)))
    if found != [(script.get_current_head(),)]:
        what = "are not those of this version of Dagster" if found else "do not exist yet"
        return fail(f"its tables {what}", "dagster instance migrate, in one process before the others start")
    return ok("answers, and its tables are up to date")


def role() -> Verdict:
    """Look whether the role may write what Dagster writes: runs that can be read alone stay as they are."""
    with _connection() as connection:
        name, closed, foreign = connection.execute(_RIGHTS).fetchall()[0]
    if closed:
        return fail(
            f"{name} may not read and write {named(closed)}: no run can be begun or told of",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON {', '.join(closed)} TO {name}, or let it own them",
        )
    if foreign:
        return warn(
            f"{name} does not own {named(foreign)}: dagster instance migrate will fail",
            f"ALTER TABLE ... OWNER TO {name}, or REASSIGN OWNED",
        )
    return ok(f"{name} owns the tables")


def daemon() -> Verdict:
    """Look when each part of dagster-daemon last gave a sign of life."""
    with reading() as instance:
        statuses = get_daemon_statuses(
            instance,
            instance.get_required_daemon_types(),
            ignore_errors=True,
            heartbeat_tolerance_seconds=SILENT_AFTER.total_seconds() - DEFAULT_HEARTBEAT_INTERVAL_SECONDS,
        )
    beats = {name: status.last_heartbeat for name, status in statuses.items()}
    start = "start dagster-daemon, with this DAGSTER_HOME and this DAGSTER_POSTGRES_URL, once and not twice"
    if not any(beats.values()):
        return fail("it never ran", start)
    silent = [name.lower() for name, status in statuses.items() if not status.healthy]
    if silent:
        return fail(f"no sign of life for over {SILENT_AFTER.seconds // 60} minutes: {', '.join(silent)}", start)
    erring = [name.lower() for name, beat in beats.items() if beat and beat.errors]
    if erring:
        return warn(f"runs, with errors in: {', '.join(erring)}", "see Deployment, Daemons in Dagster's UI")
    return ok(f"all {len(statuses)} of its parts gave a sign of life")


def schedules() -> Verdict:
    """Look whether everything that runs by default is on, and whether the hourly schedule ticks and succeeds."""
    from symvanta_pipeline.definitions import defs  # noqa: PLC0415 - takes seconds, beside the checks of hosts

    wanted = [
        str(each.name)
        for each in (*(defs.schedules or ()), *(defs.sensors or ()))
        if isinstance(each, dg.ScheduleDefinition | dg.SensorDefinition)
        and each.default_status in (dg.DefaultScheduleStatus.RUNNING, dg.DefaultSensorStatus.RUNNING)
    ]
    with reading() as instance:
        states = {s.instigator_name: s for s in instance.all_instigator_state() if _location(s) == LOCATION}
        latest = _latest_tick(instance, states.get(HOURLY))
    off = [name for name in wanted if name in states and states[name].status is InstigatorStatus.STOPPED]
    if HOURLY in off:
        return fail(f"{named(off)} off: nothing is pushed", f"turn {HOURLY} on: Automation in Dagster's UI")
    unseen = [name for name in wanted if name not in states]
    if unseen:
        return fail(
            f"the daemon never saw {named(unseen)}",
            "see whether it loads the code location symvanta_pipeline: Deployment in Dagster's UI",
        )
    if off:
        return warn(f"{named(off)} off", "turn it on: Automation in Dagster's UI")
    return latest or ok(f"{', '.join(wanted)} on")


def queue() -> Verdict:
    """Look how many runs wait, and since when."""
    waiting = dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED])
    with reading() as instance:
        count = instance.get_runs_count(waiting)
        oldest = instance.get_run_records(waiting, limit=1, ascending=True)
    if not oldest:
        return ok("no run waits")
    waits = datetime.now(UTC) - oldest[0].create_timestamp.astimezone(UTC)
    told = f"{number(count, 'run')} queued, the oldest for {int(waits.total_seconds() / 60)} minutes"
    if waits > QUEUED_LONG_AFTER:
        return warn(told, "see in Dagster's UI, Runs, what is under way, and end what hangs")
    return ok(told)


@contextmanager
def reading() -> Iterator[dg.DagsterInstance]:
    """Open Dagster's instance over connections that may only read."""
    url = make_url(load(DagsterSettings).dagster_postgres_url.get_secret_value())
    options = f"{READ_ONLY} {url.query.get('options', '')}".strip()
    url = url.update_query_dict({"options": options, "connect_timeout": str(CONNECT_TIMEOUT)})
    storage = {"storage": {"postgres": {"postgres_url": url.render_as_string(hide_password=False)}}}
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(_home()), overrides=storage)) as instance:
        yield instance


def _home() -> Path:
    return Path(os.environ.get("DAGSTER_HOME") or Path.cwd()).absolute()


def _connection() -> "psycopg.Connection[tuple[Any, ...]]":
    url = load(DagsterSettings).dagster_postgres_url.get_secret_value().replace("+psycopg2", "", 1)
    connection = psycopg.connect(url, connect_timeout=CONNECT_TIMEOUT)
    connection.read_only = True
    return connection


def _at(config: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    """Return what stands at a path of keys; None if nothing does."""
    value: Any = config
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _leaves_a_place(config: Mapping[str, Any]) -> bool:
    """Tell whether hourly runs cannot take all places: housekeeping and the fleet's status would starve."""
    queue = {**(config.get("run_queue") or {}), **(_at(config, ("concurrency", "runs")) or {})}
    places = queue.get("max_concurrent_runs", MOST_RUNS)
    limits = [
        each["limit"]
        for each in queue.get("tag_concurrency_limits") or []
        if (each["key"], each.get("value")) == (SCHEDULE_NAME_TAG, HOURLY)
    ]
    return places == UNLIMITED or any(limit < places for limit in limits)


def _location(state: InstigatorState) -> str:
    return str(state.origin.repository_origin.code_location_origin.location_name)


def _latest_tick(instance: dg.DagsterInstance, state: InstigatorState | None) -> Verdict | None:
    """Tell what is wrong with the hourly schedule's latest tick, if anything is."""
    ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1) if state else []
    if not ticks:
        return None
    at = datetime.fromtimestamp(ticks[0].timestamp, UTC)
    if ticks[0].status is TickStatus.FAILURE:
        return warn(f"the tick of {HOURLY} at {at:%Y-%m-%d %H:%M} UTC failed", "see it in Dagster's UI: Automation")
    if datetime.now(UTC) - at > TICK_LATE_AFTER:
        return warn(f"{HOURLY} last ticked at {at:%Y-%m-%d %H:%M} UTC", "restart dagster-daemon, and see its log")
    return None
