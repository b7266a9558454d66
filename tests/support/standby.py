"""A primary and its standby, two real servers: what Sym's database is where it is read from a replica.

Belongs here: starting both, and doing to the standby what outages do. Does not belong here: any expectation.
"""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from symvanta_pipeline.sandbox import postgres as launcher
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres
from tests.support.parts import until

# An idle primary that stays idle, so that only what a test does reaches the log.
QUIET = ("autovacuum = off", "checkpoint_timeout = '1h'")
# Asks an idle primary for a sign of life after half of that time; reconnects at once; lets no query hold it up.
RECEIVER_TIMEOUT = "1s"
SWIFT = (
    f"wal_receiver_timeout = '{RECEIVER_TIMEOUT}'",
    "wal_retrieve_retry_interval = '100ms'",
    "max_standby_streaming_delay = 0",
)


@dataclass
class Pair:
    """A primary with one database and a standby that follows it; both URLs are the superuser's."""

    primary: EmbeddedPostgres
    standby: EmbeddedPostgres
    database: str

    @property
    def primary_url(self) -> str:
        return self.primary.url(self.database)

    @property
    def standby_url(self) -> str:
        return self.standby.url(self.database)

    def on_primary(self, statement: str) -> list[tuple[Any, ...]]:
        return _run(self.primary_url, statement)

    def on_standby(self, statement: str) -> list[tuple[Any, ...]]:
        return _run(self.standby_url, statement)

    def end_of_log(self) -> str:
        """Return where the primary's log ends, with everything that is committed in it."""
        [(end,)] = self.on_primary("SELECT pg_current_wal_insert_lsn()::text")
        return str(end)

    def catch_up(self) -> None:
        """Wait until the standby has replayed what the primary has written, and knows that this is all."""
        end = self.end_of_log()
        until(lambda: self.has_replayed(end), "the standby catches up")

    def has_replayed(self, end: str) -> bool:
        [(done,)] = self.on_standby(f"SELECT pg_last_wal_replay_lsn() >= '{end}'")
        return bool(done)

    def has_received(self, end: str) -> bool:
        [(done,)] = self.on_standby(f"SELECT pg_last_wal_receive_lsn() >= '{end}'")
        return bool(done)

    def is_connected(self) -> bool:
        return self.on_standby("SELECT status FROM pg_stat_wal_receiver") == [("streaming",)]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop replaying, and go on receiving."""
        self.on_standby("SELECT pg_wal_replay_pause()")
        until(lambda: self.on_standby("SELECT pg_get_wal_replay_pause_state()") == [("paused",)], "replay pauses")
        try:
            yield
        finally:
            self.on_standby("SELECT pg_wal_replay_resume()")
            self.catch_up()

    @contextmanager
    def cut_off(self) -> Iterator[None]:
        """Let the standby know no primary any more."""
        [(conninfo,)] = self.on_standby("SHOW primary_conninfo")
        self.follow("")
        until(lambda: self.on_standby("SELECT status FROM pg_stat_wal_receiver") == [], "the standby is cut off")
        try:
            yield
        finally:
            self.follow(conninfo)
            until(self.is_connected, "the standby is connected again")
            self.catch_up()

    def follow(self, conninfo: str) -> None:
        self.configure("primary_conninfo", conninfo)

    def configure(self, name: str, value: str) -> None:
        """Change a setting of the standby."""
        quoted = value.replace("'", "''")
        self.on_standby(f"ALTER SYSTEM SET {name} = '{quoted}'")
        self.on_standby("SELECT pg_reload_conf()")

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Keep the connection between both, and let the primary say nothing on it, as a network that hangs does."""
        [(sender,)] = self.on_primary("SELECT pid FROM pg_stat_replication")
        os.kill(sender, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(sender, signal.SIGCONT)
            until(self.is_connected, "the standby is connected again")
            self.catch_up()


@contextmanager
def running_pair(folder: Path, database: str) -> Iterator[Pair]:
    """Start a primary with an empty database, copy it into a standby, and end both with the block."""
    try:
        with EmbeddedPostgres.start(folder / "primary", durable=False) as primary:
            primary.ensure_databases(database)
            for setting in QUIET:
                _run(primary.url("postgres"), f"ALTER SYSTEM SET {setting}")
            _run(primary.url("postgres"), "SELECT pg_reload_conf()")
            _copy(primary, folder / "standby")
            with EmbeddedPostgres.start(folder / "standby", durable=False) as standby:
                pair = Pair(primary, standby, database)
                until(pair.is_connected, "the standby is connected")
                yield pair
    finally:
        for home in (launcher._Home.of(folder / name) for name in ("primary", "standby")):
            if home.account:  # its files are not below our own folder
                shutil.rmtree(home.folder)


def _copy(primary: EmbeddedPostgres, folder: Path) -> None:
    """Make a standby's data where `EmbeddedPostgres` will look for its own, under the account that will run it."""
    folder.mkdir(mode=0o700)
    home = launcher._Home.of(folder)
    if home.account:
        launcher._copy_installation(home.installation, home.folder / "binaries")
    shutil.copy(launcher._Home.of(primary.folder).password, home.password)
    arguments = ("--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--wal-method=fetch")
    copying = home._run("pg_basebackup", f"--pgdata={home.data}", f"--dbname={primary.url('')}", *arguments)
    assert copying.wait() == 0, home.log.read_text()
    with (home.data / "postgresql.auto.conf").open("a") as settings:
        settings.write("\n".join(SWIFT) + "\n")


def _run(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []
