"""Companies on their way from Sym to Vanta, what befalls their people, and a view of what was sent.

Belongs here: moving people and time, and looking. Does not belong here: any expectation of a rule.
"""

import itertools
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import psycopg.sql
import requests

from symvanta_pipeline.ledger import approvals
from symvanta_pipeline.ledger.approvals import Approval
from symvanta_pipeline.sync import CustomerResult, CustomerSync
from tests.conftest import SESSION_VARIABLE
from tests.support.parts import CANARY, Parts, clean

WORKER = Path(__file__).with_name("worker.py")

# Where people could be named; a token's own row is encrypted.
WATCHED = (
    "outcomes", "proofs", "approvals", "account_states", "account_changes", "accepted_snapshots", "intents",
    "audit_events",
)  # fmt: skip
# Tables whose times tell what happened when; those of tokens and of the rate budget are no history.
AGING = (*WATCHED, "connections")

OTP = ["otp"]


@dataclass
class Company:
    """One connected customer. People are counted from those who are active, in the order in which they came."""

    world: "World"
    slug: str
    id: UUID
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def parts(self) -> Parts:
        return self.world.parts

    # What befalls its people.

    def hire(self, count: int, *, admins: bool = False, mfa: list[str] | None = None) -> None:
        """Add members with Slack, or admins with a password and these MFA factors; none is "none enrolled"."""
        users, identities = [], []
        for n in itertools.islice(self._numbers, count):
            user = uuid4()
            email = f"canary{n:05}@{self.slug}.example"
            users.append((user, self.id, "admin" if admins else "member", "Canary Person", email))
            connection = "Username-Password-Authentication" if admins else None
            service = "auth0" if admins else "slack"
            identities.append(
                (uuid4(), user, service, f"{service}|{user}", connection, (mfa or []) if admins else None)
            )
        with self.parts.sym.connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO users (id, organization_id, type, name, email, created_at)"
                " VALUES (%s, %s, %s, %s, %s, '2026-01-01Z')",
                users,
            )
            cursor.executemany(
                "INSERT INTO identities (id, user_id, service, external_id, connection, mfa_factors)"
                " VALUES (%s, %s, %s, %s, %s, %s)",
                identities,
            )

    def leave(self, count: int) -> None:
        """Deactivate the first ones."""
        self._update("UPDATE users SET deactivated_at = now() WHERE id = ANY(%s)", self.active()[:count])

    def leave_latest(self, count: int) -> None:
        """Deactivate the last ones."""
        self._update("UPDATE users SET deactivated_at = now() WHERE id = ANY(%s)", self.active()[-count:])

    def come_back(self) -> None:
        """Reactivate everybody who left."""
        self.parts.sym.execute("UPDATE users SET deactivated_at = NULL WHERE organization_id = %s", self.id)

    def vanish(self, count: int) -> None:
        """Delete the rows of the first ones."""
        gone = self.active()[:count]
        self._update("DELETE FROM identities WHERE user_id = ANY(%s)", gone)
        self._update("DELETE FROM users WHERE id = ANY(%s)", gone)

    def promote(self, count: int) -> None:
        """Make admins of the first ones who are none."""
        self._update("UPDATE users SET type = 'admin' WHERE id = ANY(%s)", self.active("member")[:count])

    def demote(self, count: int) -> None:
        """Make members of the first admins."""
        self._update("UPDATE users SET type = 'member' WHERE id = ANY(%s)", self.active("admin")[:count])

    def set_mfa(self, count: int, factors: list[str]) -> None:
        """Enrol these factors for the first ones with a password."""
        self.parts.sym.execute(
            "UPDATE identities SET mfa_factors = %s WHERE connection IS NOT NULL AND user_id = ANY(%s)",
            factors,
            self.active("admin")[:count],
        )

    def active(self, kind: str | None = None) -> list[UUID]:
        """List who is active in Sym, the first ones first."""
        rows = self.parts.sym.connection.execute(
            "SELECT id FROM users WHERE organization_id = %s AND deactivated_at IS NULL"
            " AND type = coalesce(%s, type) ORDER BY email",
            [self.id, kind],
        )
        return [unique for (unique,) in rows]

    def everybody(self) -> list[UUID]:
        """List everybody in Sym, also who left."""
        rows = self.parts.sym.connection.execute("SELECT id FROM users WHERE organization_id = %s", [self.id])
        return [unique for (unique,) in rows]

    def _update(self, statement: str, ids: Iterable[UUID]) -> None:
        self.parts.sym.execute(statement, list(ids))

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Put everybody's rows back as they were, once the block ends."""
        execute = self.parts.sym.execute
        execute("CREATE TEMP TABLE kept_users AS SELECT * FROM users WHERE organization_id = %s", self.id)
        execute(
            "CREATE TEMP TABLE kept_identities AS SELECT * FROM identities WHERE user_id IN (SELECT id FROM kept_users)"
        )
        yield
        self.remove_everybody()
        execute("INSERT INTO users SELECT * FROM kept_users")
        execute("INSERT INTO identities SELECT * FROM kept_identities")
        execute("DROP TABLE kept_users, kept_identities")

    def remove_everybody(self) -> None:
        """Delete all rows, also of those who left."""
        self.parts.sym.execute(
            "DELETE FROM identities WHERE user_id IN (SELECT id FROM users WHERE organization_id = %s)", self.id
        )
        self.parts.sym.execute("DELETE FROM users WHERE organization_id = %s", self.id)

    # Sending.

    def push(self) -> CustomerResult:
        """Take it to Vanta as a run by hand does."""
        [result] = self.world.run(self.slug)
        return result

    def pushed(self) -> "Company":
        """Push, and see that what Sym has is what Vanta has."""
        result = self.push()
        assert result.failure is None, result.failure
        assert self.arrived()
        return self

    def approve(self, held: CustomerResult, *, of: "Company | None" = None) -> Approval:
        """Let through what was held, as an operator does who looked at it."""
        assert held.plan is not None
        return approvals.approve(
            self.parts.ledger,
            (of or self).id,
            held.plan.change_hash,
            rules=[brake.rule for brake in held.plan.holding],
            reason="told by their office",
            by="an operator",
        )

    def latest_approval(self) -> Approval:
        found = approvals.latest(self.parts.ledger, self.id)
        assert found is not None
        return found

    # What became of it.

    def puts(self) -> int:
        """Count the PUTs that reached Vanta, whatever it answered."""
        return len(self.parts.puts(self.id))

    def lists(self) -> int:
        """Count the looks at its list."""
        return len(self.parts.journal(self.id, "list"))

    def at_vanta(self) -> bytes:
        """Return what Vanta has, soft-deleted accounts and Vanta's own times included."""
        response = requests.get(f"{self.parts.vanta.url}/_sandbox/accounts/{self.id}", timeout=10)
        response.raise_for_status()
        return response.content

    def alive(self) -> dict[str, tuple[str, str]]:
        """Tell status and level of everybody at Vanta who is not soft-deleted."""
        accounts = self.parts.vanta.accounts(str(self.id))
        return {a["uniqueId"]: (a["status"], a["permissionLevel"]) for a in accounts if not a["deletedAt"]}

    def active_at_vanta(self) -> int:
        return sum(status == "ACTIVE" for status, _ in self.alive().values())

    def at_sym(self) -> dict[str, tuple[str, str]]:
        """Tell what `alive` should be, from Sym's own table."""
        rows = self.parts.sym.connection.execute(
            "SELECT id::text, CASE WHEN deactivated_at IS NULL THEN 'ACTIVE' ELSE 'DEACTIVATED' END,"
            " CASE type WHEN 'admin' THEN 'ADMIN' ELSE 'BASE' END FROM users WHERE organization_id = %s",
            [self.id],
        )
        return {unique: (status, level) for unique, status, level in rows}

    def arrived(self) -> bool:
        return self.alive() == self.at_sym()

    def proofs(self) -> list[tuple[str, list[dict[str, Any]]]]:
        """List verdict and findings of everything that was read back, oldest first."""
        rows = self.parts.ledger.execute(
            "SELECT proofs.verdict, findings FROM proofs JOIN accepted_snapshots ON id = snapshot_id"
            " WHERE organization_id = %s ORDER BY proofs.at",
            [self.id],
        )
        return [(verdict, findings) for verdict, findings in rows]

    def outcome(self) -> tuple[str, str | None, datetime] | None:
        """Tell how the latest attempt ended, of what kind it was, and when."""
        row = self.parts.ledger.execute(
            "SELECT outcome, kind, at FROM outcomes WHERE organization_id = %s", [self.id]
        ).fetchone()
        return (row[0], row[1], row[2]) if row else None

    def fault(self, on: str, kind: str, **options: Any) -> None:
        """Let Vanta fail for this customer alone."""
        self.parts.vanta.fault(on, kind, tenant=str(self.id), **options)

    def fired(self) -> list[int]:
        """Tell how often each fault struck, oldest first."""
        return [fault["fired"] for fault in self.parts.vanta.faults() if fault["tenant"] == str(self.id)]

    def put_by_somebody_else(self, accounts: Iterable[dict[str, Any]]) -> None:
        """Replace what Vanta has behind the pipeline's back; what Vanta adds by itself is left out."""
        own = {"createdAt", "updatedAt", "deletedAt"}
        kept = [{name: value for name, value in account.items() if name not in own} for account in accounts]
        response = requests.put(
            f"{self.parts.vanta.url}/v1/resources/user_account/sync_all",
            json={"resourceId": self.parts.vanta.config.resource_id, "resources": kept},
            headers={"Authorization": f"Bearer {self.parts.token(self.id).access_token}"},
            timeout=10,
        )
        response.raise_for_status()


