"""Everything on one machine: databases, stand-ins, Dagster, one cycle of the real schedule, and what came of it.

Belongs here: the order in which the demo starts and ends, and what it shows. Does not belong here: any part of it
(see the modules beside this one); the pipeline itself, which knows nothing of the demo. Imports no Dagster, which
would only make a first-time user wait.
"""

import base64
import fcntl
import os
import secrets
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import requests
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from symvanta_pipeline.connect.consent import Candidate, Desk
from symvanta_pipeline.connect.terminal import callback_server
from symvanta_pipeline.ledger import connections, database
from symvanta_pipeline.ledger.live_connection import LiveConnection
from symvanta_pipeline.ledger.snapshots import customer_records
from symvanta_pipeline.ledger.status import CustomerRecord
from symvanta_pipeline.ledger.vault import KeyRing, Vault
from symvanta_pipeline.sandbox import demo_customers
from symvanta_pipeline.sandbox.dagster_processes import DagsterError, Webserver
from symvanta_pipeline.sandbox.dagster_stack import DagsterStack, have_ended, launch_tick
from symvanta_pipeline.sandbox.demo_connect import start_connect
from symvanta_pipeline.sandbox.demo_customers import DEMO_CUSTOMERS, DemoCustomer
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgresError
from symvanta_pipeline.sandbox.postgres_guard import guarded_postgres
from symvanta_pipeline.sandbox.process import ChildFailedError
from symvanta_pipeline.sandbox.vanta.config import VantaConfig
from symvanta_pipeline.sandbox.vanta.control import VantaServer, start_vanta
from symvanta_pipeline.settings import (
    KEY_BYTES,
    KeySettings,
    LedgerSettings,
    SandboxSettings,
    SourceSettings,
    VantaSettings,
    is_loopback,
    load,
)
from symvanta_pipeline.vanta.budget import RateBudgets
from symvanta_pipeline.vanta.oauth import Application

# Faster than Vanta allows, so that a person does not watch a budget; the stand-in is told the same figures.
TOKEN_REQUESTS_PER_MINUTE = 600
RESOURCE_REQUESTS_PER_MINUTE = 1200
CYCLE_TIMEOUT = 600.0
POLL = 0.25
UI_PORT = 3000  # where Dagster's UI is expected; any other where that is taken
PIPE_WIDTH = 160
STOPPED = "stopped; everything that the demo started has ended"
INTERRUPTED = 130  # what a shell calls a program that Ctrl-C ended

DATABASES = {"SYM_DATABASE_URL": "sym", "SYMVANTA_DATABASE_URL": "symvanta", "DAGSTER_POSTGRES_URL": "dagster"}


class DemoError(Exception):
    """The demo cannot go on; the text says what and what to do."""


@dataclass(frozen=True)
class Verdict:
    """What became of one demo customer.

    Attributes:
        users: how many of each type Sym has.
        sent: how many accounts the stand-in for Vanta holds now.
        result: what happened, in a few words.
        as_designed: whether that is what this customer is there to show.
    """

    customer: DemoCustomer
    users: Mapping[str, int]
    sent: int
    result: str
    as_designed: bool


