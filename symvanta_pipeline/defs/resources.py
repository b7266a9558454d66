"""The outside, as the assets know it: Sym's database, our own, and Vanta (Dagster: resources).

Belongs here: turning settings into plain domain objects, at the moment a run or a tick needs them; loading the
definitions reads no secret and opens nothing. Does not belong here: what is done with them.

None has configuration of its own: a secret that is never config can be shown in no launchpad and no run.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import dagster as dg

from symvanta_pipeline.ledger import alerts, connections, database, snapshots
from symvanta_pipeline.ledger.connections import Connection
from symvanta_pipeline.ledger.live_connection import LiveConnection
from symvanta_pipeline.sessions import open_sessions
from symvanta_pipeline.settings import LedgerSettings, SourceSettings, SyncSettings, load
from symvanta_pipeline.sym.source import UsersSnapshot, read_users
from symvanta_pipeline.sync import CustomerSync, Destination, Reach


class SymDatabase(dg.ConfigurableResource[None]):
    """Sym's production PostgreSQL, read-only."""

    def read_users(self, organization_id: str) -> UsersSnapshot:
        """Read all users of one organization, in one transaction of its own."""
        return read_users(load(SourceSettings).sym_database_url.get_secret_value(), organization_id)


class Ledger(dg.ConfigurableResource[None]):
    """The pipeline's own PostgreSQL."""

    @property
    def url(self) -> str:
        """Where it is."""
        return load(LedgerSettings).symvanta_database_url.get_secret_value()

    @contextmanager
    def open(self) -> Iterator[LiveConnection]:
        """Connect, and refuse tables that do not fit this program.

        Raises:
            SettingsError, LedgerUnavailable, LedgerOutdated.
        """
        url = self.url
        database.require_current(url)
        with LiveConnection(url) as connection:
            yield connection

    def connected_customers(self) -> set[str]:
        """Return the partition keys of all customers whose consent stands."""
        with self.open() as ledger:
            return {c.customer for c in connections.all_connections(ledger.get()) if c.state == "connected"}

    def attempts(self) -> list[tuple[Connection, bool]]:
        """Return every connection, and whether an attempt to push it with the consent that stands has ended."""
        with self.open() as ledger:
            # In this order: a consent that is given in between is asked for at the next look at the latest.
            found = connections.all_connections(ledger.get())
            tried = {record.organization_id: record.is_tried for record in snapshots.customer_records(ledger.get())}
            return [(connection, tried[connection.organization_id]) for connection in found]


class Vanta(dg.ConfigurableResource[None]):
    """Vanta's API, one session per customer."""

    @contextmanager
    def destination(self, ledger: LiveConnection) -> Iterator[Destination]:
        """Give out where accounts go; every session holds the token of its own customer and of no other."""
        with open_sessions(ledger) as sessions:
            yield Destination(sessions.of, sessions.path, sessions.resource_id)


@contextmanager
def customer_sync(
    sym: SymDatabase,
    ledger: Ledger,
    vanta: Vanta,
    *,
    reach: Reach,
    run_id: str,
    tick: datetime | None,
    began: datetime | None = None,
) -> Iterator[CustomerSync]:
    """Put together what a run needs, after checking the settings that it uses.

    Args:
        sym: where users are read from.
        ledger: the pipeline's own database.
        vanta: where accounts go.
        reach: how far.
        run_id: Dagster's run.
        tick: the hour that the run stands for, if it stands for one.
        began: when the cycle began that it is a part of; None where it is one by itself.

    Raises:
        SettingsError, LedgerError: the run cannot begin.
    """
    load(SourceSettings)
    settings = load(SyncSettings)
    with ledger.open() as live:
        sync = CustomerSync(
            read_users=sym.read_users,
            ledger=live,
            app_url=settings.sym_app_url,
            data_url=settings.symvanta_data_url,
            run_id=run_id,
            reach=reach,
            began=began or alerts.now(live.get()),
            tick=tick,
        )
        if reach is not Reach.PUSH:
            yield sync
            return
        with vanta.destination(live) as destination:
            yield dataclasses.replace(sync, destination=destination)