@dataclass(frozen=True)
class World:
    """All companies of one test."""

    parts: Parts
    sync: CustomerSync

    def run(self, *slugs: str, tick: datetime | None = None) -> list[CustomerResult]:
        """Take customers to Vanta in a cycle of its own; putting a run together for each would take as long again."""
        return [clean(result) for result in self.cycle(tick=tick).results(slugs)]

    def cycle(self, *, tick: datetime | None = None) -> CustomerSync:
        """Begin a cycle: that of a tick, or a person's own."""
        return replace(self.sync, tick=tick, began=datetime.now(UTC))

    def company(
        self, slug: str = "acme", *, members: int = 0, admins: int = 0, mfa: list[str] | None = None
    ) -> Company:
        """Make a customer that gave consent and was never pushed."""
        company = Company(self, slug, self.parts.customer(slug, people=0))
        company.hire(admins, admins=True, mfa=mfa)
        company.hire(members)
        return company

    def later(self, *, hours: float) -> None:
        """Let so many hours pass: everything that the ledger knows the time of happened so much earlier."""
        ledger = self.parts.ledger
        columns: dict[str, list[str]] = {}
        for table, column in ledger.execute(
            "SELECT table_name, column_name FROM information_schema.columns"
            " WHERE table_schema = 'public' AND data_type = 'timestamp with time zone' AND table_name = ANY(%s)",
            [list(AGING)],
        ):
            columns.setdefault(table, []).append(column)
        assert columns.keys() == set(AGING)
        for table, aging in columns.items():
            earlier = ", ".join(f"{column} = {column} - make_interval(secs => {hours * 3600})" for column in aging)
            self.tamper(f"UPDATE {table} SET {earlier}")

    def tamper(self, statement: str, *parameters: object) -> int:
        """Do to the ledger what its triggers refuse to everybody; tells how many rows it concerned."""
        ledger = self.parts.ledger
        with ledger.transaction():
            ledger.execute("SET LOCAL session_replication_role = replica")
            return ledger.execute(statement.encode(), parameters).rowcount


