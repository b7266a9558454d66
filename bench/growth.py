"""How much the databases grow with every customer and hour, through the real daemon, with and without house-keeping.

Runs some cycles of customers with 100 users each that nothing is pruned of, then as many with everything pruned after
each that may be, and prints what grew: bytes a customer and hour by table, what that comes to in a month for 240
customers, and where it levels off with the default settings.

Run it with ``python -m bench.growth`` in the project's folder; nothing outside of this machine is reached.
"""

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg
import psycopg
from rich.console import Console
from rich.table import Table

from bench.cycle import REQUESTS_PER_MINUTE, USERS_EACH, _connect, _cycle, _fill, _set_environment, _slugs
from symvanta_pipeline import housekeeping
from symvanta_pipeline.dagster_instance import dagster_instance
from symvanta_pipeline.defs.partitions import CUSTOMERS
from symvanta_pipeline.ledger import database, retention
from symvanta_pipeline.sandbox.dagster_processes import Webserver
from symvanta_pipeline.sandbox.dagster_stack import DagsterStack
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres
from symvanta_pipeline.sandbox.vanta.config import VantaConfig
from symvanta_pipeline.sandbox.vanta.control import start_vanta
from symvanta_pipeline.settings import RetentionSettings

CUSTOMERS_AT_ONCE = 40
CYCLES = 3
FLEET, HOURS_A_MONTH = 240, 720
KEEP_RUNS = RetentionSettings.model_fields["symvanta_keep_runs_days"].default
KEEP_LEDGER = RetentionSettings.model_fields["symvanta_keep_ledger_days"].default
DAGSTER, OURS, LOGS = "dagster", "symvanta", "files of what runs printed"
# Ticks follow the clock, and Dagster's own retention has them; the others are a few rows, changed in place.
NOT_COUNTED = {(DAGSTER, "job_ticks"), (DAGSTER, "asset_keys"), (DAGSTER, "daemon_heartbeats"), (OURS, "rate_budgets")}
# What goes with the runs in our own database; the rest goes with the ledger.
WITH_RUNS = {(OURS, "intents")}

Sizes = Counter[tuple[str, str]]  # bytes by place and table


def main() -> None:
    """Measure and print."""
    began = time.monotonic()
    with TemporaryDirectory(prefix="symvanta-bench-") as name, ExitStack() as running:
        folder = Path(name)
        postgres = running.enter_context(EmbeddedPostgres.start(folder / "postgres"))
        postgres.ensure_databases("sym", OURS, DAGSTER)
        limits = {"token_requests_per_minute": REQUESTS_PER_MINUTE, "resource_requests_per_minute": REQUESTS_PER_MINUTE}
        vanta = running.enter_context(start_vanta(VantaConfig(**limits)))
        _set_environment(postgres, vanta, folder)
        organizations = _fill(postgres.url("sym"), _slugs(CUSTOMERS_AT_ONCE))
        database.migrate(postgres.url(OURS))
        dagster = DagsterStack(folder, running)
        dagster.start_code_server()
        with dagster_instance() as instance:
            webserver = dagster.start_webserver()
            dagster.wait_until(webserver.is_up, "its webserver answers")
            dagster.start_daemon()
            _connect(postgres.url(OURS), organizations, vanta)
            instance.add_dynamic_partitions(CUSTOMERS, [slug for _, slug in organizations])
            _cycle(webserver)  # the first push writes down who there is, which later ones do not
            without = _growth(webserver, postgres, folder)
            began_pruning = time.monotonic()
            runs = _prune(instance, postgres)
            each_run = (time.monotonic() - began_pruning) / runs
            pruning = _growth(webserver, postgres, folder, pruned=instance)
    _print(without, pruning)
    print(f"deleting {runs} runs took {each_run * 1000:.0f} ms each, pauses included")
    print(f"measured in {time.monotonic() - began:.0f} s")


def _growth(
    webserver: Webserver, postgres: EmbeddedPostgres, folder: Path, *, pruned: dg.DagsterInstance | None = None
) -> Sizes:
    """Return what some cycles add."""
    before = _sizes(postgres, folder)
    for _ in range(CYCLES):
        _cycle(webserver)
        if pruned:
            _prune(pruned, postgres)
            _sizes(postgres, folder)
    after = _sizes(postgres, folder)
    after.subtract(before)
    return after


def _prune(instance: dg.DagsterInstance, postgres: EmbeddedPostgres) -> int:
    """Delete whatever may go today, which is what the latest cycle told anew, and return how many runs that were."""
    with closing(database.connect(postgres.url(OURS))) as ledger:
        retention.prune(ledger, keep_ledger=timedelta(days=KEEP_LEDGER), keep_runs=timedelta())
    return housekeeping.prune_runs(instance, keep=timedelta()).deleted


def _sizes(postgres: EmbeddedPostgres, folder: Path) -> Sizes:
    """Measure each table with its indexes, once what was deleted is free to be used again."""
    sizes: Sizes = Counter()
    for place in (DAGSTER, OURS):
        with psycopg.connect(postgres.url(place), autocommit=True) as connection:
            connection.execute("VACUUM")
            for table, size in connection.execute(
                "SELECT relname, pg_total_relation_size(oid) FROM pg_class"
                " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
            ):
                if (place, table) not in NOT_COUNTED:
                    sizes[place, table] = size
    sizes[LOGS, ""] = sum(path.stat().st_blocks * 512 for path in (folder / "storage").rglob("*") if path.is_file())
    return sizes


def _print(without: Sizes, pruning: Sizes) -> None:
    each = {where: size / CUSTOMERS_AT_ONCE / CYCLES for where, size in without.items() if size > 0}
    table = Table(title=f"Growth by customer and hour, {USERS_EACH} users a customer", title_justify="left")
    for heading in ("where", "bytes", f"GB a month, {FLEET} customers", "kept for", "levels off at GB"):
        table.add_column(heading, justify="left" if heading == "where" else "right")
    for where, size in sorted(each.items(), key=lambda item: -item[1]):
        figures = f"{size:,.0f}", f"{_gigabytes(size):.2f}", f"{_kept(where)} days", f"{_level(where, size):.2f}"
        table.add_row(" ".join(where), *figures)
    console = Console(width=140)
    console.print(table)
    for place in (DAGSTER, OURS, LOGS):
        ours = {where: size for where, size in each.items() if where[0] == place}
        level = sum(_level(where, size) for where, size in ours.items())
        console.print(f"{place}: {_gigabytes(sum(ours.values())):.1f} GB a month, levels off at {level:.1f} GB")
    grew, still = _of(without, DAGSTER), _of(pruning, DAGSTER)
    console.print(
        f"{CYCLES} cycles changed Dagster's database by {grew / 1e6:+.1f} MB, and by {still / 1e6:+.1f} MB "
        f"({still / grew:.0%}) with what may go pruned after each"
    )


def _of(sizes: Mapping[tuple[str, str], int], place: str) -> int:
    return sum(size for where, size in sizes.items() if where[0] == place)


def _gigabytes(each: float) -> float:
    return each * FLEET * HOURS_A_MONTH / 1e9


def _kept(where: tuple[str, str]) -> int:
    return int(KEEP_LEDGER if where[0] == OURS and where not in WITH_RUNS else KEEP_RUNS)


def _level(where: tuple[str, str], each: float) -> float:
    return each * FLEET * 24 * _kept(where) / 1e9


if __name__ == "__main__":
    main()
