"""How long Dagster's UI takes with 1,000 customers, beside the same pages with 10.

Both fleets have a day behind them (``bench.fleet``). A real Chromium opens the pages of the real webserver, one by
one, from an empty tab until it shows what the page is for; without a browser that part is left out. Beside that: how
long the code server and ``dagster dev`` take to start, the hourly schedule and the sensors to evaluate through the
webserver, and how large the fleet's status is. Most is done some times, for both fleets in turn; the least counts.

Run it with ``python -m bench.ui`` in the project's folder: it takes some ten minutes and 3 GB of disk, and reaches
nothing outside of this machine.
"""

import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
import psycopg
import requests
from dagster_shared.serdes import serialize_value
from playwright.sync_api import Locator, Page
from rich.console import Console
from rich.table import Table

from bench.browser import NoBrowser, Visit, browser, visit, window
from bench.cycle import REQUESTS_PER_MINUTE, _require
from bench.fleet import CYCLES, Fleet, running_fleet
from symvanta_pipeline.dagster_instance import dagster_instance
from symvanta_pipeline.sandbox.dagster_processes import DAGSTER, REPOSITORY, DagsterError, DagsterProcess, Webserver
from symvanta_pipeline.sandbox.dagster_stack import DRY_RUN, free_port
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres
from symvanta_pipeline.sandbox.vanta.config import VantaConfig
from symvanta_pipeline.sandbox.vanta.control import start_vanta

FEW, MANY = 10, 1000
TIMES = 3
START_TIMEOUT = 300.0  # seconds
SYNC, FLEET = "vanta/user_account_sync", "ops/fleet_status"
CODE_SERVER = "code server, start to first answer"
SENSORS = ("newly_connected_customers", "customer_alerts", "fleet_status_after_each_cycle")

SENSOR_DRY_RUN = """
mutation Tick($sensor: SensorSelector!, $cursor: String) {
  sensorDryRun(selectorData: $sensor, cursor: $cursor) {
    ... on DryRunInstigationTick { evaluationResult { skipReason error { message } runRequests { runKey } } }
    ... on Error { message }
  }
}"""
ASSETS = """
query Assets($repository: RepositorySelector!) {
  repositoryOrError(repositorySelector: $repository) { ... on Repository { assetNodes { id } } }
}"""


@dataclass(frozen=True)
class Place:
    """A page of the UI.

    Attributes:
        name: for the table.
        path: its address, with {customer} for a partition key.
        shows: what it is opened for.
        is_first_look: whether nobody looked at the partitions for a day, so that their status has to be worked out.
    """

    name: str
    path: str
    shows: Callable[[Page], Locator]
    is_first_look: bool = False


def _plots(tab: Page) -> Locator:
    tab.get_by_role("button", name="Plots").click()
    return tab.locator("canvas")


def _filled(tab: Page) -> Locator:
    return tab.get_by_text(re.compile(r"^Materialized \([1-9]"))


PLACES = (
    Place("partitions, nobody looked for a day", f"/assets/{SYNC}?view=partitions", _filled, is_first_look=True),
    Place("global lineage", "/asset-groups", lambda tab: tab.locator("foreignObject").get_by_text("vanta", exact=True)),
    Place("user_account_sync, overview", f"/assets/{SYNC}", lambda tab: tab.get_by_text("Row count")),
    Place("partitions", f"/assets/{SYNC}?view=partitions", _filled),
    Place(
        "one customer's partition",
        f"/assets/{SYNC}?view=partitions&partition={{customer}}",
        lambda tab: tab.get_by_text("dagster/row_count"),
    ),
    Place("events", f"/assets/{SYNC}?view=events", lambda tab: tab.get_by_text("dagster/row_count")),
    Place("checks", f"/assets/{SYNC}?view=checks", lambda tab: tab.get_by_text("Evaluation result")),
    Place("user_account_sync, plots", f"/assets/{SYNC}", _plots),
    Place("fleet_status, overview", f"/assets/{FLEET}", lambda tab: tab.get_by_text("needs_a_person")),
    Place("fleet_status, events", f"/assets/{FLEET}?view=events", lambda tab: tab.get_by_text("needs_a_person")),
    Place(f"fleet_status, plots of {CYCLES} cycles", f"/assets/{FLEET}", _plots),
    Place("runs", "/runs", lambda tab: tab.get_by_text("user_account_sync_job")),
    Place("automation", "/automation", lambda tab: tab.get_by_text("hourly_user_account_sync")),
)


