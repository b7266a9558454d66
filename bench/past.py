"""A past for a fleet: what Dagster and the ledger hold after a day, copied from one stretch that was really run.

Belongs here: the statements. Does not belong here: starting anything, measuring.

A copy is a run of other customers at another hour: ids, partition keys and times are replaced in Dagster's own rows,
so that an event has the size that it really has. Keys are of one length, with the stretch in their middle.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
from psycopg.rows import dict_row

SYNC_JOB, FLEET_JOB = "user_account_sync_job", "fleet_status_job"
BODY_SHA256 = "ab" * 32
TABLES = ("runs", "run_tags", "event_logs", "asset_event_tags", "asset_check_executions")
OF_THE_STRETCH = "'customer-00-', 'customer-' || lpad(stretch::text, 2, '0') || '-'"


def slugs(customers: int, stretch: int) -> list[str]:
    """Name customers by their stretch and their number in it."""
    return [f"customer-{n // stretch:02}-{n % stretch:02}" for n in range(customers)]


@dataclass(frozen=True)
class Recorded:
    """A run that really happened.

    Attributes:
        run_id: Dagster's.
        first: the id of its first event.
        span: how many ids there are from its first event to its last.
        began: when, in UTC.
    """

    run_id: str
    first: int
    span: int
    began: datetime


def recorded(dagster: psycopg.Connection, job: str) -> Recorded:
    """Find the only run of a job."""
    with dagster.cursor(row_factory=dict_row) as cursor:
        [row] = cursor.execute(
            "SELECT run_id, min(event_logs.id) AS first, max(event_logs.id) - min(event_logs.id) + 1 AS span,"
            " min(create_timestamp) AS began FROM runs JOIN event_logs USING (run_id) WHERE pipeline_name = %s"
            " GROUP BY run_id",
            [job],
        ).fetchall()
    return Recorded(row["run_id"], row["first"], row["span"], row["began"].replace(tzinfo=UTC))


def repeat(dagster: psycopg.Connection, stretches: int, hours: Sequence[datetime]) -> None:
    """Let every stretch have run at these hours, each followed by the fleet's status; what was recorded goes.

    Args:
        dagster: to Dagster's database.
        stretches: how many there are.
        hours: oldest first.
    """
    sync, fleet = (recorded(dagster, job) for job in (SYNC_JOB, FLEET_JOB))
    dagster.execute("SET synchronous_commit = off")
    dagster.execute("CREATE TEMP TABLE copies (old text, new text, stretch int, later interval, shift bigint)")
    for hour in hours:
        dagster.execute("TRUNCATE copies")
        for run, of in ((sync, range(stretches)), (fleet, range(1))):
            later = hour - run.began + (timedelta(minutes=5) if run is fleet else timedelta())
            for stretch in of:
                [(top,)] = dagster.execute("SELECT nextval('event_logs_id_seq')").fetchall()
                dagster.execute("SELECT setval('event_logs_id_seq', %s)", [top + run.span])
                values = [run.run_id, str(uuid4()), stretch, later, top - run.first]
                dagster.execute("INSERT INTO copies VALUES (%s, %s, %s, %s, %s)", values)
        for statement in _COPY:
            dagster.execute(statement.encode())
    _forget(dagster, [sync.run_id, fleet.run_id])
    dagster.execute(_LATEST)
    # Schedules and sensors go by their default again.
    dagster.execute("TRUNCATE instigators, jobs, job_ticks")
    dagster.commit()
    dagster.autocommit = True
    dagster.execute("VACUUM ANALYZE")


def _forget(dagster: psycopg.Connection, run_ids: Sequence[str]) -> None:
    """Delete what was copied, so that every customer has the same past."""
    for table in reversed(TABLES):
        which = "event_id IN (SELECT id FROM event_logs WHERE run_id = ANY(%s))"
        which = which if table == "asset_event_tags" else "run_id = ANY(%s)"
        dagster.execute(f"DELETE FROM {table} WHERE {which}".encode(), [list(run_ids)])  # noqa: S608 - names of here


def _text(column: str, of: str) -> str:
    """Replace ids, keys and times in a serialized object."""
    moment = f"extract(epoch FROM timezone('UTC', {of} + later))::numeric(16, 6)"
    return (
        f"regexp_replace(replace(replace({column}, old, new), {OF_THE_STRETCH}), "
        f"""'"timestamp": [0-9.]+', '"timestamp": ' || {moment}, 'g')"""
    )


# Constants of this module alone.
_COPY = (
    f"""
    INSERT INTO runs (run_id, snapshot_id, pipeline_name, status, run_body, create_timestamp, update_timestamp,
                      start_time, end_time)
    SELECT new, snapshot_id, pipeline_name, status, replace(replace(run_body, old, new), {OF_THE_STRETCH}),
           create_timestamp + later, update_timestamp + later, start_time + extract(epoch FROM later),
           end_time + extract(epoch FROM later)
    FROM runs JOIN copies ON run_id = old ORDER BY stretch
    """,  # noqa: S608
    f"""
    INSERT INTO run_tags (run_id, key, value) SELECT new, key, replace(value, {OF_THE_STRETCH})
    FROM run_tags JOIN copies ON run_id = old
    """,  # noqa: S608
    f"""
    INSERT INTO event_logs (id, run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition)
    SELECT id + shift, new, {_text("event", "timestamp")}, dagster_event_type, timestamp + later, step_key, asset_key,
           replace(partition, {OF_THE_STRETCH})
    FROM event_logs JOIN copies ON run_id = old ORDER BY 1
    """,  # noqa: S608
    """
    INSERT INTO asset_event_tags (event_id, asset_key, key, value, event_timestamp)
    SELECT event_id + shift, asset_event_tags.asset_key, key, value, event_timestamp + later
    FROM asset_event_tags JOIN event_logs ON event_logs.id = event_id JOIN copies ON run_id = old
    """,
    f"""
    INSERT INTO asset_check_executions (asset_key, check_name, partition, run_id, execution_status, evaluation_event,
                                        evaluation_event_timestamp, evaluation_event_storage_id,
                                        materialization_event_storage_id, create_timestamp)
    SELECT asset_key, check_name, replace(partition, {OF_THE_STRETCH}), new, execution_status,
           {_text("evaluation_event", "evaluation_event_timestamp")}, evaluation_event_timestamp + later,
           evaluation_event_storage_id + shift, materialization_event_storage_id + shift, create_timestamp + later
    FROM asset_check_executions JOIN copies ON run_id = old ORDER BY id
    """,  # noqa: S608
)
# Nobody looked at the partitions since: their status is worked out by whoever comes first.
_LATEST = """
UPDATE asset_keys SET cached_status_data = NULL, last_materialization = event, last_run_id = run_id,
                      last_materialization_timestamp = timestamp
FROM (
    SELECT DISTINCT ON (asset_key) asset_key AS key, event, run_id, timestamp FROM event_logs
    WHERE dagster_event_type = 'ASSET_MATERIALIZATION' ORDER BY asset_key, id DESC
) AS latest WHERE asset_key = key
"""


def accepted(ledger: psycopg.Connection, hours: Sequence[datetime]) -> None:
    """Let Vanta have accepted a push of every connected customer at these hours, but for those in trouble since.

    Of 100 customers 2 are held, 1 is parked, 1 is failing and 1 is late.
    """
    with ledger.transaction():
        for hour in hours:
            values = {"hour": hour, "body_sha256": BODY_SHA256, "with_the_late": hour < hours[-2]}
            ledger.execute(_ACCEPTED, values)
        ledger.execute(_OUTCOMES)
        ledger.execute(_PARKED)


_NUMBERED = "(SELECT *, row_number() OVER (ORDER BY customer) AS number FROM connections) AS numbered"
_ACCEPTED = f"""
INSERT INTO accepted_snapshots (organization_id, run_id, read_at, accepted_at, body_sha256, token_generation, users,
                                active, deactivated, unchanged, departure_seconds)
SELECT organization_id, gen_random_uuid()::text, %(hour)s, %(hour)s + interval '20 s', %(body_sha256)s, 1, 100, 90, 10,
       true, CASE WHEN number %% 10 = 0 THEN ARRAY[1800.0] ELSE ARRAY[]::float8[] END
FROM {_NUMBERED} WHERE %(with_the_late)s OR number %% 100 <> 28
"""  # noqa: S608
_OUTCOMES = f"""
UPDATE outcomes SET at = moment, run_id = gen_random_uuid()::text, outcome = found,
    since = CASE found WHEN 'accepted' THEN moment - interval '23 h' ELSE moment - interval '5 h' END,
    kind = CASE found WHEN 'held' THEN 'lost' WHEN 'failing' THEN 'vanta_unavailable' END,
    hash = CASE found WHEN 'held' THEN repeat('ab', 32) END,
    held_since = CASE found WHEN 'held' THEN moment - interval '5 h' END,
    sentence = CASE found
        WHEN 'held' THEN '31 of 90 active users are not active any more, over 20 % (rule lost): look at '
            'symvanta plan ' || customer || '; if it is right: symvanta approve ' || customer || ' --reason TEXT'
        WHEN 'failing' THEN 'Vanta answered 503 to three attempts (rule vanta_unavailable)' END
FROM (
    SELECT organization_id AS id, customer, clock_timestamp() AS moment,
           CASE number % 100 WHEN 8 THEN 'held' WHEN 57 THEN 'held' WHEN 18 THEN 'failing' WHEN 28 THEN 'busy'
                              ELSE 'accepted' END AS found
    FROM {_NUMBERED}
) AS told WHERE organization_id = id
"""  # noqa: S608
_PARKED = f"""
UPDATE connections SET state = 'parked', parked_at = clock_timestamp() - interval '5 h', parked_reason = 'invalid_grant'
WHERE organization_id IN (SELECT organization_id FROM {_NUMBERED} WHERE number % 100 = 38)
"""  # noqa: S608
