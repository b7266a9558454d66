"""The commands, thin: arguments in, one call, a table or a line out.

Belongs here: what a command is called and how it speaks. Does not belong here: anything that another program could
want to do too.
"""

import getpass
import json
import re
import sys
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import UUID

import click
from dotenv import load_dotenv

from symvanta_pipeline.settings import (
    ConnectSettings,
    DagsterSettings,
    KeySettings,
    LedgerSettings,
    LoginSettings,
    SettingsError,
    SourceSettings,
    SyncSettings,
    VantaSettings,
    is_loopback,
    load,
)
from symvanta_pipeline.unforeseen import is_own, place_of

if TYPE_CHECKING:
    from symvanta_pipeline.connect.consent import Candidate
    from symvanta_pipeline.ledger.live_connection import LiveConnection
    from symvanta_pipeline.review import Customer, Source

# The heavy parts are imported by the commands that need them: `symvanta --help` should not wait for Dagster.

PIPE_WIDTH = 2000  # a row stays a line, however long its sentence
DEFAULT_PORT = 3080
LONGEST_SHOWN = 100  # characters of a name that somebody typed
_HASH = re.compile(r"[0-9A-Fa-f]{8,64}")
# A name, told apart from its namesakes by the first characters of an organization's id.
_PINNED = re.compile(r"(.+)-([0-9a-f]{8})")


class Commands(click.Group):
    """Ends a command that failed for a known reason with one line on stderr and status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (click.exceptions.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:  # noqa: BLE001 - a traceback could quote a token, and helps no operator
            click.echo(f"symvanta: {_sentence(error)}", err=True)
            ctx.exit(1)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Tell Vanta, every hour and for every connected customer, who all of that customer's Sym users are."""
    # The real environment wins; Dagster reads the same file for its own processes.
    load_dotenv(Path.cwd() / ".env")


@main.command()
def migrate() -> None:
    """Bring the pipeline's own tables up to date."""
    url = _ledger_url()
    from symvanta_pipeline.ledger import database

    applied = database.migrate(url)
    click.echo(f"applied: {', '.join(applied)}" if applied else "already up to date")


@main.command()
@click.argument("slug")
@click.option("--no-browser", is_flag=True, help="Only print the URL; open it yourself.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=3081,
    show_default=True,
    help="Loopback port that waits for Vanta's redirect; 0 takes any free one.",
)
@click.option(
    "--timeout",
    type=click.IntRange(1, 86_400),
    default=300,
    show_default=True,
    help="Seconds to wait for the consent.",
)
def connect(slug: str, *, no_browser: bool, port: int, timeout: int) -> None:
    """Ask for a customer's consent at Vanta and store its token.

    Prints the URL of the consent page alone on one line, for a browser on this machine.
    """
    # Every setting is checked before anything is imported for it, and before anybody is asked.
    for group in (SourceSettings, LedgerSettings, DagsterSettings, VantaSettings, KeySettings):
        load(group)
    from symvanta_pipeline.connect.office import open_office
    from symvanta_pipeline.connect.terminal import callback_server

    with open_office() as office, office.desk() as desk, callback_server(port) as server:
        candidate = _candidate(desk.ledger, slug)
        _require_alive(candidate)
        request = desk.ask(candidate, server.redirect_uri)
        click.echo(request.url)
        sys.stdout.flush()
        if not no_browser:
            webbrowser.open(request.url)

        def still_allowed() -> bool:
            _require_alive(candidate)
            return True

        answer = server.wait(request.state, timeout)
        connection = desk.take(request, answer, actor=_operator(), still_allowed=still_allowed)
    click.echo(f"{connection.customer} is connected; its first sync follows by itself within seconds.", err=True)


@main.command()
@click.argument("slug")
def disconnect(slug: str) -> None:
    """End a customer's connection: revoke it at Vanta, erase the token, stop scheduling; history stays."""
    for group in (LedgerSettings, VantaSettings, KeySettings):
        load(group)
    from symvanta_pipeline.connect.consent import ConsentError
    from symvanta_pipeline.connect.office import leaving_desk

    with leaving_desk() as desk:
        departure = desk.leave(_candidate(desk.ledger, slug, needs_sym=False).organization_id, actor=_operator())
    customer = departure.connection.customer
    if departure.trouble:
        raise ConsentError(
            f"{customer} is disconnected and its token erased, but Vanta did not confirm ({departure.trouble}): "
            "have somebody remove Sym among the integrations in Vanta, too"
        )
    click.echo(f"{customer} is disconnected: nothing is sent any more, its history stays.")


