"""The shared fixtures do what tests of all folders rely on."""

import os
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import psutil
import psycopg
import pytest

if TYPE_CHECKING:
    from tests.conftest import SymRows


@pytest.mark.parametrize("fixture", ["sym_url", "demo_sym_url", "symvanta_url", "dagster_url"] * 2)
def test_each_test_has_its_own_database(fixture: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(fixture).replace("+psycopg2", "")
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE planted (id int)")


def test_rows_of_sym(sym: "SymRows", sym_url: str) -> None:
    org = sym.organization("acme")
    sym.user(org)
    admin = sym.user(org, type="admin", name=None, identities=[sym.password(mfa_factors=["otp"]), sym.slack()])
    with psycopg.connect(sym_url) as connection:
        counted = connection.execute("SELECT count(*) FROM users JOIN identities ON user_id = users.id")
        assert counted.fetchall() == [(3,)]
        factors = connection.execute("SELECT mfa_factors FROM identities WHERE user_id = %s", [admin])
        assert sorted(factors.fetchall(), key=str) == [(None,), (["otp"],)]


def test_dagster_runs_and_watches_on_its_database(dagster_url: str) -> None:
    finished = threading.Event()

    def watch(entry: dg.EventLogEntry, _cursor: str) -> None:
        if entry.dagster_event_type == dg.DagsterEventType.RUN_SUCCESS:
            finished.set()

    @dg.op
    def nothing() -> None: ...

    @dg.job
    def job() -> None:
        nothing()

    with dg.instance_for_test(overrides={"storage": {"postgres": {"postgres_url": dagster_url}}}) as instance:
        run_id = str(uuid.uuid4())
        instance.watch_event_logs(run_id, None, watch)
        assert job.execute_in_process(instance=instance, run_id=run_id).success
        assert finished.wait(60)
        instance.end_watch_event_logs(run_id, watch)


LEAVING = """
import subprocess, sys
from pathlib import Path

sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
start = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL).pid)"

def test_leaves_a_child():
    Path("child").write_text(str(subprocess.Popen(sleep).pid))

def test_leaves_an_orphan():
    Path("orphan").write_text(subprocess.check_output([sys.executable, "-c", start, *sleep], text=True))
"""


def run_session(folder: Path, test: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a pytest session of its own, with the shared fixtures and no other plugin than pytest-xdist."""
    code = [str(Path(__file__).parents[1]), *filter(None, sys.path)]
    (folder / "test_it.py").write_text(test)
    (folder / "pytest.ini").touch()
    (folder / "conftest.py").write_text("import tests.conftest\ntests.conftest.GRACE = 0.1\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "xdist", "-p", "tests.conftest", *options],
        cwd=folder,
        env={"PYTHONPATH": os.pathsep.join(code), "PATH": os.environ["PATH"], "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("options", [[], ["-n1"]], ids=["alone", "with workers"])
def test_processes_left_behind_fail_the_session(options: list[str], tmp_path: Path) -> None:
    run = run_session(tmp_path, LEAVING, *options)
    assert "2 passed" in run.stdout
    assert run.returncode == 1
    assert "processes left behind by the tests" in run.stdout
    for kind in ("child", "orphan"):
        pid = int((tmp_path / kind).read_text())
        assert f"{pid} python" in run.stdout
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_session_that_leaves_nothing_passes(tmp_path: Path) -> None:
    run = run_session(tmp_path, "def test_uses_the_server(sym_url): pass")
    assert run.returncode == 0, run.stdout
    assert "left behind" not in run.stdout
