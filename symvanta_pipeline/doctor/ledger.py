"""The pipeline's own database: whether it is there, up to date, ours, and reached directly.

Belongs here: looking at it. Does not belong here: what its tables hold (``customers``).
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import psycopg
from psycopg.rows import namedtuple_row

from symvanta_pipeline.doctor.verdict import Verdict, fail, named, ok, warn
from symvanta_pipeline.ledger import database
from symvanta_pipeline.ledger.database import LedgerOutdated, LedgerUnavailable
from symvanta_pipeline.settings import LedgerSettings, load

# Others that hold a server each, so that a pooler has to give the first one another.
OTHERS: Final = 3

_RIGHTS: Final = """
WITH held AS (
    SELECT oid, relname::text AS name, relowner FROM pg_class
    WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace
)
SELECT current_user::text AS name, rolsuper AS is_superuser,
       ARRAY(
           SELECT held.name FROM held
           WHERE NOT has_table_privilege(oid, 'SELECT') OR NOT has_any_column_privilege(oid, 'INSERT') ORDER BY 1
       ) AS closed,
       ARRAY(SELECT held.name FROM held WHERE NOT pg_has_role(relowner, 'USAGE') ORDER BY 1) AS foreign_owned
FROM pg_roles WHERE rolname = current_user
"""


@contextmanager
def reading() -> Iterator[psycopg.Connection]:
    """Open a connection whose transaction may only read.

    Raises:
        LedgerUnavailable: none can be opened.
    """
    with database.connect(_url(), application_name="symvanta doctor", autocommit=False) as connection:
        connection.read_only = True
        yield connection


def reachable() -> Verdict:
    """Connect."""
    try:
        with reading() as connection:
            connection.execute("SELECT 1")
    except LedgerUnavailable as error:
        return fail(str(error), "start it, or correct SYMVANTA_DATABASE_URL; until then nothing is pushed")
    return ok("answers")


def tables() -> Verdict:
    """Compare its tables with what this program was written for."""
    try:
        database.require_current(_url())
    except LedgerOutdated as error:
        return fail(str(error), "symvanta migrate, by the newest version of this program that is in use")
    return ok("are up to date")


def role() -> Verdict:
    """Look whether the role may do what the pipeline does, and no more than append to what is append-only."""
    with reading() as connection, connection.cursor(row_factory=namedtuple_row) as cursor:
        rights: Any = cursor.execute(_RIGHTS).fetchone()
    name = rights.name
    if rights.closed:
        return fail(f"{name} may not read and write {named(rights.closed)}", f"let {name} own the pipeline's tables")
    if rights.is_superuser:
        return warn(
            f"{name} is a superuser: what is append-only does not bind it",
            "let an ordinary role own the database: docs/production.md has the SQL",
        )
    if rights.foreign_owned:
        return warn(
            f"{name} does not own {named(rights.foreign_owned)}: it can neither migrate nor prune",
            f"ALTER TABLE ... OWNER TO {name}, or REASSIGN OWNED",
        )
    return ok(f"{name} owns the tables")


def direct() -> Verdict:
    """Look whether a session stays with one server process, as a customer's lock must."""
    with ExitStack() as held:
        first = held.enter_context(reading())
        before = _served_by(first)
        first.commit()
        for _ in range(OTHERS):
            _served_by(held.enter_context(reading()))  # in a transaction until the end of the block
        after = _served_by(first)
    if before == after:
        return ok("is direct: locks stay with their session")
    return fail(
        "goes through a pooler that gives each transaction another server: a customer's lock would not hold",
        "let SYMVANTA_DATABASE_URL lead to PostgreSQL itself, or to a pooler in session mode",
    )


def _url() -> str:
    return load(LedgerSettings).symvanta_database_url.get_secret_value()


def _served_by(connection: psycopg.Connection) -> int:
    [(pid,)] = connection.execute("SELECT pg_backend_pid()").fetchall()
    return int(pid)
