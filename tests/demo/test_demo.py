"""The demo as a first-time user meets it: what it shows, how it ends, what it leaves behind.

A whole demo takes a while, so two of them, and one that is killed, serve all tests here.
"""

import os
import re
import signal
import socket
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import psutil
import psycopg
import pytest
import requests

from symvanta_pipeline.sandbox.demo import DATABASES
from symvanta_pipeline.sandbox.demo_customers import DEMO_CUSTOMERS, DemoCustomer
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres
from tests.support.stack import SYMVANTA, own_databases, until
from tests.support.visitor import Visitor

pytestmark = [
    pytest.mark.xdist_group("demo"),
    pytest.mark.timeout(600),  # whoever comes first waits for whole demos
]

MARK = "SYMVANTA_TEST_DEMO"  # in the environment of all that a demo starts, daemonized or not
OURS = ("SYM", "VANTA_", "DAGSTER_")
UI_PORT = 3000
ENDS_WITHIN = 30.0  # seconds; Dagster's own parts are given ten before they are killed
TOKENS = re.compile(r"v(?:at|rt|ci|cs)_[\w-]{8,}|sandbox:[\w-]{20,}")
PASSWORDS = re.compile(r"postgres\w*(?:\+\w+)?://\w+:[^@\s]")
DAGSTER_PARTS = ("dagster._cli", "dagster_webserver.cli", "dagster._daemon.cli")
SHORTEST_NAME = 6  # a shorter one may well be a part of some word
ADDRESS = re.compile(r"[\w.+-]+@[\w-]+\.example")
RUN_WORKER = "multiprocessing.spawn"
HELD = next(customer for customer in DEMO_CUSTOMERS if customer.expectation == "held")


@dataclass
class Demo:
    """One demo, with all that it started."""

    folder: Path
    process: subprocess.Popen[bytes]
    output_file: Path
    mark: str
    seen: dict[int, str] = field(default_factory=dict)

    @classmethod
    def start(cls, folder: Path, *options: str, **variables: str) -> "Demo":
        """Start one in a folder, as a terminal would, with nothing set but what is given."""
        mark = uuid.uuid4().hex
        clean = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        keep = {name: value for name, value in os.environ.items() if name.startswith("SYMVANTA_TEST")}
        output = folder / f"output-{mark}"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [SYMVANTA, "demo", *options],
                cwd=folder,
                env={**clean, **keep, MARK: mark, "HOME": str(folder / "home"), **variables},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return cls(folder, process, output, mark)

    @property
    def output(self) -> str:
        return self.output_file.read_text()

    @property
    def data(self) -> Path:
        return self.folder / ".symvanta"

    def until(self, happened: Callable[[], object], what: str) -> None:
        """Wait for something that happens while the demo runs."""
        until(lambda: self.process.poll() is not None or happened(), what)
        assert self.process.poll() is None, self.output

    def interrupt(self) -> int:
        """Press Ctrl-C, which reaches the foreground group, and return the exit status."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(ENDS_WITHIN)

    def processes(self) -> list[psutil.Process]:
        """List what the demo started, whoever its parent is by now."""
        everybody = psutil.process_iter(["environ"])
        marked = [process for process in everybody if (process.info["environ"] or {}).get(MARK) == self.mark]
        return [process for process in marked if process.pid != self.process.pid]

    def commands(self) -> list[str]:
        """List the command lines of what the demo started."""
        found = []
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                found.append(" ".join(process.cmdline()))
        return found

    def left(self) -> list[str]:
        """List what is still there after the time that everything has to end."""
        _, alive = psutil.wait_procs(self.processes(), ENDS_WITHIN)
        return [" ".join(process.cmdline()) for process in alive]


def texts(folder: Path) -> Iterator[tuple[Path, str]]:
    """Read every log and every file of Dagster's."""
    data = folder / ".symvanta"
    for file in [*data.glob("*.log"), *(data / "dagster").rglob("*"), data / "postgres" / "postgres.log"]:
        if file.is_file():
            yield file, file.read_text(errors="replace")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@dataclass