def named_in_ledger(ledger: psycopg.Connection) -> dict[str, list[str]]:
    """Return the rows of the ledger that name a person or hold a secret, by table."""
    found: dict[str, list[str]] = {}
    for table in WATCHED:
        query = psycopg.sql.SQL("SELECT t::text FROM {} AS t").format(psycopg.sql.Identifier(table))
        for (text,) in ledger.execute(query):
            if CANARY.search(text):
                found.setdefault(table, []).append(text)
    return found


@contextmanager
def worker(environment: Mapping[str, str], folder: Path, *slugs: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a process of its own that pushes customers; whatever is left of it ends with the block."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("SYM", "VANTA"))}
    # The session's folder by which leftover processes are found.
    variables |= {name: os.environ[name] for name in (SESSION_VARIABLE,)} | dict(environment)
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", str(WORKER), *slugs],
        cwd=folder,
        env=variables,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def nothing_sent(*companies: Company) -> Iterator[None]:
    """See that within the block no PUT reaches Vanta, and that what it has stays byte for byte."""

    def seen() -> list[tuple[int, bytes]]:
        return [(company.puts(), company.at_vanta()) for company in companies]

    before = seen()
    yield
    assert seen() == before


def rules(result: CustomerResult) -> list[str]:
    """Name the brakes that hold it."""
    return [brake.rule for brake in result.plan.holding] if result.plan else []


def sentence(result: CustomerResult) -> str:
    """Return why it failed."""
    assert result.failure is not None
    return result.failure.sentence
