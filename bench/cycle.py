"""What one hourly cycle costs, through the real daemon, beside the least code that does the same.

Prints CPU seconds of every process and wall time for a cycle of 100 customers with 100 users each and for one of 200,
each beside a floor measured in the same run: one process that reads the same users with psycopg, builds byte-equal
bodies and PUTs them over one kept-alive connection. The difference of the two cycles is what 100 more customers add.

Run it with ``make bench`` on an otherwise idle machine; nothing outside of this machine is reached.
"""

import json
import os
import secrets
import shutil
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import psycopg
import requests
from psycopg.rows import dict_row
from rich.console import Console
from rich.table import Table

from symvanta_pipeline.dagster_instance import dagster_instance
from symvanta_pipeline.defs.partitions import CUSTOMERS
from symvanta_pipeline.ledger import connections, database, snapshots
from symvanta_pipeline.ledger.vault import KeyRing
from symvanta_pipeline.sandbox import demo_customers
from symvanta_pipeline.sandbox.dagster_processes import Webserver
from symvanta_pipeline.sandbox.dagster_stack import DagsterStack, have_ended, launch_tick
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres
from symvanta_pipeline.sandbox.vanta.config import VantaConfig
from symvanta_pipeline.sandbox.vanta.control import VantaServer, start_vanta
from symvanta_pipeline.token_store import token_of
from symvanta_pipeline.vanta.oauth import TokenReply

CUSTOMERS_AT_ONCE = 100
USERS_EACH = 100
ADMINS, MEMBERS = 6, 84  # of the users of each; the rest are guests
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "bench.symvanta.example")
# Out of the way: what is measured is work, not the pacing that Vanta's limits ask for.
REQUESTS_PER_MINUTE = 1_000_000
SETTLE = 3.0  # seconds for processes that have just started to become quiet

USERS = """
SELECT u.id::text AS id, o.slug, u.type, u.name, u.email, u.created_at, u.updated_at, u.deactivated_at,
       max(i.last_login_at) AS last_login_at
FROM users u JOIN organizations o ON o.id = u.organization_id JOIN identities i ON i.user_id = u.id
WHERE u.organization_id = %s GROUP BY u.id, o.slug ORDER BY u.id"""


MAPPED = {"admin": ("ADMIN", "PASSWORD", ["OTP"]), "member": ("BASE", "SSO", []), "guest": ("BASE", "SSO", [])}

Organization = tuple[uuid.UUID, str]


@dataclass(frozen=True)
class Cost:
    """CPU seconds by part, and wall seconds."""

    cpu: dict[str, float]
    wall: float

    def of(self, *parts: str) -> float:
        """CPU seconds of some of the parts."""
        return sum(self.cpu[part] for part in parts)


@dataclass(frozen=True)
class Parts:
    """Processes by name; children that have ended count with whoever waited for them."""

    trees: dict[str, int]

    @contextmanager
    def measured(self, into: list[Cost]) -> Iterator[None]:
        """Append what the block costs."""
        before, started = self._cpu(), time.monotonic()
        yield
        wall, after = time.monotonic() - started, self._cpu()
        into.append(Cost({part: after[part] - before[part] for part in after}, wall))

    def _cpu(self) -> dict[str, float]:
        return {part: _tree_seconds(pid) for part, pid in self.trees.items()} | {"this process": time.process_time()}


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="symvanta-bench-") as name, ExitStack() as running:
        folder = Path(name)
        postgres = running.enter_context(EmbeddedPostgres.start(folder / "postgres"))
        postgres.ensure_databases("sym", "symvanta", "dagster")
        limits = {"token_requests_per_minute": REQUESTS_PER_MINUTE, "resource_requests_per_minute": REQUESTS_PER_MINUTE}
        vanta = running.enter_context(start_vanta(VantaConfig(**limits)))
        _set_environment(postgres, vanta, folder)
        organizations = _fill(postgres.url("sym"), _slugs(2 * CUSTOMERS_AT_ONCE))
        database.migrate(postgres.url("symvanta"))
        dagster = DagsterStack(folder, running)
        dagster.start_code_server()
        with dagster_instance() as instance:
            webserver = dagster.start_webserver()
            dagster.wait_until(webserver.is_up, "its webserver answers")
            dagster.start_daemon()
            time.sleep(SETTLE)
            parts = Parts({**dagster.pids, "PostgreSQL": postgres.pid, "stand-in for Vanta": vanta.pid})
            cycles: list[Cost] = []
            floors: list[Cost] = []
            tokens: dict[uuid.UUID, str] = {}
            for batch in (organizations[:CUSTOMERS_AT_ONCE], organizations[CUSTOMERS_AT_ONCE:]):
                tokens |= _connect(postgres.url("symvanta"), batch, vanta)
                instance.add_dynamic_partitions(CUSTOMERS, [slug for _, slug in batch])
                with parts.measured(cycles):
                    _cycle(webserver)
                sent = _pushed_since(vanta, len(tokens))
                with parts.measured(floors):
                    _floor(postgres.url("sym"), vanta, tokens)
                same = _pushed_since(vanta, len(tokens)) == sent
                _require(same, "the floor's bodies equal the pipeline's")
    _print(cycles, floors)