class Killed:
    """What was left of a demo after kill -9 in the middle of its cycle."""

    names: list[str]
    left: list[str]
    torn: set[Path]


@pytest.fixture(scope="module")
def killed(folder: Path) -> Killed:
    """The first demo in an empty folder, killed as soon as a customer is being synced."""
    demo = Demo.start(folder)
    demo.until((demo.data / "data" / "sym").exists, "a customer being synced")
    names = [" ".join(process.cmdline()) for process in demo.processes()]
    demo.process.kill()
    demo.process.wait()
    left = demo.left()
    for log in demo.data.rglob("*.log"):
        log.unlink()  # parts that see others go may say so; later demos have no such excuse
    # What its run was printing when it was killed may well be a traceback.
    torn = {file for file in (demo.data / "dagster").rglob("*") if file.is_file()}
    return Killed(names, left, torn)


@dataclass
class Shown:
    """What a demo showed, and what could be seen of it while it stayed up."""

    output: str
    status: int
    left: list[str]
    rival: Demo
    accounts: dict[str, list[dict[str, object]]]
    users: dict[str, dict[str, str]]
    emails: dict[str, str | None]
    events: list[str]
    commands: list[str]
    connected: str


@pytest.fixture(scope="module")
def shown(folder: Path, killed: Killed) -> Shown:  # noqa: ARG001 - what comes after a demo that was killed
    """A demo that stays up, with the UI's usual port taken and another demo on the same folder."""
    with ExitStack() as taken:
        if not _listens(UI_PORT):
            taken.enter_context(socket.create_server(("127.0.0.1", UI_PORT)))
        demo = Demo.start(folder)
        demo.until(lambda: "Ctrl-C stops everything" in demo.output, "the demo's table")
        rival = Demo.start(folder, "--once")
        rival.process.wait(60)
        stand_in = re.search(r"Vanta stand-in (\S+)", demo.output)
        assert stand_in
        accounts = {
            customer.slug: requests.get(f"{stand_in[1]}/_sandbox/accounts/{customer.id}", timeout=30).json()
            for customer in DEMO_CUSTOMERS
        }
        connected = _connect_as_an_admin(demo.output)
        # Ctrl-C in the middle of a run is another test's: here nothing but the demo's own parts is to end.
        until(lambda: not any(RUN_WORKER in name for name in demo.commands()), "the end of the run")
        with EmbeddedPostgres.start(demo.data / "postgres") as server:
            users, emails = _statuses(server.url("sym")), _emails(server.url("sym"))
            events = _events(server.url("dagster"))
        commands = demo.commands()
        status = demo.interrupt()
    return Shown(demo.output, status, demo.left(), rival, accounts, users, emails, events, commands, connected)


def _connect_as_an_admin(output: str) -> str:
    """Connect the customer that is not connected yet, as the demo invites to, and return what the page says then."""
    address = re.search(r"Connect app    (\S+)", output)
    assert address
    visitor = Visitor()
    page = visitor.get(address[1])
    people = re.findall(r'value="([^"]+)"[^>]*>\s*<label[^>]*>Quarry Bank: an admin</label>', page.html)
    page = visitor.submit(page, "Sign in", person=people[0])
    page = visitor.submit(visitor.submit(page, "Connect Vanta"), "Allow")
    until(lambda: "running" not in visitor.get(page.url).text, "the first sync")
    return visitor.get(page.url).text


@dataclass
class Once:
    """What `demo --once` did."""

    output: str
    status: int
    left: list[str]


@pytest.fixture(scope="module")
def once(folder: Path, shown: Shown) -> Once:  # noqa: ARG001 - the same hour, after another demo
    demo = Demo.start(folder, "--once")
    status = demo.process.wait(300)
    return Once(demo.output, status, demo.left())


