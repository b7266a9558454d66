"""Run workers to be killed: a process that has imported Dagster once and forks a worker for each run asked of it.

Asked by a line of JSON on standard input: the environment, the instance's home and the run's tags. Answers with the
worker's process id, and, once that has ended, with how (negative: the signal). Ends when standard input closes.
"""

import importlib
import json
import os
import signal
import sys
from typing import Any

import dagster as dg

from tests.support.runs import launch

LONGEST_LIFE = 100  # seconds; a worker that nobody kills, because its test was killed, ends by itself


def work(request: dict[str, Any]) -> None:
    """Run the job as a run worker does."""
    os.environ.update(request["environment"])
    os.chdir(request["home"])
    signal.alarm(LONGEST_LIFE)
    with dg.DagsterInstance.from_config(request["home"]) as instance:
        launch(instance, request["tags"])


def import_everything() -> None:
    """Import what a run imports late, so that no worker has to; Dagster's own by a run that fails at once."""
    for module in (
        "alembic.command",
        "dagster_postgres",
        "psycopg2.extras",
        "pyarrow.parquet",
        "sqlalchemy.dialects.postgresql.psycopg",
    ):
        importlib.import_module(module)
    with dg.DagsterInstance.ephemeral() as instance:
        launch(instance, {})


def answer(line: int) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Fork a worker for every line."""
    import_everything()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # answers are the parent's alone
            try:
                work(json.loads(line))
            finally:
                os._exit(0)
        answer(pid)
        _, status = os.waitpid(pid, 0)
        answer(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