def _cycle(webserver: Webserver) -> None:
    """One tick of the real schedule, through the daemon's queue, to its end."""
    runs = launch_tick(webserver, datetime.now(UTC))
    while not have_ended(webserver, runs):
        time.sleep(0.5)


def _floor(sym_url: str, vanta: VantaServer, tokens: Mapping[uuid.UUID, str]) -> None:
    """Read, build and PUT the same bodies, with nothing around it."""
    with psycopg.connect(sym_url, row_factory=dict_row) as sym, requests.Session() as vanta_session:
        for organization_id, token in tokens.items():
            records = [_record(row) for row in sym.execute(USERS, [organization_id])]
            body = {"resourceId": vanta.config.resource_id, "resources": records}
            vanta_session.put(
                f"{vanta.url}/v1/resources/user_account/sync_all",
                data=json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(),
                headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
                timeout=60,
            ).raise_for_status()


def _record(row: Mapping[str, Any]) -> dict[str, object]:
    level, method, factors = MAPPED[row["type"]]
    return {
        "uniqueId": row["id"],
        "displayName": row["name"],
        "fullName": row["name"],
        "accountName": row["email"],
        "email": row["email"],
        "externalUrl": f"https://app.symops.com/orgs/{row['slug']}/users/{row['id']}",
        "permissionLevel": level,
        "roleDescription": f"Sym {row['type']}",
        "status": "ACTIVE",
        "createdTimestamp": f"{row['created_at']:%Y-%m-%dT%H:%M:%SZ}",
        "lastLoginTimestamp": f"{row['last_login_at']:%Y-%m-%dT%H:%M:%SZ}",
        "authMethod": method,
        "mfaMethods": factors,
        "mfaEnabled": bool(factors),
    }


def _slugs(customers: int) -> list[str]:
    return [f"customer-{n:03}" for n in range(customers)]


def _fill(sym_url: str, slugs: Sequence[str]) -> list[Organization]:
    """Make organizations that are alike but for their ids."""
    demo_customers.create_schema(sym_url)
    organizations = [(uuid.uuid5(NAMESPACE, f"org {n}"), slug) for n, slug in enumerate(slugs)]
    day = datetime(2026, 1, 5, 9, tzinfo=UTC)
    with psycopg.connect(sym_url) as connection, connection.cursor() as cursor:
        with cursor.copy("COPY organizations (id, slug, name, created_at) FROM STDIN") as copy:
            for organization_id, slug in organizations:
                copy.write_row((organization_id, slug, slug, day))
        people = [(organization_id, n) for organization_id, _ in organizations for n in range(USERS_EACH)]
        with cursor.copy("COPY users (id, organization_id, type, name, email, created_at) FROM STDIN") as copy:
            for organization_id, n in people:
                kind = "admin" if n < ADMINS else "member" if n < ADMINS + MEMBERS else "guest"
                name, address = f"Person {n}", f"person.{n}@bench.example"
                copy.write_row((_user(organization_id, n), organization_id, kind, name, address, day))
        columns = "id, user_id, service, external_id, connection, mfa_factors, last_login_at"
        with cursor.copy(f"COPY identities ({columns}) FROM STDIN") as copy:
            for organization_id, n in people:
                user = _user(organization_id, n)
                login = ("auth0", "Username-Password-Authentication", ["otp"]) if n < ADMINS else ("slack", None, None)
                service, auth0_connection, factors = login
                identity = uuid.uuid5(user, service)
                copy.write_row((identity, user, service, f"{service}|{user}", auth0_connection, factors, day))
        cursor.execute("ANALYZE")
    return organizations


def _user(organization_id: uuid.UUID, number: int) -> uuid.UUID:
    return uuid.uuid5(organization_id, str(number))


