"""Dagster's instance, for the commands that register a partition outside of a run.

Belongs here: finding it. Does not belong here: what is done with it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import psycopg

from symvanta_pipeline.settings import DagsterSettings, SettingsError, load

CONNECT_TIMEOUT = 10  # seconds


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
