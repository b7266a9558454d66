"""The embedded PostgreSQL, driven as the demo drives it: real processes, real signals."""

import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from symvanta_pipeline.sandbox import postgres as launcher
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres, EmbeddedPostgresError

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
needs_ordinary_user = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")

# Starts the server, says who it is, keeps it until its input ends.
USER_OF_THE_SERVER = """
import sys
from pathlib import Path
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres
with EmbeddedPostgres.start(Path(sys.argv[1]), durable=False) as server:
    server.ensure_databases("sym")
    print(server.pid, server.started_here, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder to be, whose server is killed after the test in case that the test breaks off."""
    folder = tmp_path / "data dir é" / "postgres"  # blanks and accents occur in people's paths
    yield folder
    for process in processes_of(folder):
        process.kill()


def processes_of(folder: Path) -> list[psutil.Process]:
    """Return all processes of the folder's server: PostgreSQL's children keep its working directory."""
    homes = {str(folder), str((folder / "nobody").resolve())}
    return [
        process
        for process in psutil.process_iter(["cwd", "cmdline", "status"])
        if process.info["status"] != psutil.STATUS_ZOMBIE
        and any(
            (process.info["cwd"] or "").startswith(home)
            or any(argument.startswith((home, f"--pgdata={home}")) for argument in process.info["cmdline"] or [])
            for home in homes
        )
    ]


def rows(server: EmbeddedPostgres, query: str, database: str = "postgres") -> list[tuple[object, ...]]:
    with psycopg.connect(server.url(database)) as connection:
        return connection.execute(query.encode()).fetchall()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def modes(path: Path) -> dict[Path, str]:
    """Return owner and mode of the path's every parent."""
    return {p: f"{p.stat().st_uid} {stat.filemode(p.stat().st_mode)}" for p in path.parents if p.exists()}


def test_start_join_stop(folder: Path) -> None:
    first = EmbeddedPostgres.start(folder)
    second = EmbeddedPostgres.start(folder)
    assert (first.started_here, second.started_here) == (True, False)
    assert (first.pid, first.url("x")) == (second.pid, second.url("x"))

    first.stop()
    first.stop()  # a second time changes nothing
    assert rows(second, "SELECT 1") == [(1,)], "somebody still uses it"
    second.stop()
    assert processes_of(folder) == []


def test_what_runs(folder: Path) -> None:
    with EmbeddedPostgres.start(folder) as server:
        assert server.url("sym").startswith("postgresql://symvanta:")
        assert server.url("sym").endswith(f"@127.0.0.1:{server.port}/sym")
        assert len(processes_of(folder)) > 1
        listening = psutil.Process(server.pid).net_connections(kind="all")
        assert {c.laddr for c in listening if c.status == psutil.CONN_LISTEN} == {("127.0.0.1", server.port)}
        assert not [c for c in listening if c.family == socket.AF_UNIX and c.laddr], "no socket anywhere"
        assert os.getsid(server.pid) != os.getsid(0), "Ctrl-C in our terminal must not reach it"
        settings = "SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'max_connections') ORDER BY name"
        assert rows(server, settings) == [("fsync", "on"), ("max_connections", "200")]
        locale = "SELECT pg_encoding_to_char(encoding), datlocprovider, datlocale FROM pg_database"
        assert set(rows(server, locale)) == {("UTF8", "b", "C.UTF-8")}
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(server.url("postgres").replace("@", "x@"))


def test_not_durable_is_an_argument(folder: Path) -> None:
    with EmbeddedPostgres.start(folder, durable=False) as server:
        names = "('fsync', 'synchronous_commit', 'full_page_writes')"
        assert rows(server, f"SELECT DISTINCT setting FROM pg_settings WHERE name IN {names}") == [("off",)]


def test_databases(postgres: EmbeddedPostgres) -> None:
    postgres.ensure_databases("template_a", 'odd "name"')
    postgres.ensure_databases("template_a")
    with psycopg.connect(postgres.url("template_a")) as connection:
        connection.execute("CREATE TABLE planted AS SELECT 7 AS n")
    postgres.clone("template_a", "copy_a")
    postgres.rename("copy_a", "copy_b")
    with closing(psycopg.connect(postgres.url("copy_b"))) as connection:
        assert connection.execute("SELECT n FROM planted").fetchall() == [(7,)]
        postgres.drop("copy_b")  # with a client connected
    postgres.drop("copy_b")
    names = {name for (name,) in rows(postgres, "SELECT datname FROM pg_database")}
    assert {"template_a", 'odd "name"'} <= names
    assert not {"copy_a", "copy_b"} & names
    postgres.drop("template_a")
    postgres.drop('odd "name"')