def _connect(ledger_url: str, batch: Sequence[Organization], vanta: VantaServer) -> dict[uuid.UUID, str]:
    """Give every organization a token, and say that it was tried, so that the sensor leaves it to the schedule."""
    tokens = {}
    keyring = KeyRing(os.environ["SYMVANTA_TOKEN_KEYS"])
    with closing(database.connect(ledger_url)) as ledger:
        for organization_id, slug in batch:
            reply = vanta.connect(str(organization_id))
            token = token_of(TokenReply(reply["access_token"], reply["refresh_token"], reply["expires_in"], None))
            connections.connect_customer(ledger, keyring, organization_id, slug, token)
            snapshots.record_outcome(ledger, organization_id, "busy", run_id="bench")
            tokens[organization_id] = token.access_token
    return tokens


def _pushed_since(vanta: VantaServer, expected: int) -> dict[str, str]:
    """Return the hash of the body of every accepted PUT by tenant, once each, and forget them."""
    puts = [entry for entry in vanta.journal("put") if entry["status"] == requests.codes.ok]
    vanta.clear_journal()
    _require(len(puts) == expected, f"every customer was pushed once, not {len(puts)} pushes for {expected}")
    return {put["tenant"]: put["sha256"] for put in puts}


def _set_environment(
    postgres: EmbeddedPostgres, vanta: VantaServer, folder: Path, names: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Set every variable, and return them; databases have other names than their usual ones where those are given."""
    named = {"sym": "sym", "symvanta": "symvanta", "dagster": "dagster"} | dict(names or {})
    key = urlsafe_b64encode(secrets.token_bytes(32)).decode()
    shutil.copyfile(Path(__file__).parents[1] / "dagster.yaml", folder / "dagster.yaml")
    settings = {
        "SYM_DATABASE_URL": postgres.url(named["sym"]),
        "SYMVANTA_DATABASE_URL": postgres.url(named["symvanta"]),
        "DAGSTER_POSTGRES_URL": postgres.url(named["dagster"]),
        "DAGSTER_HOME": str(folder),
        "SYMVANTA_DATA_URL": str(folder / "data"),
        "SYMVANTA_TOKEN_KEYS": f"bench:{key}",
        "VANTA_API_URL": vanta.url,
        "VANTA_APP_URL": vanta.url,
        "VANTA_CLIENT_ID": vanta.config.client_id,
        "VANTA_CLIENT_SECRET": vanta.config.client_secret.get_secret_value(),
        "VANTA_RESOURCE_ID": vanta.config.resource_id,
        "VANTA_TOKEN_REQUESTS_PER_MINUTE": str(REQUESTS_PER_MINUTE),
        "VANTA_RESOURCE_REQUESTS_PER_MINUTE": str(REQUESTS_PER_MINUTE),
    }
    os.environ.update(settings)
    return settings


def _tree_seconds(pid: int) -> float:
    """CPU seconds of a process, of its children, and of theirs."""
    seconds = 0.0
    root = psutil.Process(pid)
    for process in (root, *root.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
    return seconds


def _require(holds: bool, claim: str) -> None:
    if not holds:
        raise SystemExit(f"the measurement does not hold: {claim}")


def _print(cycles: Sequence[Cost], floors: Sequence[Cost]) -> None:
    dagster = [part for part in cycles[0].cpu if part.startswith("Dagster")]
    table = Table(title=f"One cycle, {USERS_EACH} users a customer; CPU seconds", title_justify="left")
    for heading in ("customers", *dagster, "PostgreSQL", "all", "floor", "ratio", "wall s", "floor wall s"):
        table.add_column(heading, justify="right")
    totals = [cycle.of(*dagster, "PostgreSQL") for cycle in cycles]
    least = [floor.of("this process", "PostgreSQL") for floor in floors]
    for n, (cycle, floor, total, minimum) in enumerate(zip(cycles, floors, totals, least, strict=True), start=1):
        figures = [*(cycle.cpu[part] for part in dagster), cycle.cpu["PostgreSQL"], total, minimum, total / minimum]
        shown = [f"{figure:.2f}" for figure in (*figures, cycle.wall, floor.wall)]
        table.add_row(str(n * CUSTOMERS_AT_ONCE), *shown)
    console = Console(width=160)
    console.print(table)
    added, added_floor = totals[1] - totals[0], least[1] - least[0]
    console.print(
        f"{CUSTOMERS_AT_ONCE} more customers add {added:.2f} CPU s ({added / CUSTOMERS_AT_ONCE:.3f} each), "
        f"{added / added_floor:.1f} times the floor's {added_floor:.2f}"
    )


if __name__ == "__main__":
    main()
