"""Prunes to be killed: a process that has imported Dagster once and forks one that prunes for each line asked of it.

Asked by a line of JSON on standard input: the instance's home and how many days to keep. Answers with the process id.
Ends when standard input closes.
"""

import importlib
import json
import os
import signal
import sys
from datetime import timedelta

import dagster as dg

from symvanta_pipeline.housekeeping import prune_runs

LONGEST_LIFE = 100  # seconds; one that nobody kills, because its test was killed, ends by itself


def main() -> None:
    """Fork for every line."""
    for late in ("dagster_postgres", "psycopg2.extras"):
        importlib.import_module(late)
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            signal.alarm(LONGEST_LIFE)
            with dg.DagsterInstance.from_config(asked["home"]) as instance:
                prune_runs(instance, keep=timedelta(days=asked["days"]))
            os._exit(0)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
