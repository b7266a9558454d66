"""This machine: settings, clock, the folder of the Parquet files, disk.

Belongs here: what needs no other check to be well. Does not belong here: databases and hosts themselves.
"""

import os
import shutil
import stat
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

import psycopg
import requests
from upath import UPath

from symvanta_pipeline.doctor.ledger import reading
from symvanta_pipeline.doctor.network import ask
from symvanta_pipeline.doctor.verdict import Verdict, fail, ok, skipped, warn
from symvanta_pipeline.ledger.database import LedgerError
from symvanta_pipeline.parquet import LOCAL
from symvanta_pipeline.settings import (
    AlertSettings,
    ConnectSettings,
    DagsterSettings,
    KeySettings,
    LedgerSettings,
    LoginSettings,
    RetentionSettings,
    ScheduleSettings,
    SettingsError,
    SourceSettings,
    SyncSettings,
    VantaSettings,
    load,
)
from symvanta_pipeline.sym import database as sym
from symvanta_pipeline.sym.database import SourceError

GROUPS: Final = (
    SourceSettings,
    LedgerSettings,
    DagsterSettings,
    KeySettings,
    VantaSettings,
    SyncSettings,
    ScheduleSettings,
    RetentionSettings,
    AlertSettings,
    ConnectSettings,
)
WHERE_TO_SET: Final = "set them in the environment or in .env: docs/production.md lists all"

CLOCK_WARNS: Final = 30.0  # seconds
CLOCK_FAILS: Final = 300.0  # seconds; a token is refreshed shortly before it ends, by this clock
NOW: Final = "SELECT extract(epoch FROM clock_timestamp())::float8"

# Below it a run may not get its own log written, and PostgreSQL stops where it shares the disk.
FULL_BYTES = 100_000_000
LEAST_FREE_BYTES = 1_000_000_000
LEAST_FREE_SHARE = 0.10
FOR_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def settings() -> Verdict:
    """Load every group that runs need, and name whatever is missing or malformed in any of them."""
    problems = []
    for group in GROUPS:
        try:
            load(group)
        except SettingsError as error:
            problems.append(str(error))
    if problems:
        return fail("; ".join(problems), WHERE_TO_SET)
    return ok(f"all {sum(len(group.model_fields) for group in GROUPS)} are there and well-formed")


def login_settings() -> Verdict:
    """Load what the connect app alone needs; an installation without the app has none of it."""
    names = [name.upper() for name in LoginSettings.model_fields]
    try:
        load(LoginSettings)
    except SettingsError as error:
        if any(os.environ.get(name, "").strip() for name in names):
            return fail(str(error), WHERE_TO_SET)
        return warn(f"none of {', '.join(names)} is set: the connect app cannot run", "set them, if the app is used")
    return ok("all are there and well-formed")


def clock() -> Verdict:
    """Compare this machine's clock with those of the databases and of Vanta, as far as they can be asked."""
    asked: dict[str, Callable[[], float | None]] = {"Sym's database": _sym, "own database": _own, "Vanta": _vanta}
    offsets = {name: offset for name, ask_it in asked.items() if (offset := _ahead(ask_it)) is not None}
    return judged(offsets)


def judged(offsets: Mapping[str, float]) -> Verdict:
    """Judge the clocks.

    Args:
        offsets: by how many seconds each other clock is ahead of ours.
    """
    if not offsets:
        return skipped("no other clock could be asked")
    told = ", ".join(f"{name} {round(offset):+d} s" for name, offset in offsets.items())
    worst = max(abs(offset) for offset in offsets.values())
    keep = "keep every machine's clock by NTP; a clock that all others differ from is this machine's"
    if worst > CLOCK_FAILS:
        return fail(f"far from others: {told}", keep)
    return warn(f"not that of others: {told}", keep) if worst > CLOCK_WARNS else ok(f"agrees: {told}")


def data_folder() -> Verdict:
    """Look whether Parquet files can be written, and who else could read them: they hold names and addresses."""
    target = UPath(load(SyncSettings).symvanta_data_url)
    if target.protocol not in LOCAL:
        return skipped("an object store, which is not asked; see that nobody else can read it")
    folder = Path(target.path)
    held_in = _existing(folder)
    if not held_in.is_dir():
        return fail(f"{held_in} is no folder", "let SYMVANTA_DATA_URL name one")
    if not os.access(held_in, os.W_OK | os.X_OK):
        return fail(f"{held_in} cannot be written", "give it to the user that runs the pipeline")
    if folder.is_dir() and folder.stat().st_mode & FOR_OTHERS:
        return warn(f"{folder} is open to other users, and holds names and addresses", f"chmod 700 {folder}")
    return ok(f"{folder} can be written" if folder.is_dir() else f"{folder} does not exist yet and can be made")


def disk() -> Verdict:
    """Look at what is left where Dagster's logs and the Parquet files lie."""
    folders = [Path(os.environ.get("DAGSTER_HOME") or Path.cwd())]
    with suppress(SettingsError):
        target = UPath(load(SyncSettings).symvanta_data_url)
        folders += [Path(target.path)] if target.protocol in LOCAL else []
    by_device = {folder.stat().st_dev: folder for folder in map(_existing, folders)}
    usages = {folder: shutil.disk_usage(folder) for folder in by_device.values()}
    told = ", ".join(f"{usage.free / 1e9:.1f} GB free at {folder}" for folder, usage in usages.items())
    is_short = any(u.free < LEAST_FREE_BYTES or u.free < u.total * LEAST_FREE_SHARE for u in usages.values())
    do = "make room: daily_housekeeping forgets old runs, SYMVANTA_KEEP_RUNS_DAYS says how old"
    if any(u.free < FULL_BYTES for u in usages.values()):
        told = ", ".join(f"{usage.free / 1e6:.0f} MB free at {folder}" for folder, usage in usages.items())
        return fail(f"only {told}", do)
    return warn(f"only {told}", do) if is_short else ok(told)


def _existing(path: Path) -> Path:
    """Return the path, or the nearest folder above it that exists."""
    absolute = path.absolute()
    return next(found for found in (absolute, *absolute.parents) if found.exists())


def _ahead(ask_it: Callable[[], float | None]) -> float | None:
    """Tell by how many seconds a clock is ahead of ours; None if it cannot be asked."""
    with suppress(SettingsError, SourceError, LedgerError, psycopg.Error, requests.RequestException):
        return ask_it()
    return None


def _sym() -> float:
    with sym.connect(load(SourceSettings).sym_database_url.get_secret_value()) as connection:
        return _of_database(connection)


def _own() -> float:
    with reading() as connection:
        return _of_database(connection)


def _of_database(connection: psycopg.Connection) -> float:
    connection.execute("SELECT 1")  # begins the transaction, so that the next answer takes one way there and back
    before = time.time()
    [(now,)] = connection.execute(NOW).fetchall()
    return float(now) - (before + time.time()) / 2


def _vanta() -> float | None:
    before = time.time()
    told = ask(load(VantaSettings).vanta_api_url).headers.get("Date")
    if told is None:
        return None
    with suppress(ValueError):
        # A date of HTTP is cut to whole seconds: on average, half of one is missing.
        return parsedate_to_datetime(told).timestamp() + 0.5 - (before + time.time()) / 2
    return None
