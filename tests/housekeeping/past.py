"""A past for a Dagster instance: copies of a run of the real job, as if it had run many times, and what is seen of it.

Belongs here: writing runs into the past, in Dagster's own rows, and all that Dagster shows of the customers. Does not
belong here: any expectation.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import dagster as dg
import psycopg

from symvanta_pipeline.defs.assets import SYNC
from tests.support.runs import ASSETS, CHECKS, status

CUSTOMERS = ("acme", "bold", "cold")
TABLES = ("runs", "run_tags", "event_logs", "asset_event_tags", "asset_check_executions")
READ_BACK = "vanta_shows_what_was_sent"


@dataclass(frozen=True)
class Past:
    """Writes runs; whatever is added happened after what was added before.

    Attributes:
        connection: to Dagster's database, in autocommit.
        first: id of a run of the real job, in which every customer got through.
    """

    connection: psycopg.Connection
    first: str

    def age(self, run_id: str, days: float) -> None:
        """Let a run have ended so many days ago."""
        self.connection.execute(
            """
            UPDATE runs SET create_timestamp = ended, update_timestamp = ended,
                start_time = extract(epoch FROM ended), end_time = extract(epoch FROM ended)
            FROM (SELECT timezone('UTC', now()) - make_interval(secs => %s) AS ended) AS moved WHERE run_id = %s
            """,
            [days * 86_400, run_id],
        )

    def add(
        self,
        days: float,
        customers: Collection[str] = CUSTOMERS,
        *,
        failed: Collection[str] = (),
        unread: Collection[str] = (),
        unproved: Collection[str] = (),
        status: dg.DagsterRunStatus = dg.DagsterRunStatus.SUCCESS,
        tags: dict[str, str] | None = None,
    ) -> str:
        """Add a run that ended so many days ago and return its id.

        Args:
            days: how long ago.
            customers: whom it carried.
            failed: who of them was not accepted.
            unread: who of them was not even read, so that nothing is told of them but that it was planned.
            unproved: of whom it did not read back, so that this check was not executed.
            status: how the run ended.
            tags: besides those of the first run.
        """
        new = {
            "old": self.first,
            "new": str(uuid4()),
            "customers": list(customers),
            "failed": list(failed),
            "unread": list(unread),
            "unproved": list(unproved),
            "status": status.value,
            "sync": SYNC.to_string(),
            "read_back": READ_BACK,
        }
        for statement in _COPIES:
            self.connection.execute(statement.encode(), new)
        for name, value in (tags or {}).items():
            self.connection.execute(
                "INSERT INTO run_tags (run_id, key, value) VALUES (%s, %s, %s)", [new["new"], name, value]
            )
        self.age(str(new["new"]), days)
        return str(new["new"])

    def rows(self, run_id: str) -> dict[str, int]:
        """Count what there is of a run, by table."""
        of_event = "event_id IN (SELECT id FROM event_logs WHERE run_id = %(run_id)s)"
        found = {}
        for table in TABLES:
            which = of_event if table == "asset_event_tags" else "run_id = %(run_id)s"
            query = f"SELECT count(*) FROM {table} WHERE {which}"
            [(found[table],)] = self.connection.execute(query.encode(), {"run_id": run_id}).fetchall()
        return found

    def orphans(self) -> dict[str, int]:
        """Count what there is of runs that are gone, by table."""
        of_event = "NOT EXISTS (SELECT FROM event_logs WHERE event_logs.id = event_id)"
        found = {}
        for table in TABLES[1:]:
            which = of_event if table == "asset_event_tags" else "run_id NOT IN (SELECT run_id FROM runs)"
            query = f"SELECT count(*) FROM {table} WHERE {which}"
            [(found[table],)] = self.connection.execute(query.encode()).fetchall()
        return found

    def restart(self) -> None:
        """Forget all runs but the first, and what was worked out from them."""
        for table in reversed(TABLES):
            which = "event_id NOT IN (SELECT id FROM event_logs)" if table == "asset_event_tags" else "run_id <> %s"
            self.connection.execute(f"DELETE FROM {table} WHERE {which}".encode(), [self.first][: which.count("%s")])
        self.forget_status_cache()

    def forget_status_cache(self) -> None:
        """Let Dagster work out the partitions' status from the events alone."""
        self.connection.execute("UPDATE asset_keys SET cached_status_data = NULL")


