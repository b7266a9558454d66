"""Everything that the ways of connecting share, put together from the settings: web app, terminal, commands.

Belongs here: opening the parts, and deciding who may do what. Does not belong here: consent itself (``consent``),
pages (``app``), what a command prints.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from uuid import UUID

from symvanta_pipeline.connect.consent import Desk
from symvanta_pipeline.dagster_instance import dagster_instance
from symvanta_pipeline.defs.partitions import CUSTOMERS
from symvanta_pipeline.ledger import database
from symvanta_pipeline.ledger.live_connection import LiveConnection
from symvanta_pipeline.ledger.vault import KeyRing, Vault
from symvanta_pipeline.settings import KeySettings, LedgerSettings, SourceSettings, VantaSettings, load
from symvanta_pipeline.sym.people import Membership, memberships, user_name
from symvanta_pipeline.sym.source import find_organization
from symvanta_pipeline.vanta.budget import RateBudgets
from symvanta_pipeline.vanta.oauth import Application


@dataclass(frozen=True)
class Office:
    """What lasts as long as the app, or a command.

    Attributes:
        register: adds a partition to Dagster's.
    """

    application: Application
    vanta: VantaSettings
    keyring: KeyRing
    sym_url: str = field(repr=False)
    ledger_url: str = field(repr=False)
    register: Callable[[str], None]

    @contextmanager
    def desk(self) -> Iterator[Desk]:
        """Open a desk with a connection of its own, for one person's one step."""
        with LiveConnection(self.ledger_url) as ledger:
            yield Desk(
                application=self.application,
                budgets=RateBudgets.from_settings(ledger.get, self.vanta),
                ledger=ledger,
                keyring=self.keyring,
                register=self.register,
            )

    def name_of(self, organization_id: str, user_id: str | None, *, yourself: str) -> str:
        """Say who connected, for the page of an admin of the same organization."""
        if user_id is None:
            return "Sym's team"  # from a terminal
        if user_id == yourself:
            return "you"
        return user_name(self.sym_url, organization_id, user_id) or "an admin who has left"

    def organization_id(self, slug: str) -> UUID | None:
        """Return whose slug this is today, for the audit log alone."""
        found = find_organization(self.sym_url, slug)
        return UUID(found.id) if found else None

    def memberships(self, subject: str) -> list[Membership]:
        """Return every Sym user that a signed-in person is, asked afresh each time."""
        return memberships(self.sym_url, subject)


@contextmanager
def leaving_desk() -> Iterator[Desk]:
    """Open a desk that is good for disconnecting alone: it needs neither Sym's database, nor Dagster's, nor every key.

    Raises:
        SettingsError, LedgerError: something is missing; the text says what to do.
    """
    ledger, vanta, keys = load(LedgerSettings), load(VantaSettings), load(KeySettings)
    ledger_url = ledger.symvanta_database_url.get_secret_value()
    database.require_current(ledger_url)
    application = Application.from_settings(vanta)
    with closing(application.adapter), LiveConnection(ledger_url) as connection:
        yield Desk(
            application=application,
            budgets=RateBudgets.from_settings(connection.get, vanta),
            ledger=connection,
            keyring=KeyRing(keys.symvanta_token_keys.get_secret_value()),
            register=_never,
        )


def _never(customer: str) -> None:
    raise AssertionError(f"{customer} is being disconnected, and registers nothing")


@contextmanager
def open_office() -> Iterator[Office]:
    """Check every setting, the tables and the keys, then open.

    Raises:
        SettingsError, LedgerError, InstanceUnavailable: something is missing; the text says what to do.
    """
    sym, ledger, vanta, keys = load(SourceSettings), load(LedgerSettings), load(VantaSettings), load(KeySettings)
    ledger_url = ledger.symvanta_database_url.get_secret_value()
    keyring = KeyRing(keys.symvanta_token_keys.get_secret_value())
    database.require_current(ledger_url)
    with ExitStack() as opened:
        with LiveConnection(ledger_url) as connection:
            Vault(connection.get(), keyring).check_keys()
        instance = opened.enter_context(dagster_instance())
        application = Application.from_settings(vanta)
        opened.callback(application.adapter.close)
        yield Office(
            application=application,
            vanta=vanta,
            keyring=keyring,
            sym_url=sym.sym_database_url.get_secret_value(),
            ledger_url=ledger_url,
            register=lambda customer: instance.add_dynamic_partitions(CUSTOMERS, [customer]),
        )


@dataclass(frozen=True)
class Verdict:
    """Whether somebody may act for one organization.

    Attributes:
        membership: in that organization; None where there is none.
        reason: why not, as a word for the audit log and the page; None where they may.
    """

    membership: Membership | None
    reason: str | None


def judged(found: list[Membership], matches: Callable[[Membership], bool]) -> Verdict:
    """Decide whether a person may connect, reconnect or disconnect an organization: only its admins may.

    Args:
        found: every user that the person is.
        matches: picks the organization.
    """
    if not found:
        return Verdict(None, "unknown_person")
    here = [membership for membership in found if matches(membership)]
    if not here:
        return Verdict(None, "other_organization")
    membership = max(here, key=lambda candidate: candidate.may_connect)
    return Verdict(membership, None if membership.may_connect else _why_not(membership))


def judged_by_id(found: list[Membership], organization_id: UUID) -> Verdict:
    """Decide by the organization's id, as ``judged``."""
    return judged(found, lambda membership: UUID(membership.organization_id) == organization_id)


def _why_not(membership: Membership) -> str:
    if membership.organization_is_deleted:
        return "organization_deleted"
    return "deactivated" if membership.is_deactivated else "not_an_admin"