@main.command("connect-app")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 takes any free one. The port of SYMVANTA_PUBLIC_URL, or 3080, where not given.",
)
def connect_app(*, host: str, port: int | None) -> None:
    """Serve the web app in which a customer's admin connects Vanta."""
    for group in (ConnectSettings, LoginSettings, SourceSettings, LedgerSettings, DagsterSettings, VantaSettings):
        load(group)
    load(KeySettings)
    from symvanta_pipeline.connect import server

    public_url = load(ConnectSettings).symvanta_public_url
    with (
        server.listen(host, _port_of(public_url) if port is None else port) as listener,
        server.connect_app() as app,
    ):
        address, bound, *_ = listener.getsockname()
        click.echo(f"listening on {address} port {bound}; browsers reach it at {public_url}", err=True)
        server.serve(app, listener)


@main.group()
def keys() -> None:
    """The key ring of the token vault."""


@keys.command()
def rotate() -> None:
    """Re-encrypt every stored token with the first key of SYMVANTA_TOKEN_KEYS. Safe to repeat."""
    url, text = _ledger_url(), load(KeySettings).symvanta_token_keys.get_secret_value()
    from symvanta_pipeline.ledger import audit
    from symvanta_pipeline.ledger.vault import KeyRing, RotationIncomplete, TokenUnreadable, Vault

    keyring = KeyRing(text)
    with _ledger(url) as ledger:
        vault = Vault(ledger.get(), keyring)
        vault.check_keys()
        try:
            done = vault.rotate()
        except RotationIncomplete as incomplete:
            audit.record(ledger.get(), "keys_rotated", actor=_operator(), detail=str(incomplete))
            raise
        counts = f"{done.rotated} re-encrypted with key {keyring.encrypting_id}, {done.already} were already"
        audit.record(ledger.get(), "keys_rotated", actor=_operator(), detail=counts)
    click.echo(counts)
    if done.unreadable:
        ids = ", ".join(map(str, done.unreadable))
        raise TokenUnreadable(
            f"{len(done.unreadable)} cannot be decrypted and stayed as they were: reconnect the organizations {ids}"
        )


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def customers(*, as_json: bool) -> None:
    """List every customer that was ever connected: state, last accepted push, what to do next."""
    url = _ledger_url()
    from symvanta_pipeline.ledger.snapshots import customer_records
    from symvanta_pipeline.ledger.status import status_of

    with _ledger(url) as ledger:
        records = customer_records(ledger.get())
    judged = [(record, status_of(record, datetime.now(UTC))) for record in records]
    rows = [
        {
            "customer": record.customer,
            "organization_id": str(record.organization_id),
            "state": status.state,
            "last_accepted_at": _utc(record.last_accepted_at),
            "active": record.active,
            "deactivated": record.deactivated,
            "next_step": status.next_step,
        }
        for record, status in judged
    ]
    _print(rows, as_json=as_json, empty="no customer was ever connected: symvanta connect SLUG")


