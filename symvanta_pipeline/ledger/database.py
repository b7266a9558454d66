"""Connections to the pipeline's own PostgreSQL, and the state of its schema.

Belongs here: how a connection is opened, migrating, and refusing a schema that does not fit this program.
Does not belong here: any table's statements (see the modules beside this one).
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

# Not Alembic's default name: the same database may hold Dagster's own alembic_version.
VERSION_TABLE = "symvanta_alembic_version"

# Any fixed number does, as long as nothing else on this database uses it: "symvanta" in ASCII.
_MIGRATION_LOCK = int.from_bytes(b"symvanta")
_MIGRATION_LOCK_TIMEOUT = "120s"

_SCHEME = re.compile(r"^postgres(?:ql)?(?:\+psycopg2?)?://")
_PORTS = re.compile(r"[0-9,]*")

# A vanished peer is noticed within about a minute, on either side, so that a lock does not outlive its holder.
_CLIENT_DEFAULTS: dict[str, Any] = {
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
_SESSION_DEFAULTS = {
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "60s",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "TimeZone": "UTC",
}


class LedgerError(Exception):
    """The ledger did not do what was asked; the text is safe to show and says what to do."""


class LedgerUnavailable(LedgerError):
    """The pipeline's own database cannot be used. The text holds no URL and no password."""


class LedgerOutdated(LedgerError):
    """The schema of the pipeline's own database is not the one that this program was written for."""


def connect(url: str, *, application_name: str = "symvanta", autocommit: bool = True) -> psycopg.Connection:
    """Open one direct connection; times come back in UTC, a statement may take 30 s.

    Args:
        url: ``postgresql://`` or ``postgres://``, also with SQLAlchemy's ``+psycopg`` or ``+psycopg2``. What it
            says about timeouts and options outranks the defaults here.
        application_name: shown in ``pg_stat_activity``.
        autocommit: whether each statement commits on its own.

    Raises:
        LedgerUnavailable: the URL is malformed, or the server cannot be reached or refuses.
    """
    given = _parameters(url)
    options = " ".join(f"-c {name}={value}" for name, value in _SESSION_DEFAULTS.items())
    parameters = {
        **_CLIENT_DEFAULTS,
        "application_name": application_name,
        **given,
        "options": f"{options} {given.get('options', '')}".strip(),
    }
    try:
        return psycopg.connect(autocommit=autocommit, **parameters)
    except psycopg.Error as error:
        reason = _without(str(given.get("password") or ""), _one_line(error))
    # Raised out here so that psycopg's own exception is not chained to it.
    raise LedgerUnavailable(f"the pipeline's own database cannot be reached: {reason}")


def migrate(url: str) -> list[str]:
    """Bring the tables up to date. Safe to call again, and from several processes at once.

    Returns:
        The revisions that this call applied, oldest first; empty if there was nothing to do.

    Raises:
        LedgerUnavailable: no connection, no right to create tables, or another migration holds on for over 120 s.
        LedgerOutdated: the schema is newer than this program.
    """
    applied: list[str] = []
    config = _alembic_config()
    with _sqlalchemy_connection(url) as connection:
        # The session keeps this lock over all transactions below; closing the connection releases it.
        connection.execute(text("SET statement_timeout = 0"))
        connection.execute(text(f"SET lock_timeout = '{_MIGRATION_LOCK_TIMEOUT}'"))
        connection.execute(text(f"SELECT pg_advisory_lock({_MIGRATION_LOCK})"))
        connection.commit()
        config.attributes.update(
            connection=connection,
            version_table=VERSION_TABLE,
            on_version_apply=lambda *, step, **_: applied.append(step.up_revision_id),
        )
        try:
            command.upgrade(config, "head")
        except CommandError:
            raise LedgerOutdated(_NEWER) from None
    return applied


def require_current(url: str) -> None:
    """Check that the schema is exactly the one that this program was written for.

    Raises:
        LedgerUnavailable: no connection.
        LedgerOutdated: the tables are absent, behind or newer; the text says what to do.
    """
    script = ScriptDirectory.from_config(_alembic_config())
    with _sqlalchemy_connection(url) as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        present = set(context.get_current_heads())
    if present == set(script.get_heads()):
        return
    if present - {revision.revision for revision in script.walk_revisions()}:
        raise LedgerOutdated(_NEWER)
    problem = "are not up to date" if present else "do not exist yet"
    raise LedgerOutdated(f"the pipeline's own tables {problem}; run: symvanta migrate")


_NEWER = "the pipeline's own tables are newer than this program; install the version that migrated them"


def _alembic_config() -> Config:
    """Point Alembic at the package's own folder, so that it works from an installed wheel."""
    config = Config()
    config.set_main_option("script_location", "symvanta_pipeline.ledger:migrations")
    return config


@contextmanager
def _sqlalchemy_connection(url: str) -> Iterator[Connection]:
    """Give Alembic a connection that was opened like every other one here, and close it afterwards."""
    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: connect(url, application_name="symvanta migrate", autocommit=False),
        poolclass=NullPool,
    )
    try:
        with engine.connect() as connection:
            yield connection
    except DBAPIError as error:
        reason = _one_line(error.orig) if error.orig else "no reason given"
    else:
        return
    raise LedgerUnavailable(f"the pipeline's own database refused: {reason}")


def _parameters(url: str) -> dict[str, Any]:
    """Split the URL into libpq's parameters, without ever quoting it."""
    if _SCHEME.match(url):
        with suppress(psycopg.ProgrammingError):
            parameters = conninfo_to_dict(_SCHEME.sub("postgresql://", url))
            if not _holds_a_piece_of_the_password(parameters):
                return parameters
    raise LedgerUnavailable(
        "the pipeline's own database has no usable address: SYMVANTA_DATABASE_URL should hold "
        "postgresql://user:password@host:port/database, with special characters in the password percent-encoded"
    )


def _holds_a_piece_of_the_password(parameters: dict[str, Any]) -> bool:
    """Tell whether an unescaped ``/`` or ``@`` in the password spilt it into what error messages quote."""
    port, names = str(parameters.get("port", "")), (parameters.get("host"), parameters.get("dbname"))
    return not _PORTS.fullmatch(port) or any("@" in str(name) for name in names)


def _one_line(error: BaseException) -> str:
    """Give libpq's verdict, which comes on several lines and names host, port and user but not the URL."""
    return " ".join(str(error).split()) or type(error).__name__


def _without(secret: str, sentence: str) -> str:
    return sentence.replace(secret, "***") if secret else sentence
