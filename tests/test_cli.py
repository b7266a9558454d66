"""The commands as a person or a script meets them, with real databases, a real Dagster instance and a real stand-in."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit, urlunsplit
from uuid import UUID, uuid4

import psycopg
import pytest
import requests
from click.testing import CliRunner, Result

from symvanta_pipeline.cli import main
from symvanta_pipeline.connect.terminal import callback_server
from symvanta_pipeline.ledger import connections, database, snapshots
from symvanta_pipeline.ledger import vault as vault_module
from symvanta_pipeline.ledger.vault import KeyRing, Token, Vault
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres
from symvanta_pipeline.sandbox.vanta.config import VantaConfig
from symvanta_pipeline.sandbox.vanta.control import VantaServer, start_vanta
from tests.conftest import EMPTY_LEDGER

if TYPE_CHECKING:
    from tests.conftest import SymRows

SYMVANTA = Path(sys.executable).with_name("symvanta")
DAGSTER_YAML = Path(__file__).parents[1] / "dagster.yaml"
KEYS = "k1:" + base64.urlsafe_b64encode(bytes(range(32))).decode()
NOWHERE = "postgresql://u:canary@127.0.0.1:1/nowhere"
REQUIRED_BY_CONNECT = [
    "SYM_DATABASE_URL",
    "SYMVANTA_DATABASE_URL",
    "DAGSTER_POSTGRES_URL",
    "VANTA_CLIENT_ID",
    "VANTA_CLIENT_SECRET",
    "VANTA_RESOURCE_ID",
    "SYMVANTA_TOKEN_KEYS",
]


@pytest.fixture(scope="module")
def vanta() -> Iterator[VantaServer]:
    with start_vanta(VantaConfig(token_requests_per_minute=100_000)) as running:
        yield running


@pytest.fixture(scope="module")
def databases(
    postgres: EmbeddedPostgres, sym_template: str, symvanta_template: str, dagster_template: str
) -> Iterator[dict[str, str]]:
    """URLs of one database of each kind for the whole module: clones for each test would cost more than the tests."""
    names = {
        template: f"{template}_{uuid4().hex[:12]}" for template in (sym_template, symvanta_template, dagster_template)
    }
    for template, name in names.items():
        postgres.clone(template, name)
    yield {template: postgres.url(name) for template, name in names.items()}
    for name in names.values():
        postgres.drop(name)


@pytest.fixture
def sym_url(databases: dict[str, str]) -> str:
    """Sym's database with nothing in it; the shared fixture `sym` writes there."""
    return emptied(databases["sym"], "TRUNCATE organizations CASCADE")


@pytest.fixture
def symvanta_url(databases: dict[str, str]) -> str:
    """The pipeline's own database with nothing in it."""
    return emptied(databases["symvanta"], EMPTY_LEDGER.decode())


@pytest.fixture
def dagster_url(databases: dict[str, str]) -> str:
    """Dagster's database without partitions, as dagster-postgres wants it."""
    url = emptied(databases["dagster"], "TRUNCATE dynamic_partitions")
    return url.replace("postgresql://", "postgresql+psycopg2://", 1)