def test_the_password_stays_in_its_file(folder: Path) -> None:
    with EmbeddedPostgres.start(folder, durable=False) as server:
        password = (folder / "password").read_text()
        assert len(password) > 20
        assert stat.S_IMODE((folder / "password").stat().st_mode) == 0o600
        assert password in server.url("sym")
        assert password not in repr(server)
        assert password not in (folder / "postgres.log").read_text()
        commands = [argument for p in processes_of(folder) for argument in p.cmdline()]
        assert not [argument for argument in commands if password in argument]


def test_nothing_outside_its_folder_changes_mode(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    folder = private / "postgres"
    before = modes(folder)
    assert before[private].endswith("drwx------")
    for _ in range(2):
        with EmbeddedPostgres.start(folder, durable=False):
            pass
    assert modes(folder) == before
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "data").stat().st_mode) == 0o700


def test_concurrent_starts_give_one_server(folder: Path) -> None:
    command = [sys.executable, "-c", USER_OF_THE_SERVER, str(folder)]
    users = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [user.stdout.readline().split() for user in users if user.stdout]
    assert len({pid for pid, _ in said}) == 1
    assert sorted(started for _, started in said) == ["False", "False", "False", "True"]
    for user in users:
        user.communicate()
    assert [user.returncode for user in users] == [0] * 4
    assert processes_of(folder) == []


