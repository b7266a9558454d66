"""The embedded PostgreSQL ends with whoever uses it under guard, however that ends."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres

PATIENCE = 60.0
USER = """
import sys
from pathlib import Path
from symvanta_pipeline.sandbox.postgres_guard import guarded_postgres
with guarded_postgres(Path(sys.argv[1])) as server:
    print(server.pid, flush=True)
    sys.stdin.read()
"""


def start_user(folder: Path) -> tuple["subprocess.Popen[str]", psutil.Process]:
    """Start a process that uses the folder's server, until its standard input closes; return once it is guarded."""
    user = subprocess.Popen(
        [sys.executable, "-c", USER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert user.stdout is not None
    server = psutil.Process(int(user.stdout.readline()))
    deadline = time.monotonic() + PATIENCE
    while not any(_holds(child, folder / "users.lock") for child in psutil.Process(user.pid).children()):
        assert time.monotonic() < deadline, "never saw a guard join the server"
        time.sleep(0.02)
    return user, server


def _holds(process: psutil.Process, lock: Path) -> bool:
    """Tell whether a guard has the users' lock file open; it locks it at once."""
    is_guard = any("postgres_guard" in argument for argument in process.cmdline())
    return is_guard and str(lock) in {file.path for file in process.open_files()}


@pytest.mark.parametrize("killed", [False, True], ids=["ends", "is killed"])
def test_the_server_ends_when_its_user(killed: bool, tmp_path: Path) -> None:
    user, server = start_user(tmp_path / "postgres")
    if killed:
        user.kill()
    user.communicate()
    assert (user.returncode == 0) is not killed
    assert psutil.wait_procs([server], PATIENCE)[1] == []


def test_the_server_of_another_user_stays(tmp_path: Path) -> None:
    with EmbeddedPostgres.start(tmp_path / "postgres", durable=False) as mine:
        user, server = start_user(tmp_path / "postgres")
        user.communicate()
        assert server.pid == mine.pid
        assert server.is_running()
    assert psutil.wait_procs([server], PATIENCE)[1] == []