def run_demo(*, once: bool) -> bool:
    """Run the demo and tell whether every demo customer ended as designed.

    Ctrl-C, or SIGTERM, is how a demo that stays up ends; before the table is shown it exits with status 130.

    Raises:
        DemoError: it could not get that far.
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_WIDTH)  # rich would squeeze a table into 80 columns
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = load(SandboxSettings).symvanta_data_dir.resolve()
    try:
        with _explained(folder), ExitStack() as running:
            try:
                as_designed = _run(console, folder, running, once=once)
            finally:
                # Another Ctrl-C would only cut short what takes seconds.
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
    except KeyboardInterrupt:
        console.print(f"\n{STOPPED}")
        raise SystemExit(INTERRUPTED) from None
    if not once:
        console.print(STOPPED)
    return as_designed


def _run(console: Console, folder: Path, running: ExitStack, *, once: bool) -> bool:
    started = time.monotonic()
    with console.status("starting PostgreSQL and a stand-in for Vanta") as status:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        running.enter_context(_alone(folder))
        vanta = _set_environment(folder, running)
        status.update("starting Dagster, and filling Sym's database with twelve made-up organizations")
        dagster = DagsterStack(_dagster_home(folder), running)
        dagster.start_code_server()
        sym_url = load(SourceSettings).sym_database_url.get_secret_value()
        demo_customers.create_schema(sym_url)
        demo_customers.load(sym_url)
        ledger_url = load(LedgerSettings).symvanta_database_url.get_secret_value()
        database.migrate(ledger_url)
        status.update("connecting the customers, as their admins would in a browser")
        with LiveConnection(ledger_url) as ledger:
            partitions = _connect_customers(ledger)
        status.update("starting Dagster")
        # It opens a fresh database of Dagster's alone: two at once can spoil its migration table.
        webserver = dagster.start_webserver(preferred_port=UI_PORT)
        dagster.wait_until(webserver.is_up, "its webserver answers")
        for partition in partitions:
            webserver.add_partition("customers", partition)
        runs = launch_tick(webserver, datetime.now(UTC).replace(minute=0, second=0, microsecond=0))
        # Started after the runs are queued, so that its sensor sees who is being synced already.
        dagster.start_daemon()
    if not webserver.url.endswith(f":{UI_PORT}"):
        console.print(f"Port {UI_PORT} is taken: the Dagster UI has another one.")
    _watch(console, dagster, webserver, runs, ledger_url)
    verdicts = _verdicts(sym_url, ledger_url)
    console.print(_table(verdicts))
    console.print(f"\nDagster UI     {webserver.url}/assets/vanta/user_account_sync?view=partitions", soft_wrap=True)
    console.print(f"Vanta stand-in {vanta.url}", soft_wrap=True)
    if not once:
        # Only now: who waits for the table should not wait for this, too.
        connect = start_connect(folder, running, sym_url=sym_url, vanta=vanta)
        console.print(f"Connect app    {connect.url}/orgs/{_unconnected().slug}/vanta", soft_wrap=True)
    console.print(f"{time.monotonic() - started:.0f} s; data and logs in {folder}", soft_wrap=True)
    if not once:
        console.print("The next cycle runs at the full hour. Ctrl-C stops everything.")
        _stay(dagster.require_running, connect.app.require_running)
        console.print("\nstopping")
    return all(verdict.as_designed for verdict in verdicts)


def _unconnected() -> DemoCustomer:
    return next(customer for customer in DEMO_CUSTOMERS if customer.expectation == "not connected")


def _stay(*require_running: Callable[[], None]) -> None:
    """Wait for Ctrl-C, or for a part that ends by itself."""
    with suppress(KeyboardInterrupt):
        while True:
            for require in require_running:
                require()
            time.sleep(1)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second demo out of the same folder; the lock ends with the process."""
    with (folder / "demo.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoError(
                f"another demo uses {folder}: stop it, or set SYMVANTA_DATA_DIR to another folder"
            ) from None
        yield


