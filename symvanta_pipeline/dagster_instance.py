"""Dagster's instance: found by the commands that register a partition, spared by the runs.

Belongs here: finding it, and how a process connects to its database. Does not belong here: what is done with it.
"""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import dagster as dg
import psycopg
import psycopg2
from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import QueuePool

from symvanta_pipeline.settings import DagsterSettings, SettingsError, load

CONNECT_TIMEOUT = 10  # seconds
KEPT_FOR = 600  # seconds


class InstanceUnavailable(Exception):
    """Dagster's database cannot be used; the text is safe to show."""


@contextmanager
def dagster_instance() -> Iterator[dg.DagsterInstance]:
    """Open the instance of ``DAGSTER_HOME``, or of the working directory, as ``dagster dev`` does.

    Raises:
        SettingsError: there is no dagster.yaml, or ``DAGSTER_POSTGRES_URL`` is missing or malformed.
        InstanceUnavailable: there is nothing behind ``DAGSTER_POSTGRES_URL``.
    """
    url = load(DagsterSettings).dagster_postgres_url.get_secret_value()
    home = Path(os.environ.get("DAGSTER_HOME") or Path.cwd()).absolute()
    if not (home / "dagster.yaml").is_file():
        raise SettingsError("DAGSTER_HOME is not set: it should hold the folder with dagster.yaml")
    _require_database(url)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def keep_connections(instance: dg.DagsterInstance) -> None:
    """Let this process use one connection to Dagster's database for many queries, as the webserver does.

    By default dagster-postgres opens one a query, some 75 for each customer of a run: half of what a cycle cost
    (docs/performance.md). A connection that is gone is replaced, as before. Storages without any take no notice.
    """
    if not event.contains(QueuePool, "checkout", _require_living):
        event.listen(QueuePool, "checkout", _require_living)
    # No timeout, which is the default outside the webserver; connections beyond the first are closed after use.
    instance.optimize_for_webserver(statement_timeout=0, pool_recycle=KEPT_FOR, max_overflow=20)


def _require_living(connection: DBAPIConnection, *_: object) -> None:
    """Have the pool replace a connection that its server no longer knows, before anything is asked of it."""
    try:
        with closing(connection.cursor()) as cursor:
            cursor.execute("SELECT 1")
    except psycopg2.Error as error:
        raise DisconnectionError from error


def _require_database(url: str) -> None:
    """Fail at once and in one sentence; Dagster itself would try for seconds and write pages to stderr."""
    try:
        psycopg.connect(url.replace("+psycopg2", "", 1), connect_timeout=CONNECT_TIMEOUT).close()
    except psycopg.Error:
        unreachable = InstanceUnavailable("Dagster's database cannot be reached: check DAGSTER_POSTGRES_URL")
    else:
        return
    # Out here, so that the driver's error, which may quote the URL, is not chained to it.
    raise unreachable