_COPIES = (
    """
    INSERT INTO runs (run_id, snapshot_id, pipeline_name, status, run_body)
    SELECT %(new)s, snapshot_id, pipeline_name, %(status)s, replace(run_body, %(old)s, %(new)s)
    FROM runs WHERE run_id = %(old)s
    """,
    "INSERT INTO run_tags (run_id, key, value) SELECT %(new)s, key, value FROM run_tags WHERE run_id = %(old)s",
    """
    INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition)
    SELECT %(new)s, replace(event, %(old)s, %(new)s), dagster_event_type, timestamp, step_key, asset_key, partition
    FROM event_logs
    WHERE run_id = %(old)s AND (partition IS NULL OR partition = ANY(%(customers)s::text[]))
      AND (partition = ANY(%(failed)s::text[]) AND dagster_event_type = 'ASSET_MATERIALIZATION'
           AND asset_key = %(sync)s) IS NOT TRUE
      AND (partition = ANY(%(unread)s::text[]) AND dagster_event_type = 'ASSET_MATERIALIZATION') IS NOT TRUE
    ORDER BY id
    """,
    """
    INSERT INTO asset_event_tags (event_id, asset_key, key, value, event_timestamp)
    SELECT id, asset_key, 'dagster/data_version', 'ab', timestamp
    FROM event_logs
    WHERE run_id = %(new)s AND dagster_event_type = 'ASSET_MATERIALIZATION' AND asset_key = %(sync)s ORDER BY id
    """,
    """
    INSERT INTO asset_check_executions (asset_key, check_name, partition, run_id, execution_status, evaluation_event,
                                        evaluation_event_timestamp, evaluation_event_storage_id)
    SELECT asset_key, check_name, partition, %(new)s,
           CASE WHEN asset_key = %(sync)s AND partition = ANY(%(failed)s::text[]) THEN 'FAILED'
                ELSE execution_status END,
           replace(evaluation_event, %(old)s, %(new)s), evaluation_event_timestamp, evaluation_event_storage_id
    FROM asset_check_executions
    WHERE run_id = %(old)s AND partition = ANY(%(customers)s::text[])
      AND partition <> ALL(%(unread)s::text[])
      AND NOT (check_name = %(read_back)s AND partition = ANY(%(unproved)s::text[]))
    ORDER BY id
    """,
)


def picture(instance: dg.DagsterInstance) -> dict[str, Any]:
    """Give all that Dagster shows of the customers, and of each run that it names there, how that ended."""
    storage = instance.event_log_storage
    seen: dict[str, Any] = {}
    runs: set[str] = set()
    for asset in ASSETS:
        name = asset.to_user_string()
        seen[f"status of {name}"] = status(instance, asset)
        seen[f"latest of {name}"] = instance.get_latest_materialization_event(asset)
        for kind in (dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED):
            latest = storage.get_latest_storage_id_by_partition(asset, kind)
            seen[f"{kind.value} of {name}"] = latest
            if latest:
                filters = dg.EventRecordsFilter(kind, storage_ids=list(latest.values()))
                records = storage.get_event_records(filters, limit=len(latest))
                seen[f"{kind.value} records of {name}"] = records
                runs |= {record.event_log_entry.run_id for record in records}
    checked = storage.get_asset_check_partition_info(list(CHECKS))
    seen["checks"] = sorted(checked, key=lambda info: (info.check_key.to_user_string(), info.partition_key or ""))
    runs |= {info.latest_planned_run_id for info in checked}
    seen["runs"] = {run_id: run and run.status for run_id in sorted(runs) for run in [instance.get_run_by_id(run_id)]}
    return seen