def emptied(url: str, statement: str) -> str:
    with psycopg.connect(url) as connection:
        connection.execute(statement.encode())
    return url


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty folder and none of the variables; whatever a `.env` brings in is gone afterwards."""
    before = dict(os.environ)
    for name in before:
        if name.startswith(("VANTA_", "SYM_", "SYMVANTA_TOKEN", "SYMVANTA_DATA", "DAGSTER_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    yield
    monkeypatch.undo()
    os.environ.clear()
    os.environ.update(before)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="symvanta")


def failed(result: Result, says: str) -> str:
    """One clear line on stderr, status 1, and no traceback; returns what went to stdout."""
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert re.fullmatch(r"symvanta: [^\n]+\n", result.stderr), result.stderr
    assert re.search(says, result.stderr), result.stderr
    for word in ("Traceback", "canary", "unexpected"):
        assert word not in result.output
    return result.stdout


class World:
    """Everything that `symvanta connect` works with, and what came of it."""

    def __init__(self, vanta: VantaServer, sym: "SymRows", urls: dict[str, str]) -> None:
        self.vanta = vanta
        self.sym = sym
        self.urls = urls
        self.organization_id = sym.organization("acme")
        self.ledger = database.connect(urls["SYMVANTA_DATABASE_URL"])
        self.keyring = KeyRing(KEYS)

    def partitions(self) -> list[str]:
        with psycopg.connect(self.urls["DAGSTER_POSTGRES_URL"].replace("+psycopg2", "")) as connection:
            rows = connection.execute(
                "SELECT partition FROM dynamic_partitions WHERE partitions_def_name = 'customers' ORDER BY id"
            ).fetchall()
        return [row[0] for row in rows]

    def stored(self) -> tuple[int, int, list[str]]:
        """How many connections and tokens there are, and which partitions."""
        [row] = self.ledger.execute(
            "SELECT (SELECT count(*) FROM connections), (SELECT count(*) FROM tokens)"
        ).fetchall()
        return row[0], row[1], self.partitions()

    def consents(self) -> int:
        """How often a code of this organization was exchanged with success."""
        return sum(
            entry["status"] == 200
            for entry in self.vanta.journal("token")
            if entry["tenant"] == str(self.organization_id)
        )


@pytest.fixture
def world(
    *,
    vanta: VantaServer,
    sym: "SymRows",
    sym_url: str,
    symvanta_url: str,
    dagster_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    shutil.copy(DAGSTER_YAML, tmp_path)
    urls = {"SYM_DATABASE_URL": sym_url, "SYMVANTA_DATABASE_URL": symvanta_url, "DAGSTER_POSTGRES_URL": dagster_url}
    settings = urls | {
        "DAGSTER_HOME": str(tmp_path),
        "VANTA_CLIENT_ID": vanta.config.client_id,
        "VANTA_CLIENT_SECRET": vanta.config.client_secret.get_secret_value(),
        "VANTA_RESOURCE_ID": vanta.config.resource_id,
        "VANTA_API_URL": vanta.url,
        "VANTA_APP_URL": vanta.url,
        "SYMVANTA_TOKEN_KEYS": KEYS,
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    made = World(vanta, sym, urls)
    yield made
    made.ledger.close()


Act = Callable[[str], object]


def connect(monkeypatch: pytest.MonkeyPatch, act: Act, *arguments: str) -> Result:
    """Run `symvanta connect` with somebody who does this at the consent page in place of a browser."""
    people: list[threading.Thread] = []

    def browse(url: str) -> bool:
        people.append(threading.Thread(target=act, args=[url]))
        people[-1].start()
        return True

    monkeypatch.setattr(webbrowser, "open", browse)
    result = run("connect", *arguments, "--port", "0", "--timeout", "30")
    for person in people:
        person.join(timeout=30)
    return result


def allow(url: str) -> requests.Response:
    return requests.get(f"{url}&auto=1", timeout=30)


def deny(url: str) -> requests.Response:
    return requests.post(url, data={"decision": "deny"}, timeout=30)


def come_back(url: str, **changes: str) -> requests.Response:
    """Allow, and change what the redirect brings back."""
    redirect = requests.get(f"{url}&auto=1", timeout=30, allow_redirects=False).headers["Location"]
    parts = urlsplit(redirect)
    query = urlencode(dict(parse_qsl(parts.query)) | changes)
    return requests.get(urlunsplit(parts._replace(query=query)), timeout=30)


def test_connect_as_a_real_command(world: World) -> None:
    command = [str(SYMVANTA), "connect", "acme", "--no-browser", "--port", "0", "--timeout", "60"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().rstrip("\n")
        page = allow(url)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, stderr
    assert url.startswith(f"{world.vanta.url}/oauth/authorize?")
    assert stdout == ""
    assert stderr == "acme is connected; its first sync follows by itself within seconds.\n"
    # Nothing of the answer shows anywhere but in the redirect itself.
    answer = dict(parse_qsl(urlsplit(page.url).query))
    for secret in (answer["code"], answer["state"]):
        assert secret not in page.text + stderr
    assert page.status_code == 200
    assert world.stored() == (1, 1, ["acme"])
    token = Vault(world.ledger, world.keyring).load(world.organization_id)
    assert token is not None
    [(row,)] = world.ledger.execute("SELECT row_to_json(tokens)::text FROM tokens").fetchall()
    for secret in (token.access_token, token.refresh_token):
        for form in (secret, secret.encode().hex()):
            assert form not in row
    source = parse_qs(urlsplit(url).query)["source_id"]
    assert source == [str(world.organization_id)]


def test_connect_opens_a_browser(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    result = connect(monkeypatch, allow, "acme")
    assert result.exit_code == 0, result.output
    assert re.fullmatch(r"http://\S+/oauth/authorize\?\S+\n", result.stdout)
    assert result.stderr.startswith("acme is connected")
    assert world.stored() == (1, 1, ["acme"])


NO_CONSENT: list[tuple[Act, str]] = [
    (deny, "consent was denied"),
    (lambda url: come_back(url, error="canary"), "reported an error"),
    (lambda url: come_back(url, code=""), "no authorization code"),
    (lambda url: come_back(url, code="canary"), "consent has to be given again"),
]


def test_a_consent_that_is_none(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for act, says in NO_CONSENT:
        result = connect(monkeypatch, act, "acme")
        url = failed(result, says)
        assert url.count("\n") == 1
        assert parse_qs(urlsplit(url.strip()).query)["state"][0] not in result.stderr
        assert world.stored() == (0, 0, [])
        assert world.consents() == 0


def test_any_web_page_can_send_the_browser_back_and_ends_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def strays_first(url: str) -> None:
        redirect = parse_qs(urlsplit(url).query)["redirect_uri"][0]
        for stray in ({"state": "canary", "code": "canary"}, {"error": "access_denied"}):
            assert requests.get(redirect, stray, timeout=30).status_code == 200
        allow(url)

    result = connect(monkeypatch, strays_first, "acme")
    assert result.exit_code == 0, result.output
    assert world.stored() == (1, 1, ["acme"])


def test_an_organization_that_goes_while_somebody_decides_is_not_connected(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def allow_too_late(url: str) -> None:
        world.sym.execute("UPDATE organizations SET deleted_at = now() WHERE id = %s", world.organization_id)
        allow(url)

    failed(connect(monkeypatch, allow_too_late, "acme"), "is gone from Sym: nothing can be connected")
    assert (world.stored(), world.consents()) == ((0, 0, []), 0)


def test_a_code_that_was_used(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def use_it_first(url: str) -> None:
        redirect = requests.get(f"{url}&auto=1", timeout=30, allow_redirects=False).headers["Location"]
        code = parse_qs(urlsplit(redirect).query)["code"][0]
        own = redirect.partition("?")[0]
        world.vanta.exchange(str(world.organization_id), code, redirect_uri=own).raise_for_status()
        requests.get(redirect, timeout=30)

    failed(connect(monkeypatch, use_it_first, "acme"), "consent has to be given again")
    assert world.consents() == 1
    assert world.stored() == (0, 0, [])


def test_nobody_answers_or_can(world: World) -> None:
    result = run("connect", "acme", "--no-browser", "--port", "0", "--timeout", "1")
    assert failed(result, "nobody answered the consent page within 1 s").count("\n") == 1
    with callback_server(0) as other:
        port = urlsplit(other.redirect_uri).port
        result = run("connect", "acme", "--no-browser", "--port", str(port))
    assert failed(result, f"port {port} .*--port") == ""
    assert world.stored() == (0, 0, [])


def test_a_slug_that_nobody_has_or_that_cannot_be_a_key(world: World) -> None:
    world.sym.organization("gone", deleted_at=datetime.now(UTC))
    unusable = ["a,b", "-x", "a...b", "ünï"]
    for slug in unusable:
        world.sym.organization(slug)
    for slug in ["nobody", "ACME", "acme ", "", "a\nb", "acme-00000000", "gone", *unusable]:
        says = "cannot become a partition key" if slug in unusable else "no organization has the slug"
        assert failed(run("connect", "--no-browser", "--port", "0", "--", slug), says) == ""
    assert world.stored() == (0, 0, [])


@pytest.mark.parametrize("variable", REQUIRED_BY_CONNECT)
def test_connect_without_a_setting(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in REQUIRED_BY_CONNECT:
        monkeypatch.setenv(name, KEYS if name == "SYMVANTA_TOKEN_KEYS" else NOWHERE)
    monkeypatch.delenv(variable)
    assert failed(run("connect", "acme", "--no-browser"), f"{variable} is not set: it should hold .") == ""
    monkeypatch.setenv(variable, " ")
    assert failed(run("connect", "acme", "--no-browser"), f"{variable} is not set: it should hold .") == ""


@pytest.mark.usefixtures("world")
def test_connect_without_dagster_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME")
    (tmp_path / "dagster.yaml").unlink()
    assert failed(run("connect", "acme", "--no-browser", "--port", "0"), "DAGSTER_HOME is not set") == ""


def test_connect_with_a_database_that_is_down(
    world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for variable, says in (
        ("SYM_DATABASE_URL", "cannot connect to Sym's database"),
        ("SYMVANTA_DATABASE_URL", "the pipeline's own database cannot be reached"),
        ("DAGSTER_POSTGRES_URL", "Dagster's database cannot be reached: check DAGSTER_POSTGRES_URL"),
    ):
        with monkeypatch.context() as down:
            down.setenv(variable, NOWHERE)
            assert failed(run("connect", "acme", "--no-browser", "--port", "0"), says) == ""
    assert capfd.readouterr() == ("", "")
    assert world.stored() == (0, 0, [])


@pytest.mark.parametrize(
    "arguments",
    [
        ["connect"],
        ["connect", "a", "b"],
        ["connect", "a", "--port", "70000"],
        ["connect", "a", "--port", "-1"],
        ["connect", "a", "--port", "x"],
        ["connect", "a", "--timeout", "0"],
        ["connect", "a", "--timeout", "nan"],
        ["connect", "a", "--timeout", "1000000"],
        ["customers", "--jsn"],
        ["customers", "extra"],
        ["migrate", "now"],
        ["nonsense"],
    ],
    ids=" ".join,
)
def test_wrong_usage(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Usage: symvanta" in result.stderr
    assert "Traceback" not in result.stderr


def seed(ledger: psycopg.Connection, slug: str, organization_id: UUID | None = None) -> UUID:
    """Connect an organization, without anybody at a consent page."""
    organization_id = organization_id or uuid4()
    token = Token("vat_x", "vrt_x", datetime.now(UTC) + timedelta(hours=1), "read")
    connections.connect_customer(ledger, KeyRing(KEYS), organization_id, slug, token)
    return organization_id


def keys(world: World) -> dict[UUID, tuple[str, int]]:
    """Partition key and number of consents by organization."""
    return {c.organization_id: (c.customer, c.generation) for c in connections.all_connections(world.ledger)}


def test_a_reconnect_under_the_key_and_under_todays_slug(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seed(world.ledger, "acme", world.organization_id)
    world.sym.execute("UPDATE organizations SET slug = 'renamed' WHERE id = %s", world.organization_id)
    for generation, name in ((2, "acme"), (3, "renamed")):
        result = connect(monkeypatch, allow, name)
        assert result.exit_code == 0, result.output
        assert result.stderr.startswith("acme is connected")
        assert keys(world) == {world.organization_id: ("acme", generation)}
    assert world.partitions() == ["acme"]


def test_a_name_that_has_come_to_mean_two_organizations(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting the wrong one would show one customer's users to the other."""
    first = seed(world.ledger, "acme")
    world.sym.organization("acme-before", id=first)
    second = world.organization_id
    by_key, by_slug = (f"acme-{str(organization)[:8]}" for organization in (first, second))
    result = connect(monkeypatch, lambda _: pytest.fail("somebody was asked"), "acme")
    assert failed(result, f"say {by_key} or {by_slug}") == ""
    assert keys(world) == {first: ("acme", 1)}

    result = connect(monkeypatch, allow, by_slug)
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith(f"{by_slug} is connected")
    assert keys(world) == {first: ("acme", 1), second: (by_slug, 1)}
    assert world.consents() == 1

    result = connect(monkeypatch, allow, by_key)
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("acme is connected")
    assert keys(world) == {first: ("acme", 2), second: (by_slug, 1)}
    assert world.partitions() == [by_slug, "acme"]