def _set_environment(folder: Path, running: ExitStack) -> VantaServer:
    """Set every variable to the sandbox's value, for this process and those that it starts; return Vanta's stand-in."""
    _refuse_outside_hosts()
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"  # whatever proxy leads to the outside
    if missing := [name for name in DATABASES if not os.environ.get(name)]:
        server = running.enter_context(guarded_postgres(folder / "postgres"))
        server.ensure_databases(*DATABASES.values())
        os.environ.update({name: server.url(DATABASES[name]) for name in missing})
    vanta = VantaConfig(
        token_requests_per_minute=TOKEN_REQUESTS_PER_MINUTE, resource_requests_per_minute=RESOURCE_REQUESTS_PER_MINUTE
    )
    child = running.enter_context(start_vanta(vanta, log=folder / "vanta.log"))
    os.environ.update(
        {
            "VANTA_CLIENT_ID": vanta.client_id,
            "VANTA_CLIENT_SECRET": vanta.client_secret.get_secret_value(),
            "VANTA_RESOURCE_ID": vanta.resource_id,
            "VANTA_API_URL": child.url,
            "VANTA_APP_URL": child.url,
            "VANTA_TOKEN_REQUESTS_PER_MINUTE": str(TOKEN_REQUESTS_PER_MINUTE),
            "VANTA_RESOURCE_REQUESTS_PER_MINUTE": str(RESOURCE_REQUESTS_PER_MINUTE),
            "SYMVANTA_DATA_URL": str(folder / "data"),
        }
    )
    os.environ.setdefault("SYMVANTA_TOKEN_KEYS", _token_keys(folder / "token-keys"))
    return child


def _refuse_outside_hosts() -> None:
    """Made-up customers must never meet a real database or the real Vanta.

    Raises:
        DemoError: a variable names another machine.
    """
    values = {name: os.environ.get(name, "") for name in (*DATABASES, "VANTA_API_URL", "VANTA_APP_URL")}
    for name, value in values.items():
        if value and not (is_loopback(value) and (name not in DATABASES or _opens_on_loopback(value))):
            raise DemoError(f"{name} names another machine; the demo works on this one only: unset it for the demo")


def _opens_on_loopback(url: str) -> bool:
    """Tell whether libpq, which takes hosts from a URL's query and from its own variables too, stays here."""
    query = parse_qs(urlsplit(url).query)
    hosts = [*query.get("host", []), *query.get("hostaddr", []), os.environ.get("PGHOSTADDR", "")]
    return "service" not in query and all(is_loopback(f"//{host}") for host in hosts if host)


def _token_keys(file: Path) -> str:
    """Return the sandbox's key ring, made once: tokens of an earlier demo stay readable."""
    if not file.exists():
        key = base64.urlsafe_b64encode(secrets.token_bytes(KEY_BYTES)).decode()
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(f"sandbox:{key}")
    return file.read_text()


def _dagster_home(folder: Path) -> Path:
    """Make a DAGSTER_HOME with this checkout's dagster.yaml."""
    home = folder / "dagster"
    home.mkdir(mode=0o700, exist_ok=True)
    beside_package = Path(__file__).parents[2] / "dagster.yaml"
    source = next((file for file in (Path.cwd() / "dagster.yaml", beside_package) if file.is_file()), None)
    if source is None:
        raise DemoError("there is no dagster.yaml here: run the demo in a checkout of this project")
    shutil.copyfile(source, home / "dagster.yaml")
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def _connect_customers(ledger: LiveConnection) -> list[str]:
    """Take every demo customer but the unconnected one through the real consent flow; return their partitions."""
    vanta = load(VantaSettings)
    partitions: list[str] = []
    desk = Desk(
        application=Application.from_settings(vanta),
        budgets=RateBudgets.from_settings(ledger.get, vanta),
        ledger=ledger,
        keyring=KeyRing(load(KeySettings).symvanta_token_keys.get_secret_value()),
        register=partitions.append,
    )
    with callback_server(0) as server, requests.Session() as browser:
        for customer in DEMO_CUSTOMERS:
            browser.put(
                f"{vanta.vanta_app_url}/_sandbox/tenants/{customer.id}", json={"name": customer.name}, timeout=10
            )
            if customer.expectation == "not connected":
                _disconnect(ledger, desk.keyring, customer)
            else:
                request = desk.ask(Candidate(customer.id, customer.slug), server.redirect_uri)
                browser.get(f"{request.url}&auto=1", timeout=10).raise_for_status()
                desk.take(request, server.wait(request.state, 10), connected_by="demo")
    return partitions