@main.command()
@click.argument("slug")
@click.option("--ids", is_flag=True, help="List the unique ids of everybody whom something changes for.")
@click.option("--names", is_flag=True, help="The same with names from Sym; on a terminal only.")
@click.option(
    "--against-vanta",
    is_flag=True,
    help="Also read Vanta's list, by one request: compare it with what was accepted last, and settle what was possibly "
    "applied.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def plan(slug: str, *, ids: bool, names: bool, against_vanta: bool, as_json: bool) -> None:
    """Tell what the next push would change at Vanta, and which brake would hold it. Sends nothing."""
    if names and (as_json or not sys.stdout.isatty()):
        raise click.UsageError("--names is for a terminal alone: names are not to end up in a file, a pipe or a log")
    url = _ledger_url()
    for group in (SourceSettings, SyncSettings, *((VantaSettings, KeySettings) if against_vanta else ())):
        load(group)
    from symvanta_pipeline import review
    from symvanta_pipeline.sessions import open_sessions

    with _ledger(url) as ledger:
        customer, source = _customer(ledger, slug), _source()
        if against_vanta:
            with open_sessions(ledger) as sessions:
                looked = review.review_against_vanta(ledger, customer, source, sessions)
        else:
            looked = review.review(ledger, customer, source)
    if as_json:
        click.echo(json.dumps(looked.content(ids=ids), indent=2))
    else:
        click.echo("\n".join(looked.lines(ids=ids or names, names=names)))


@main.command()
@click.argument("slug")
@click.option("--reason", required=True, help="Why the change is true; kept, and shown beside the push in the history.")
@click.option(
    "--hash",
    "pinned",
    metavar="HASH",
    callback=lambda _context, _parameter, value: _hash(value),
    help="The hash that `symvanta plan` showed, or its first 8 characters or more: only that very change is approved.",
)
@click.option("--by", metavar="NAME", help="Who approves.  [default: the user of this system]")
def approve(slug: str, *, reason: str, pinned: str | None, by: str | None) -> None:
    """Let exactly the change through that a brake holds now: once, within four hours.

    Sends nothing: the next run uses it. One more loss, or another one, makes it another change, and the approval void.
    """
    url = _ledger_url()
    for group in (SourceSettings, SyncSettings):
        load(group)
    from symvanta_pipeline import review

    with _ledger(url) as ledger:
        customer = _customer(ledger, slug)
        given = review.approve(
            ledger, customer, _source(), reason=reason, by=_operator() if by is None else by, pinned=pinned
        )
    click.echo("\n".join(review.approved_lines(customer.name, given)))


@main.command()
@click.argument("slug")
@click.option("--since", type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"]), help="From this time on, UTC.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.option("--csv", "as_csv", is_flag=True, help="The access changes as CSV on stdout.")
@click.option("--names", is_flag=True, help="Join names from Sym, now, for this print alone.")
def history(slug: str, *, since: datetime | None, as_json: bool, as_csv: bool, names: bool) -> None:
    """Tell what Vanta was told about a customer, and who had which access from when to when."""
    if as_json and as_csv:
        raise click.UsageError("--json and --csv are two ways to print the same: choose one")
    url = _ledger_url()
    if names:
        load(SourceSettings)
    from symvanta_pipeline.history import History

    moment = since.replace(tzinfo=UTC) if since else None
    with _ledger(url) as ledger:
        organization_id = _candidate(ledger, slug, needs_sym=False).organization_id
        told = History.of(ledger.get(), organization_id, since=moment)
    if names:
        told = told.with_names(load(SourceSettings).sym_database_url.get_secret_value())
    if as_json:
        click.echo(json.dumps(told.content(), indent=2))
    elif as_csv:
        click.echo(told.csv(), nl=False)
    else:
        _print(told.shown_pushes(), as_json=False, empty="nothing was ever pushed for this customer")
        click.echo()
        _print(told.changes, as_json=False, empty="no access change is known")
        if told.access_at_start:
            click.echo("\nwhat Vanta knew before that:")
            _print(told.access_at_start, as_json=False, empty="")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def doctor(*, as_json: bool) -> None:
    """Look whether everything is well, a line a check. Changes nothing, and asks Vanta for nothing that has a limit."""
    from symvanta_pipeline.doctor import examination

    verdicts = examination.examine()
    told = json.dumps(examination.content(verdicts), indent=2) if as_json else "\n".join(examination.lines(verdicts))
    click.echo(told)
    examination.require_well(verdicts)


@main.command()
@click.option("--once", is_flag=True, help="End after the cycle, with 0 when every demo customer ended as designed.")
def demo(*, once: bool) -> None:
    """Start everything on this machine, run one cycle, stay until Ctrl-C."""
    from symvanta_pipeline.sandbox.demo import run_demo

    if not run_demo(once=once):
        sys.exit(1)


@contextmanager
def _ledger(url: str) -> Iterator["LiveConnection"]:
    """Open the pipeline's own database, its tables up to date."""
    from symvanta_pipeline.ledger import database
    from symvanta_pipeline.ledger.live_connection import LiveConnection

    database.require_current(url)
    with LiveConnection(url) as ledger:
        yield ledger


def _candidate(ledger: "LiveConnection", name: str, *, needs_sym: bool = True) -> "Candidate":
    """Find an organization by partition key or today's slug, either of them also with ``-`` and 8 characters of the id.

    A key stays with its organization for ever while slugs move on, so that one name may come to mean two of them:
    then nothing is guessed, since a consent for the wrong one would show its users to a stranger. Where Sym is not
    needed and does not answer, a name is a partition key.
    """
    from symvanta_pipeline.connect.consent import ConsentError

    found = _named(ledger, name, needs_sym=needs_sym)
    if not found and (pinned := _PINNED.fullmatch(name)):
        named = _named(ledger, pinned[1], needs_sym=needs_sym)
        found = [candidate for candidate in named if str(candidate.organization_id).startswith(pinned[2])]
    if not found:
        shown = name if len(name) <= LONGEST_SHOWN else f"{name[:LONGEST_SHOWN]}..."
        raise ConsentError(f"no organization has the slug {shown!r}, and no customer this name: compare it with Sym")
    if len(found) > 1:
        key, slug = (f"{name}-{str(candidate.organization_id)[:8]}" for candidate in found)
        raise ConsentError(
            f"{name} is the partition key of one organization and today's slug of another: say {key} or {slug}"
        )
    return found[0]


def _named(ledger: "LiveConnection", name: str, *, needs_sym: bool) -> "list[Candidate]":
    """Return the organization with this partition key, and the one with this slug where that is another one."""
    from symvanta_pipeline.connect.consent import Candidate
    from symvanta_pipeline.ledger import connections
    from symvanta_pipeline.sym.source import SourceError, find_organization

    found, organization = [], None
    if known := connections.by_customer(ledger.get(), name):
        found.append(Candidate(known.organization_id, known.customer))
    try:
        organization = find_organization(load(SourceSettings).sym_database_url.get_secret_value(), name)
    except (SettingsError, SourceError):
        if needs_sym:
            raise
    if organization and not (known and known.organization_id == UUID(organization.id)):
        found.append(Candidate(UUID(organization.id), organization.slug))
    return found


def _customer(ledger: "LiveConnection", slug: str) -> "Customer":
    """Find whose push is to be looked at."""
    from symvanta_pipeline.review import Customer

    candidate = _candidate(ledger, slug)
    return Customer.of(ledger.get(), candidate.organization_id, candidate.slug)


def _source() -> "Source":
    """Tell where accounts are read from."""
    from symvanta_pipeline.review import Source

    return Source(load(SourceSettings).sym_database_url.get_secret_value(), load(SyncSettings).sym_app_url)


def _hash(value: str | None) -> str | None:
    """Check the first digits of a hash as somebody typed them."""
    if value is not None and not _HASH.fullmatch(value):
        raise click.BadParameter("8 to 64 hexadecimal digits, as `symvanta plan` shows them")
    return value.lower() if value else None


def _require_alive(candidate: "Candidate") -> None:
    """Refuse to connect an organization that Sym has deleted; a partition key outlives it."""
    from symvanta_pipeline.connect.consent import ConsentError
    from symvanta_pipeline.sym.source import organization_of

    url = load(SourceSettings).sym_database_url.get_secret_value()
    if organization_of(url, candidate.organization_id) is None:
        raise ConsentError(f"the organization {candidate.organization_id} is gone from Sym: nothing can be connected")


def _operator() -> str:
    """Name whoever runs the command, for the audit log."""
    return f"terminal:{getpass.getuser()}"


def _port_of(url: str) -> int:
    """Return the port that browsers use where that is this machine; a proxy's own says nothing about ours."""
    return (urlsplit(url).port if is_loopback(url) else None) or DEFAULT_PORT


def _ledger_url() -> str:
    return load(LedgerSettings).symvanta_database_url.get_secret_value()


def _utc(moment: datetime | None) -> str | None:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" if moment else None


def _print(rows: Sequence[Mapping[str, Any]], *, as_json: bool, empty: str) -> None:
    """Print rows as one JSON document, or as a table for people."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif not rows:
        click.echo(empty)
    else:
        table = Table(*(name.replace("_", " ") for name in rows[0]), box=None, pad_edge=False)
        for row in rows:
            table.add_row(*(Text("" if value is None else str(value)) for value in row.values()))
        console = Console()
        if not console.is_terminal:
            console = Console(width=PIPE_WIDTH)  # rich would squeeze a table into 80 columns
        console.print(table)


def _sentence(error: Exception) -> str:
    """Say what went wrong in one line.

    This project's own exceptions have texts that are safe to show; that of an error that nobody foresaw is not shown.
    """
    if is_own(error):
        return " ".join(str(error).split())
    return f"unexpected {type(error).__name__} at {place_of(error)}; please report it"