def _statuses(url: str) -> dict[str, dict[str, str]]:
    """Tell by customer and by user's id what status Vanta should show."""
    people: dict[str, dict[str, str]] = {customer.slug: {} for customer in DEMO_CUSTOMERS}
    with psycopg.connect(url) as sym:
        for slug, user, left in sym.execute(
            "SELECT slug, users.id::text, deactivated_at IS NOT NULL FROM users"
            " JOIN organizations ON organizations.id = organization_id"
        ):
            people[slug][user] = "DEACTIVATED" if left else "ACTIVE"
    return people


def _emails(url: str) -> dict[str, str | None]:
    with psycopg.connect(url) as sym:
        return dict(sym.execute("SELECT id::text, email FROM users").fetchall())


def _events(url: str) -> list[str]:
    with psycopg.connect(url) as dagster:
        return [event for (event,) in dagster.execute("SELECT event FROM event_logs")]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _row(output: str, slug: str) -> str:
    """Return a customer's row of the table, with the lines that it is wrapped into."""
    lines = output.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith(f"│ {slug} "))
    wrapped = [lines[first]]
    for line in lines[first + 1 :]:
        if not line.startswith("│  "):
            break
        wrapped.append(line)
    return " ".join(wrapped)


@pytest.mark.parametrize("customer", DEMO_CUSTOMERS, ids=lambda customer: customer.slug)
def test_the_table_shows_every_customer_as_designed(shown: Shown, once: Once, customer: DemoCustomer) -> None:
    for output in (shown.output, once.output):
        row = _row(output, customer.slug)
        assert customer.expectation in row
        assert re.search(rf"│ +{customer.size if customer.expectation == 'accepted' else '-'} │", row)
        assert "not as designed" not in output


def test_the_held_customer_is_shown_with_rule_and_user(shown: Shown) -> None:
    nobody_to_write_to = next(user for user, email in shown.emails.items() if email is None)
    assert re.search(rf"held: rule email .*{nobody_to_write_to}", _row(shown.output, HELD.slug))


def test_the_stand_in_holds_all_users_of_the_customers_that_were_accepted(shown: Shown) -> None:
    for customer in DEMO_CUSTOMERS:
        held = {account["uniqueId"]: account["status"] for account in shown.accounts[customer.slug]}
        assert held == (shown.users[customer.slug] if customer.expectation == "accepted" else {})


def test_ctrl_c_ends_a_demo_that_stays_up_and_leaves_no_process(shown: Shown) -> None:
    assert "stopped" in shown.output
    assert (shown.status, shown.left) == (0, [])


def test_once_ends_by_itself_with_the_verdict_and_leaves_no_process(once: Once) -> None:
    assert (once.status, once.left) == (0, [])


def test_a_demo_that_is_killed_takes_everything_with_it(killed: Killed) -> None:
    """And the next start works: it is the one that `shown` looks at."""
    for part in (*DAGSTER_PARTS, "sandbox.vanta", "bin/postgres", RUN_WORKER):
        assert any(part in name for name in killed.names), part
    assert killed.left == []


def test_the_customer_that_is_not_connected_can_be(shown: Shown) -> None:
    customer = next(customer for customer in DEMO_CUSTOMERS if customer.expectation == "not connected")
    assert f"{customer.name} and Vanta" in shown.connected
    assert "Connected: first sync accepted" in shown.connected


def test_a_taken_port_is_told_and_another_one_used(shown: Shown) -> None:
    assert f"Port {UI_PORT} is taken" in shown.output
    assert f"http://127.0.0.1:{UI_PORT}/" not in shown.output


def test_another_demo_on_the_same_folder_is_refused_in_one_line(shown: Shown) -> None:
    assert shown.rival.process.returncode == 1
    [line] = shown.rival.output.splitlines()
    assert "another demo" in line
    assert "SYMVANTA_DATA_DIR" in line