def test_a_killed_user_does_not_keep_the_server(folder: Path) -> None:
    command = [sys.executable, "-c", USER_OF_THE_SERVER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout
        pid = int(user.stdout.readline().split()[0])
        user.kill()
    assert psutil.pid_exists(pid), "the server outlives whoever started it"
    with EmbeddedPostgres.start(folder) as joined:
        assert (joined.started_here, joined.pid) == (False, pid)
    assert processes_of(folder) == []


def test_kill_9_of_the_server(folder: Path) -> None:
    server = EmbeddedPostgres.start(folder)
    with psycopg.connect(server.url("postgres")) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
    os.kill(server.pid, signal.SIGKILL)
    with EmbeddedPostgres.start(folder) as again:
        assert again.started_here
        assert again.pid != server.pid
        assert rows(again, "SELECT n FROM kept") == [(1,)]
        server.stop()
        assert rows(again, "SELECT n FROM kept") == [(1,)], "whoever used the dead one does not stop the new one"
    assert processes_of(folder) == []


def test_a_stale_pid_that_belongs_to_a_stranger(folder: Path) -> None:
    with EmbeddedPostgres.start(folder, durable=False) as server:
        pid_file = (folder / "data" / "postmaster.pid").read_text()
    stranger = str(os.getpid())
    (folder / "data" / "postmaster.pid").write_text(pid_file.replace(str(server.pid), stranger, 1))
    with EmbeddedPostgres.start(folder, durable=False) as again:
        assert again.started_here


@pytest.mark.parametrize("initdb_too", [True, False], ids=["initdb too", "the launcher alone"])
def test_kill_9_during_initdb(folder: Path, initdb_too: bool) -> None:
    command = [sys.executable, "-c", USER_OF_THE_SERVER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as user:
        wait_for((folder / "data.new" / "PG_VERSION").exists)
        user.send_signal(signal.SIGSTOP)
        initdb = psutil.Process(user.pid).children(recursive=True)
        assert "initdb" in {process.name() for process in initdb}
        user.kill()
        for process in initdb if initdb_too else ():
            with suppress(psutil.NoSuchProcess):  # what initdb started ends by itself, once that is gone
                process.kill()
    assert not (folder / "data").exists(), "it was killed half-way"
    with EmbeddedPostgres.start(folder, durable=False) as server:
        assert server.started_here
        assert rows(server, "SELECT 1") == [(1,)]
    assert not (folder / "data.new").exists()
    assert processes_of(folder) == []


def test_ctrl_c_while_starting_leaves_no_process(folder: Path) -> None:
    command = [sys.executable, "-c", USER_OF_THE_SERVER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as user:
        wait_for((folder / "data.new" / "PG_VERSION").exists)
        user.send_signal(signal.SIGINT)
    assert user.returncode != 0
    wait_for(lambda: processes_of(folder) == [])


def test_a_port_taken_in_between(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free_port = launcher._free_port
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        taken = other.getsockname()[1]
        offered: list[int] = []

        def offer() -> int:
            offered.append(free_port() if offered else taken)
            return offered[-1]

        monkeypatch.setattr(launcher, "_free_port", offer)
        with EmbeddedPostgres.start(folder, durable=False) as server:
            assert offered == [taken, server.port]


def test_binaries_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "INSTALLATION", "pginstall0")
    with pytest.raises(EmbeddedPostgresError, match=r"binaries are not installed.*symvanta-pipeline\[sandbox\]"):
        EmbeddedPostgres.start(folder)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedPostgresError, match=r"file/postgres \(Not a directory\).*SYMVANTA_DATA_DIR"):
        EmbeddedPostgres.start(tmp_path / "file" / "postgres")


@needs_ordinary_user
def test_a_folder_that_is_not_writable(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(EmbeddedPostgresError, match=r"\(Permission denied\). Make it writable"):
        EmbeddedPostgres.start(tmp_path / "postgres")


def test_disk_full(tmp_path: Path) -> None:
    inside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec"]
    mount = 'mount -t tmpfs -o size=16m tmpfs "$0"'
    if subprocess.run([*inside, mount, str(tmp_path)], capture_output=True, check=False).returncode != 0:
        pytest.skip("this system lets nobody mount a small disk")
    start = f"{mount}; exec {sys.executable} -c '{USER_OF_THE_SERVER}' \"$0/postgres\""
    run = subprocess.run([*inside, start, str(tmp_path)], capture_output=True, text=True, check=False)
    assert run.returncode != 0
    last = run.stderr.strip().splitlines()[-1]
    assert "EmbeddedPostgresError: PostgreSQL" in last
    assert "No space left on device). Free some space, or choose another folder with SYMVANTA_DATA_DIR" in last


def test_a_lost_password_file(folder: Path) -> None:
    with EmbeddedPostgres.start(folder, durable=False):
        pass
    (folder / "password").unlink()
    with pytest.raises(EmbeddedPostgresError, match=r"password is gone. Remove .* to begin anew"):
        EmbeddedPostgres.start(folder, durable=False)


def test_a_broken_cluster_says_why(folder: Path) -> None:
    with EmbeddedPostgres.start(folder, durable=False):
        pass
    (folder / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(EmbeddedPostgresError, match=r"could not start in .*incompatible.*postgres\.log"):
        EmbeddedPostgres.start(folder, durable=False)
    assert processes_of(folder) == []


def test_a_server_that_does_not_answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedPostgres.start(folder, durable=False) as server:
        monkeypatch.setattr(launcher, "PATIENCE", 0.1)
        os.kill(server.pid, signal.SIGSTOP)
        with pytest.raises(EmbeddedPostgresError, match=r"does not answer .*timeout"):
            EmbeddedPostgres.start(folder)
        os.kill(server.pid, signal.SIGCONT)
        monkeypatch.undo()


@needs_root
def test_where_user_namespaces_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "_may_become", lambda _account: False)
    folder.parent.mkdir(mode=0o700)
    before = modes(folder)
    try:
        with EmbeddedPostgres.start(folder) as server:
            assert psutil.Process(server.pid).username() == "nobody"
            assert psutil.Process(server.pid).gids().effective != 0
            server.ensure_databases("kept")
        with EmbeddedPostgres.start(folder) as again:
            assert again.started_here
            assert ("kept",) in rows(again, "SELECT datname FROM pg_database")
        assert processes_of(folder) == []
        assert modes(folder) == before
    finally:
        shutil.rmtree((folder / "nobody").resolve())


@needs_root
@pytest.mark.parametrize("uid", [pwd.getpwnam("nobody").pw_uid, 54321], ids=["nobody", "an id without an account"])
def test_as_an_ordinary_user(uid: int) -> None:
    home = Path(tempfile.mkdtemp(dir="/tmp"))  # pytest's own folders let nobody else in
    os.chown(home, uid, uid)
    folder = home / "postgres"
    try:
        with as_user(uid, [*interpreter_for(uid, home), USER_OF_THE_SERVER, str(folder)], home) as user:
            assert user.stdin
            assert user.stdout
            pid = int(user.stdout.readline().split()[0])
            assert psutil.Process(pid).uids().effective == uid
            user.stdin.close()
        assert user.returncode == 0
        assert processes_of(folder) == []
        assert {path.stat().st_uid for path in folder.rglob("*")} == {uid}
    finally:
        shutil.rmtree(home)


def as_user(uid: int, command: list[str], home: Path) -> subprocess.Popen[str]:
    code = [str(Path(launcher.__file__).parents[2]), *filter(None, sys.path)]
    return subprocess.Popen(
        command,
        cwd=home,
        env=os.environ | {"HOME": str(home), "PYTHONPATH": os.pathsep.join(code)},
        user=uid,
        group=uid,
        extra_groups=[],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def interpreter_for(uid: int, home: Path) -> list[str]:
    """Return a command that runs Python code with this environment's packages as another user, or skip."""
    same_version = f"python3.{sys.version_info.minor}"
    for python in (sys.executable, shutil.which(same_version, path="/usr/bin:/usr/local/bin")):
        try:
            if python and as_user(uid, [python, "-c", "import psycopg"], home).wait() == 0:
                return [python, "-c"]
        except PermissionError:
            continue
    pytest.skip("no Python that an ordinary user may run: this one is in a private folder")