def _disconnect(ledger: LiveConnection, keyring: KeyRing, customer: DemoCustomer) -> None:
    """Undo what a person did in an earlier demo; this one's stand-in knows nothing of it."""
    connections.mark_disconnected(ledger.get(), customer.id)
    Vault(ledger.get(), keyring).erase(customer.id)


def _watch(console: Console, dagster: DagsterStack, webserver: Webserver, runs: Sequence[str], ledger_url: str) -> None:
    """Show the customers as they are done, until all runs have ended."""
    total = sum(customer.expectation != "not connected" for customer in DEMO_CUSTOMERS)
    deadline = time.monotonic() + CYCLE_TIMEOUT
    columns = (TextColumn("syncing customers"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with LiveConnection(ledger_url) as ledger, Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=total)
        while not have_ended(webserver, runs):
            dagster.require_running()
            if time.monotonic() > deadline:
                raise DagsterError(f"the cycle did not end within {CYCLE_TIMEOUT / 60:.0f} minutes; see Dagster's logs")
            progress.update(task, completed=sum(record.is_tried for record in customer_records(ledger.get())))
            time.sleep(POLL)


def _verdicts(sym_url: str, ledger_url: str) -> list[Verdict]:
    with psycopg.connect(sym_url) as sym, LiveConnection(ledger_url) as ledger:
        types = sym.execute(
            "SELECT organization_id, type, count(*) FROM users GROUP BY organization_id, type ORDER BY type"
        ).fetchall()
        records = {record.organization_id: record for record in customer_records(ledger.get())}
    return [
        _verdict(customer, {kind: n for id_, kind, n in types if id_ == customer.id}, records.get(customer.id))
        for customer in DEMO_CUSTOMERS
    ]


def _verdict(customer: DemoCustomer, users: Mapping[str, int], record: CustomerRecord | None) -> Verdict:
    """Compare what the ledger and the stand-in say with what the customer is there to show."""
    accounts = requests.get(f"{load(VantaSettings).vanta_app_url}/_sandbox/accounts/{customer.id}", timeout=10).json()
    outcome = "not connected"
    if record and record.connection_state != "disconnected":
        outcome = record.outcome or "no attempt"
    sent_as_designed = sum(users.values()) if customer.expectation == "accepted" else 0
    return Verdict(
        customer=customer,
        users=users,
        sent=len(accounts),
        result=f"{outcome}: {record.sentence}" if record and record.sentence and outcome == record.outcome else outcome,
        as_designed=outcome == customer.expectation and len(accounts) == sent_as_designed,
    )


def _table(verdicts: Sequence[Verdict]) -> Table:
    table = Table(title="One cycle: from Sym's database to Vanta", title_justify="left")
    for heading in ("customer", "users by type", "sent", "result", "shows"):
        # Folded: an id that is cut short helps nobody.
        table.add_column(heading, justify="right" if heading == "sent" else "left", overflow="fold")
    for verdict in verdicts:
        types = ", ".join(f"{n} {kind}{'s' if n > 1 else ''}" for kind, n in verdict.users.items())
        result = verdict.result if verdict.as_designed else f"[bold red]not as designed:[/] {verdict.result}"
        table.add_row(verdict.customer.slug, types, str(verdict.sent or "-"), result, verdict.customer.shows)
    return table


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn what a person can do something about into one sentence.

    Raises:
        DemoError: always, in place of those.
    """
    try:
        yield
    except (DagsterError, ChildFailedError, EmbeddedPostgresError) as error:
        raise DemoError(str(error)) from None
    except psycopg.Error as error:
        raise DemoError(f"PostgreSQL failed ({type(error).__name__}); logs are in {folder}") from None
    except OSError as error:
        if isinstance(error, requests.RequestException):
            raise DemoError(
                f"a part of the demo did not answer ({type(error).__name__}); logs are in {folder}"
            ) from None
        raise DemoError(
            f"{folder} cannot be used ({error.strerror}): make it so, or choose another one with SYMVANTA_DATA_DIR"
        ) from None