KEYS_OF_A_ROW = [
    "customer",
    "organization_id",
    "state",
    "last_accepted_at",
    "active",
    "deactivated",
    "next_step",
]


@pytest.fixture
def ledger(symvanta_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[psycopg.Connection]:
    """The pipeline's own database, and the one setting that leads to it."""
    monkeypatch.setenv("SYMVANTA_DATABASE_URL", symvanta_url)
    with database.connect(symvanta_url) as connection:
        yield connection


def accepted(ledger: psycopg.Connection, organization_id: UUID, at: datetime) -> None:
    snapshot = snapshots.Snapshot(organization_id, "run", at, "0" * 64, 3, 2, 1)
    intent = snapshots.record_intent(ledger, snapshot)
    snapshots.record_accepted(ledger, intent, token_generation=1)
    with ledger.transaction():
        ledger.execute("SET LOCAL session_replication_role = replica")  # past the trigger that keeps history as it was
        ledger.execute(
            "UPDATE accepted_snapshots SET accepted_at = %s WHERE organization_id = %s", [at, organization_id]
        )


def outcome(ledger: psycopg.Connection, organization_id: UUID, kind: snapshots.AttemptOutcome, sentence: str) -> None:
    snapshots.record_outcome(ledger, organization_id, kind, run_id="run", sentence=sentence)


def every_state(ledger: psycopg.Connection) -> dict[str, UUID]:
    now = datetime.now(UTC)
    ids = {slug: seed(ledger, slug) for slug in ("new", "healthy", "late", "held", "failing", "parked", "gone")}
    ledger.execute("UPDATE connections SET connected_at = now() - interval '2 days' WHERE customer <> 'new'")
    for slug, hours in (("healthy", 1), ("late", 2), ("held", 3)):
        accepted(ledger, ids[slug], now.replace(microsecond=0) - timedelta(hours=hours))
    outcome(ledger, ids["held"], "held", "rule email (email) broken by 1: [bold]x[/red] :smile:")
    outcome(ledger, ids["failing"], "failing", "Vanta cannot answer now (503)")
    connections.park(ledger, ids["parked"], "invalid_grant", token_generation=1)
    ledger.execute("UPDATE connections SET state = 'disconnected', disconnected_at = now() WHERE customer = 'gone'")
    return ids


def test_customers_as_json(ledger: psycopg.Connection) -> None:
    ids = every_state(ledger)
    result = run("customers", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    rows = json.loads(result.stdout)
    assert [list(row) for row in rows] == [KEYS_OF_A_ROW] * 7
    assert [row["customer"] for row in rows] == sorted(ids)
    by_customer = {row["customer"]: row for row in rows}
    assert {customer: row["state"] for customer, row in by_customer.items()} == {
        **{state: state for state in ("new", "healthy", "late", "held", "failing", "parked")},
        "gone": "disconnected",
    }
    assert {customer: row["organization_id"] for customer, row in by_customer.items()} == {
        customer: str(organization_id) for customer, organization_id in ids.items()
    }
    held = by_customer["held"]
    at = datetime.fromisoformat(held["last_accepted_at"])
    assert held["last_accepted_at"] == f"{at:%Y-%m-%dT%H:%M:%SZ}"
    assert timedelta(hours=2.9) < datetime.now(UTC) - at < timedelta(hours=3.1)
    assert (held["active"], held["deactivated"]) == (2, 1)
    new = by_customer["new"]
    assert (new["last_accepted_at"], new["active"], new["deactivated"]) == (None, None, None)
    assert "[bold]x[/red] :smile:" in held["next_step"]
    assert by_customer["parked"]["next_step"].endswith("symvanta connect parked")
    assert by_customer["gone"]["next_step"].endswith("symvanta connect gone")


def test_customers_as_a_table(ledger: psycopg.Connection) -> None:
    ids = every_state(ledger)
    result = run("customers")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].split()[:2] == ["customer", "organization"]
    assert [line.split()[:2] for line in lines[1:]] == [[slug, str(ids[slug])] for slug in sorted(ids)]
    assert "[bold]x[/red] :smile:" in result.stdout


@pytest.mark.usefixtures("ledger")
def test_no_customers_yet() -> None:
    assert run("customers").stdout == "no customer was ever connected: symvanta connect SLUG\n"
    result = run("customers", "--json")
    assert (json.loads(result.stdout), result.stderr) == ([], "")


def test_what_nobody_foresaw_is_told_without_its_text(ledger: psycopg.Connection) -> None:
    ledger.execute("ALTER TABLE connections RENAME COLUMN parked_reason TO canary")
    result = run("customers")
    ledger.execute("ALTER TABLE connections RENAME COLUMN canary TO parked_reason")
    assert (result.exit_code, result.stdout) == (1, "")
    assert re.fullmatch(r"symvanta: unexpected UndefinedColumn at \w+\.py:\d+; please report it\n", result.stderr)


@pytest.fixture
def empty_database(postgres: EmbeddedPostgres) -> Iterator[str]:
    name = f"empty_{uuid4().hex[:12]}"
    postgres.ensure_databases(name)
    yield postgres.url(name)
    postgres.drop(name)


NEW_RING = f"k2:{base64.urlsafe_b64encode(bytes(range(40, 72))).decode()},{KEYS}"


def rotations(ledger: psycopg.Connection) -> list[str]:
    rows = ledger.execute("SELECT detail FROM audit_events WHERE event = 'keys_rotated' ORDER BY id").fetchall()
    return [detail for (detail,) in rows]


def test_rotating_past_a_token_that_nobody_can_read(
    ledger: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, *_ = (seed(ledger, slug) for slug in ("lost", "acme", "globex"))
    ledger.execute("UPDATE tokens SET refresh_token = access_token WHERE organization_id = %s", [lost])
    monkeypatch.setenv("SYMVANTA_TOKEN_KEYS", NEW_RING)
    for counts in ("2 re-encrypted with key k2, 0 were already", "0 re-encrypted with key k2, 2 were already"):
        says = f"1 cannot be decrypted and stayed as they were: reconnect the organizations {lost}"
        assert failed(run("keys", "rotate"), says) == f"{counts}\n"
        assert rotations(ledger)[-1] == counts


def test_rotating_around_a_token_that_stays_locked(
    ledger: psycopg.Connection, symvanta_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked, *_ = (seed(ledger, slug) for slug in ("locked", "acme", "globex"))
    monkeypatch.setenv("SYMVANTA_TOKEN_KEYS", NEW_RING)
    monkeypatch.setattr(vault_module, "ROTATION_PATIENCE", 0.3)
    with psycopg.connect(symvanta_url) as holder:
        holder.execute("SELECT FROM tokens WHERE organization_id = %s FOR UPDATE", [locked])
        says = "tokens not rotated yet, which another process keeps locked: 1; rotated: 2; run it again"
        assert failed(run("keys", "rotate"), says) == ""
    assert rotations(ledger) == [says]
    assert run("keys", "rotate").stdout == "1 re-encrypted with key k2, 2 were already\n"


def test_migrating_twice(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMVANTA_DATABASE_URL", empty_database)
    failed(run("customers"), "do not exist yet; run: symvanta migrate")
    first, second = run("migrate"), run("migrate")
    assert (first.exit_code, first.stderr) == (second.exit_code, second.stderr) == (0, "")
    assert re.fullmatch(r"applied: 0001\S*(, \S+)*\n", first.stdout)
    assert second.stdout == "already up to date\n"
    assert run("customers", "--json").stdout == "[]\n"


@pytest.mark.parametrize("command", ["migrate", "customers"])
def test_a_ledger_that_cannot_be_used(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert failed(run(command), "SYMVANTA_DATABASE_URL is not set") == ""
    monkeypatch.setenv("SYMVANTA_DATABASE_URL", "canary")
    assert failed(run(command), "SYMVANTA_DATABASE_URL is malformed") == ""
    monkeypatch.setenv("SYMVANTA_DATABASE_URL", NOWHERE)
    assert failed(run(command), "the pipeline's own database cannot be reached") == ""


def test_a_dotenv_is_read_and_the_environment_wins(
    symvanta_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text(f"SYMVANTA_DATABASE_URL={symvanta_url}\n")
    assert run("customers", "--json").stdout == "[]\n"
    monkeypatch.setenv("SYMVANTA_DATABASE_URL", NOWHERE)
    failed(run("customers", "--json"), "cannot be reached")


HELP = """
import sys
from symvanta_pipeline.cli import main
main(["--help"], prog_name="symvanta", standalone_mode=False)
heavy = {"dagster", "pandas", "pandera", "sqlalchemy", "alembic", "psycopg", "requests", "cryptography", "rich"}
print("imported:", sorted(heavy & set(sys.modules)))
"""


def test_help_lists_the_commands_and_imports_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    assert {"connect", "customers", "demo", "migrate"} <= set(main.commands)
    for name in main.commands:
        assert re.search(rf"^  {name} +\S", done.stdout, re.MULTILINE), done.stdout
    assert done.stdout.endswith("imported: []\n")
    assert done.stderr == ""
