"""Kill -9 of a prune at each of its steps, then the next prune: nothing is lost, and nothing is left behind."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from symvanta_pipeline.housekeeping import PrunedRuns, prune_runs
from tests.housekeeping.past import TABLES, Past, picture
from tests.support.parts import held

ROOT = Path(__file__).parents[2]
DAYS = 30
ORDER = ("asset_check_executions", "asset_event_tags", "event_logs", "runs")  # in which a run goes


@pytest.fixture(scope="module")
def pruners() -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.housekeeping.pruner"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)


def start(pruners: "subprocess.Popen[str]", home: str) -> int:
    """Start one and return its process id."""
    assert pruners.stdin is not None
    assert pruners.stdout is not None
    pruners.stdin.write(json.dumps({"home": home, "days": DAYS}) + "\n")
    pruners.stdin.flush()
    return int(pruners.stdout.readline())


@pytest.mark.parametrize("stopped_at", ORDER)
def test_a_prune_that_was_killed_is_finished_by_the_next(
    instance: dg.DagsterInstance, dagster_url: str, past: Past, pruners: "subprocess.Popen[str]", stopped_at: str
) -> None:
    other, recent = past.add(50), past.add(1)
    before, whole = picture(instance), past.rows(past.first)
    with held(dagster_url.replace("+psycopg2", ""), f"LOCK TABLE {stopped_at} IN EXCLUSIVE MODE") as hold:
        pid = start(pruners, instance.root_directory)
        hold.until_somebody_waits(f"DELETE FROM {stopped_at} ")
        os.kill(pid, signal.SIGKILL)
        assert hold.end_waiting() == [True]
    gone = ORDER[: ORDER.index(stopped_at)]
    for run_id in (past.first, other):  # of one batch
        assert past.rows(run_id) == {table: 0 if table in gone else whole[table] for table in TABLES}
    assert picture(instance) == before
    assert prune_runs(instance, keep=timedelta(days=DAYS)) == PrunedRuns(deleted=2, kept=0, left=0, logs_left=0)
    assert instance.get_run_ids() == [recent]
    assert not any(past.orphans().values())
    assert picture(instance) == before
