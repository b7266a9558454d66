"""A running pipeline that has a day of hourly cycles behind it: a pytest plugin.

Belongs here: what happened at Sym in that day, and letting the pipeline live through it. Does not belong here: any
expectation of what is shown of it.

The hours before this one are lived through in this process, on a clock that is set from hour to hour: the real job, the
real stand-in for Vanta, a real PostgreSQL. This hour's cycle goes through the real daemon.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import dagster as dg
import psycopg
import pytest

from symvanta_pipeline.ledger import database
from symvanta_pipeline.sandbox import demo_customers
from symvanta_pipeline.sandbox.dagster_stack import launch_tick
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres
from symvanta_pipeline.sandbox.vanta.control import VantaServer
from tests.conftest import SymRows
from tests.support.clock import LIBRARIES, Clock
from tests.support.fixtures import keep_clear_of_the_hour
from tests.support.runs import execute, launch, of_tick, register, stretch
from tests.support.stack import BY_SLUG, CONNECTED, Stack, consent, running_stack

HOURS = 24  # before this one
HEALTHY = "northfreight"
LEAKS = "tessera"  # more than a fifth of its people seem to leave within this hour
DATABASES = {"SYM_DATABASE_URL": "sym", "SYMVANTA_DATABASE_URL": "symvanta", "DAGSTER_POSTGRES_URL": "dagster"}


@dataclass(frozen=True)
class Day:
    """The pipeline after that day.

    Attributes:
        stack: its running parts, the daemon among them.
        hours: every hour that had a cycle, this one included, oldest first.
        left: how many people left in the day, by customer; those that this hour would lose are not among them.
    """

    stack: Stack
    hours: tuple[datetime, ...]
    left: Mapping[str, int]


@pytest.fixture(scope="session")
def day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    """One day for all tests that look at it."""
    if not LIBRARIES:
        pytest.skip("there is no libfaketime: apt-get install libfaketime")
    keep_clear_of_the_hour()
    folder = tmp_path_factory.mktemp("day")
    clock = Clock(folder / "clock")
    with pytest.MonkeyPatch.context() as environment:
        for name, value in clock.environment().items():
            environment.setenv(name, value)
        server = EmbeddedPostgres.start(folder / "postgres", durable=False)
    with server:
        urls = _databases(server)
        past = _Past(clock, urls, folder)
        with running_stack(folder, urls, before=past.live) as stack:
            yield _with_this_hour(stack, past)


def _databases(server: EmbeddedPostgres) -> dict[str, str]:
    server.ensure_databases(*DATABASES.values())
    urls = {variable: server.url(name) for variable, name in DATABASES.items()}
    demo_customers.create_schema(urls["SYM_DATABASE_URL"])
    demo_customers.load(urls["SYM_DATABASE_URL"])
    database.migrate(urls["SYMVANTA_DATABASE_URL"])
    return urls | {"DAGSTER_POSTGRES_URL": urls["DAGSTER_POSTGRES_URL"].replace("://", "+psycopg2://", 1)}


class _Past:
    """The hours before this one."""

    def __init__(self, clock: Clock, urls: Mapping[str, str], folder: Path) -> None:
        self._clock, self._urls, self._folder = clock, urls, folder
        self._dice = random.Random(24)
        self.this_hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
        self.hours = tuple(self.this_hour - timedelta(hours=n) for n in range(HOURS, 0, -1))
        self.left = dict.fromkeys(CONNECTED, 0)

    def live(self, vanta: VantaServer, env: Mapping[str, str], instance: dg.DagsterInstance) -> None:
        """Let everybody connect, and then hour after hour something happen at Sym and a cycle follow."""
        with pytest.MonkeyPatch.context() as environment, psycopg.connect(self._sym, autocommit=True) as at_sym:
            for name, value in env.items():
                environment.setenv(name, value)
            with self._clock.at(self.hours[0] - timedelta(minutes=10)):
                self._connect(vanta, instance)
            for hour in self.hours:
                self._happen(SymRows(at_sym), hour)
                with self._clock.at(hour + timedelta(seconds=2)):
                    launch(instance, stretch(CONNECTED[0], CONNECTED[-1]) | of_tick(hour))
                with self._clock.at(hour + timedelta(minutes=2)):
                    execute(instance, "fleet_status_job", {})

    def lose(self, customer: str, share: float) -> None:
        """Let so many of a customer's active members leave at once."""
        with psycopg.connect(self._sym) as at_sym:
            at_sym.execute(
                """
                UPDATE users SET deactivated_at = now() - interval '10 minutes', updated_at = now() WHERE id IN (
                    SELECT id FROM users WHERE organization_id = %(of)s AND deactivated_at IS NULL AND type = 'member'
                    ORDER BY id LIMIT %(share)s * (
                        SELECT count(*) FROM users WHERE organization_id = %(of)s AND deactivated_at IS NULL
                    )
                )
                """,
                {"of": BY_SLUG[customer].id, "share": share},
            )

    @property
    def _sym(self) -> str:
        return self._urls["SYM_DATABASE_URL"]

    def _connect(self, vanta: VantaServer, instance: dg.DagsterInstance) -> None:
        for slug in CONNECTED:
            consent(vanta, self._urls["SYMVANTA_DATABASE_URL"], slug)
        register(instance, *CONNECTED)

    def _happen(self, sym: SymRows, hour: datetime) -> None:
        """Let people come, go, and switch MFA on, in about as many customers as do so within an hour."""
        for slug in CONNECTED:
            customer = BY_SLUG[slug]
            if self._dice.random() < customer.size / 400:
                sym.user(customer.id, created_at=self._before(hour))
            if customer.size > 10 and self._dice.random() < customer.size / 500:
                self._leave(sym, customer.id, self._before(hour))
                self.left[slug] += 1
            if self._dice.random() < customer.size / 500:
                self._secure(sym, customer.id)

    def _before(self, hour: datetime) -> datetime:
        return hour - timedelta(minutes=self._dice.randint(2, 55))

    def _leave(self, sym: SymRows, organization: UUID, at: datetime) -> None:
        sym.execute(
            """
            UPDATE users SET deactivated_at = %s, updated_at = %s WHERE id = (
                SELECT id FROM users WHERE organization_id = %s AND deactivated_at IS NULL AND type <> 'admin'
                ORDER BY id LIMIT 1
            )
            """,
            *(at, at, organization),
        )

    def _secure(self, sym: SymRows, organization: UUID) -> None:
        sym.execute(
            """
            UPDATE identities SET mfa_factors = '{otp}' WHERE id = (
                SELECT identities.id FROM identities JOIN users ON users.id = user_id
                WHERE organization_id = %s AND connection LIKE 'Username%%' AND mfa_factors = '{}' LIMIT 1
            )
            """,
            organization,
        )


def _with_this_hour(stack: Stack, past: _Past) -> Day:
    """Let the daemon run this hour's cycle, in which one customer seems to lose many people."""
    past.lose(LEAKS, 0.3)
    stack.dagster.start_daemon()
    for run_id in launch_tick(stack.webserver, past.this_hour):
        stack.ended(run_id)
    stack.ended(stack.launch(jobName="fleet_status_job", tags={}))
    return Day(stack, (*past.hours, past.this_hour), past.left)
