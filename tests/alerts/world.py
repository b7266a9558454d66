"""Customers in the ledger, in the states that alerts tell of, and time that passes for them.

Belongs here: bringing customers into a state as runs do. Does not belong here: any expectation.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID, uuid4

import psycopg

from symvanta_pipeline.alerts import delivery
from symvanta_pipeline.alerts.delivery import Report
from symvanta_pipeline.alerts.messages import Links, Message
from symvanta_pipeline.alerts.targets import Target
from symvanta_pipeline.ledger import alerts, snapshots
from symvanta_pipeline.ledger.live_connection import LiveConnection
from symvanta_pipeline.ledger.snapshots import AttemptOutcome, Snapshot

LINKS = Links("https://dagster.example", "https://wiki.example/runbook")
HELD = "held by lost: 40 of 100 are not active any more"
EMPTY = b"TRUNCATE announced, alerts"


@dataclass
class World:
    """The pipeline's own database, with customers."""

    url: str
    ledger: psycopg.Connection
    customers: dict[str, UUID] = field(default_factory=dict)

    def customer(self, *names: str) -> None:
        """Connect customers whose first push was accepted."""
        for name in names:
            organization = uuid4()
            self.customers[name] = organization
            self.ledger.execute(
                "INSERT INTO connections (organization_id, customer, state, generation, connected_at)"
                " VALUES (%s, %s, 'connected', 1, clock_timestamp())",
                [organization, name],
            )
            self.accept(name)

    def accept(self, *names: str) -> None:
        """Record an accepted push, as a run does."""
        for name in names:
            read = Snapshot(self.customers[name], f"run-of-{name}", alerts.now(self.ledger), "ab" * 32, 1, 1, 0)
            snapshots.record_accepted(self.ledger, snapshots.record_intent(self.ledger, read), token_generation=1)
            self.end(name, "accepted")

    def end(self, name: str, outcome: AttemptOutcome, sentence: str | None = None, **columns: str) -> None:
        """Record how an attempt ended, as a run does; columns: kind, change_hash."""
        organization = self.customers[name]
        snapshots.record_outcome(
            self.ledger,
            organization,
            outcome,
            run_id=f"run-of-{name}",
            sentence=sentence,
            kind=columns.get("kind"),
            change_hash=columns.get("change_hash"),
        )

    def hold(self, *names: str, kind: str = "lost", sentence: str = HELD) -> None:
        """Let a brake hold customers."""
        for name in names:
            self.end(name, "held", sentence, kind=kind, change_hash="ab" * 32)

    def park(self, name: str, reason: str = "Vanta refused the grant (invalid_grant)") -> None:
        self.ledger.execute(
            "UPDATE connections SET state = 'parked', parked_at = clock_timestamp(), parked_reason = %s"
            " WHERE organization_id = %s",
            [reason, self.customers[name]],
        )
        self.end(name, "parked", reason, kind="GrantRefused")

    def reconnect(self, name: str) -> None:
        self.ledger.execute(
            "UPDATE connections SET state = 'connected', generation = generation + 1,"
            " connected_at = clock_timestamp(), parked_at = NULL, parked_reason = NULL, disconnected_at = NULL"
            " WHERE organization_id = %s",
            [self.customers[name]],
        )

    def disconnect(self, name: str) -> None:
        self.ledger.execute(
            "UPDATE connections SET state = 'disconnected', disconnected_at = clock_timestamp(), parked_at = NULL,"
            " parked_reason = NULL WHERE organization_id = %s",
            [self.customers[name]],
        )

    def pass_time(self, *, minutes: float) -> None:
        """Move everything that was written into the past, the outbox included."""
        with self.ledger.transaction():
            self.ledger.execute("SET LOCAL session_replication_role = replica")
            for table, columns in {
                "connections": ("connected_at", "parked_at", "disconnected_at"),
                "accepted_snapshots": ("accepted_at", "read_at"),
                "outcomes": ("at", "since", "held_since"),
                "announced": ("since", "at", "closed_at"),
                "alerts": ("created_at", "due_at", "claimed_at", "sent_at"),
            }.items():
                moved = ", ".join(f"{column} = {column} - %(passed)s" for column in columns)
                self.ledger.execute(f"UPDATE {table} SET {moved}".encode(), {"passed": timedelta(minutes=minutes)})

    def announce(self, *targets: str) -> list[Message]:
        """Write down what changed, five minutes after nobody joined any more."""
        self.pass_time(minutes=6)
        messages = delivery.announce(self.ledger, targets, LINKS, alerts.now(self.ledger))
        assert messages is not None
        return messages

    def look(self, *targets: Target) -> Report:
        """Look once, as a tick does."""
        with LiveConnection(self.url) as live:
            return delivery.look(live, targets, LINKS)

    def waiting(self) -> list[tuple[str, int, str | None]]:
        """Tell target, number of attempts and last error of each message that waits, oldest first."""
        return self.ledger.execute(
            "SELECT target, attempts, last_error FROM alerts WHERE sent_at IS NULL ORDER BY id"
        ).fetchall()