@dataclass
class Figures:
    """What was measured of one fleet.

    Attributes:
        sizes: bytes, by what they are of.
        seconds: the least, by what was done.
        visits: the quickest of each page, by its name.
    """

    sizes: dict[str, int]
    seconds: dict[str, float] = field(default_factory=dict)
    visits: dict[str, Visit] = field(default_factory=dict)

    def note(self, name: str, seconds: float) -> None:
        """Keep the least."""
        self.seconds[name] = min(self.seconds.get(name, seconds), seconds)

    def note_visit(self, name: str, made: Visit) -> None:
        """Keep the one that showed something first."""
        self.visits[name] = min(self.visits.get(name, made), made, key=lambda each: each.shown)


Measured = list[tuple[Fleet, Figures]]


def main() -> None:
    """Measure and print."""
    began = time.monotonic()
    with TemporaryDirectory(prefix="symvanta-bench-") as name, ExitStack() as running:
        folder = Path(name)
        postgres = running.enter_context(EmbeddedPostgres.start(folder / "postgres"))
        limits = {"token_requests_per_minute": REQUESTS_PER_MINUTE, "resource_requests_per_minute": REQUESTS_PER_MINUTE}
        vanta = running.enter_context(start_vanta(VantaConfig(**limits)))
        measured: Measured = []
        for size in (FEW, MANY):
            fleet = running.enter_context(running_fleet(size, postgres, vanta, folder))
            measured.append((fleet, Figures(_sizes(fleet), {CODE_SERVER: fleet.code_server_seconds})))
        try:
            _open_pages(measured)
        except NoBrowser as reason:
            print(f"no page is opened: {reason}")
        _tick_all(measured)
        for fleet, figures in (*measured, *measured):
            figures.note("dagster dev, start to loaded location", _start_of_dev(fleet))
        _print(*(figures for _, figures in measured))
    print(f"measured in {time.monotonic() - began:.0f} s")