def test_nobody_and_no_secret_is_named_outside_of_the_data(
    folder: Path, killed: Killed, shown: Shown, once: Once
) -> None:
    people = pd.concat(pd.read_parquet(file) for file in (folder / ".symvanta" / "data" / "sym").rglob("*.parquet"))
    names = {name for name in people["name"].dropna() if len(name.strip()) >= SHORTEST_NAME}
    assert len(names) > 100
    places = [
        ("output", shown.output + once.output),
        ("command lines", "\n".join(shown.commands)),
        ("events", "\n".join(shown.events)),
        *((str(file), text) for file, text in texts(folder)),
    ]
    assert len(shown.events) > 50
    assert len(places) > 6
    for place, text in places:
        assert "Traceback" not in text or place in map(str, killed.torn), place
        for pattern in (TOKENS, ADDRESS, PASSWORDS):
            assert not pattern.search(text), (place, pattern)
        assert not [name for name in names if name in text], place


def test_the_search_for_people_and_secrets_would_find_them() -> None:
    assert ADDRESS.search("held: wei.chen.7@harborline.example")
    assert TOKENS.search('{"access_token": "vat_4f3a9c1b2d"}')
    assert TOKENS.search("sandbox:" + "A" * 43 + "=")
    assert PASSWORDS.search("postgresql://symvanta:s3cr-et@127.0.0.1:4321/sym")


@pytest.mark.parametrize(
    ("phase", "reached"),
    [
        ("starting PostgreSQL", lambda data: (data / "postgres" / "server.lock").exists()),
        ("syncing customers", lambda data: (data / "data" / "sym").exists()),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_ctrl_c_in_the_middle_ends_everything(phase: str, reached: Callable[[Path], bool], tmp_path: Path) -> None:
    demo = Demo.start(tmp_path, "--once")
    demo.until(lambda: reached(demo.data), phase)
    assert demo.interrupt() == 130
    assert "stopped" in demo.output
    assert "Traceback" not in demo.output
    assert demo.left() == []


def test_with_all_three_databases_given_none_is_started(
    postgres: EmbeddedPostgres, sym_template: str, symvanta_template: str, dagster_template: str, tmp_path: Path
) -> None:
    templates = dict(zip(DATABASES, (sym_template, symvanta_template, dagster_template), strict=True))
    with own_databases(postgres, templates) as urls:
        demo = Demo.start(tmp_path, **urls)
        demo.until((demo.data / "dagster" / "workspace.yaml").exists, "Dagster being started")
        assert not (demo.data / "postgres").exists()
        demo.process.terminate()
        assert demo.process.wait(ENDS_WITHIN) == 130  # SIGTERM ends it as Ctrl-C does
        assert demo.left() == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SYM_DATABASE_URL", "postgresql://u:canary@db.example.com/sym"),
        ("SYMVANTA_DATABASE_URL", "postgresql://u:canary@127.0.0.1/symvanta?host=db.example.com"),
        ("VANTA_API_URL", "https://api.vanta.com"),
    ],
)
def test_another_machine_is_refused_in_one_line(name: str, value: str, tmp_path: Path) -> None:
    demo = Demo.start(tmp_path, "--once", **{name: value})
    assert demo.process.wait(60) == 1
    [line] = demo.output.splitlines()
    assert line.startswith(f"symvanta: {name} names another machine")
    assert "canary" not in line


def test_a_folder_that_cannot_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    demo = Demo.start(tmp_path, "--once", SYMVANTA_DATA_DIR=str(tmp_path / "file" / "below"))
    assert demo.process.wait(60) == 1
    [line] = demo.output.splitlines()
    assert "cannot be used (Not a directory)" in line
    assert "SYMVANTA_DATA_DIR" in line


def test_a_full_disk_is_told_in_one_line(tiny_disk: Path, tmp_path: Path) -> None:
    demo = Demo.start(tmp_path, "--once", SYMVANTA_DATA_DIR=str(tiny_disk / "demo"))
    assert demo.process.wait(60) == 1
    [line] = demo.output.splitlines()
    assert "No space left on device" in line
    assert "Free some space" in line
    assert demo.left() == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    place = tmp_path / "tiny"
    place.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], check=False).returncode
    ):
        pytest.skip("a small file system can only be mounted by root")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)