def _open_pages(measured: Measured) -> None:
    """Open every page some times, of both fleets in turn, so that a busy moment meets both."""
    with browser() as opened, ExitStack() as windows:
        tabs = [windows.enter_context(window(opened, fleet.webserver.url)) for fleet, _ in measured]
        for place in PLACES * TIMES:
            for tab, (fleet, figures) in zip(tabs, measured, strict=True):
                if place.is_first_look:
                    _forget_status(fleet)
                path = place.path.format(customer=fleet.customers[len(fleet.customers) // 2])
                figures.note_visit(place.name, visit(tab, fleet.webserver.url + path, place.shows))


def _forget_status(fleet: Fleet) -> None:
    with psycopg.connect(fleet.dagster) as connection:
        connection.execute("UPDATE asset_keys SET cached_status_data = NULL")


def _tick_all(measured: Measured) -> None:
    """Evaluate schedule and sensors as the daemon does, through the code server."""
    for fleet, figures in measured:
        # The first look tells of everybody in trouble, the others of nobody.
        figures.note("customer_alerts, first look", _seconds(_tick, fleet.webserver, "customer_alerts"))
    for fleet, figures in measured * TIMES:
        figures.note("/server_info", _seconds(_ask, f"{fleet.webserver.url}/server_info"))
        figures.note("hourly_user_account_sync", _seconds(_hour, fleet.webserver))
        for sensor in SENSORS:
            figures.note(sensor, _seconds(_tick, fleet.webserver, sensor))


def _hour(webserver: Webserver) -> None:
    at = datetime.now(UTC).replace(minute=0, second=0, microsecond=0).timestamp()
    schedule = {**REPOSITORY, "scheduleName": "hourly_user_account_sync"}
    evaluated = webserver.query(DRY_RUN, schedule=schedule, at=at)["scheduleDryRun"]["evaluationResult"]
    _require(bool(evaluated["runRequests"]), f"the schedule asks for runs: {evaluated}")


def _tick(webserver: Webserver, sensor: str) -> None:
    ticked = webserver.query(SENSOR_DRY_RUN, cursor=None, sensor={**REPOSITORY, "sensorName": sensor})["sensorDryRun"]
    _require(not (ticked.get("evaluationResult") or {"error": ticked})["error"], f"{sensor} ticks: {ticked}")


def _start_of_dev(fleet: Fleet) -> float:
    """Start ``dagster dev`` in the project's folder, on the fleet's databases, and wait until its UI has the assets."""
    port = free_port()
    webserver = Webserver(f"http://127.0.0.1:{port}")
    began = time.monotonic()
    with DagsterProcess.load("dagster dev", DAGSTER, env=fleet.settings, log=fleet.home / "dev.log") as dev:
        dev.begin("dev", "-h", "127.0.0.1", "-p", str(port))
        while not _has_assets(webserver):
            dev.require_running()
            _require(time.monotonic() - began < START_TIMEOUT, "dagster dev starts")
            time.sleep(0.1)
        return time.monotonic() - began


def _has_assets(webserver: Webserver) -> bool:
    try:
        return bool(webserver.query(ASSETS, repository=REPOSITORY)["repositoryOrError"].get("assetNodes"))
    except DagsterError:
        return False


def _sizes(fleet: Fleet) -> dict[str, int]:
    """Tell how large the status of the fleet that was started last is, and what Dagster's database holds."""
    with dagster_instance() as instance:
        latest = instance.get_latest_materialization_event(dg.AssetKey(FLEET.split("/")))
    _require(latest is not None and latest.asset_materialization is not None, "the fleet's status was looked at")
    assert latest is not None and latest.asset_materialization is not None  # noqa: S101, PT018 - narrows a type
    told = latest.asset_materialization.metadata
    sizes = {f"fleet_status: {name}": len(_text(told[name])) for name in ("customers", "needs_a_person")}
    sizes["fleet_status: the event"] = len(_text(latest))
    with psycopg.connect(fleet.dagster) as connection:
        for name, query in (
            ("Dagster's database", "SELECT pg_database_size(current_database())"),
            ("events, number", "SELECT count(*) FROM event_logs"),
            ("runs, number", "SELECT count(*) FROM runs"),
        ):
            [(sizes[name],)] = connection.execute(query).fetchall()
    return sizes


def _text(told: Any) -> str:
    return serialize_value(told)


def _ask(url: str) -> None:
    requests.get(url, timeout=60).raise_for_status()


def _seconds(work: Callable[..., object], *arguments: object) -> float:
    began = time.monotonic()
    work(*arguments)
    return time.monotonic() - began


def _print(few: Figures, many: Figures) -> None:
    console = Console(width=160)
    pages = _table(
        f"Pages in Chromium, {CYCLES} cycles, seconds until shown",
        *(f"all answers, {FEW}", f"{MANY:,}", "slowest query", "s", "answers, MB"),
    )
    for name, visited in many.visits.items():
        slowest, before = visited.slowest, few.visits[name]
        told = slowest.name, f"{slowest.seconds:.2f}", f"{visited.size / 1e6:.2f}"
        settled = f"{before.settled:.2f}", f"{visited.settled:.2f}"
        pages.add_row(name, *_compared(before.shown, visited.shown, "{:.2f}"), *settled, *told)
    rest = _table("Everything else, seconds")
    for name, seconds in many.seconds.items():
        rest.add_row(name, *_compared(few.seconds[name], seconds, "{:.3f}"))
    sizes = _table("Sizes, bytes")
    for name, size in many.sizes.items():
        sizes.add_row(name, *_compared(few.sizes[name], size, "{:,.0f}"))
    for table in (pages, rest, sizes):
        console.print(table)


def _table(title: str, *more: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("what")
    for heading in (f"{FEW} customers", f"{MANY:,}", "ratio", *more):
        table.add_column(heading, justify="right")
    return table


def _compared(few: float, many: float, form: str) -> tuple[str, str, str]:
    return form.format(few), form.format(many), f"{many / few:.1f}"


if __name__ == "__main__":
    main()
