"""Sym's database: whether it can be read, and could be written.

Belongs here: looking at it as a run would, and at the rights of its role. Does not belong here: any user.
"""

from typing import Any, Final
from uuid import UUID

from psycopg.rows import namedtuple_row

from symvanta_pipeline.doctor.verdict import Verdict, fail, named, number, ok, skipped, warn
from symvanta_pipeline.settings import SourceSettings, load
from symvanta_pipeline.sym.database import SourceError, SourceStale, begin, connect, guarded
from symvanta_pipeline.sym.people import memberships, user_name
from symvanta_pipeline.sym.source import OrganizationGone, organization_of, read_users

NOBODY: Final = str(UUID(int=0))
OWN_ROLE: Final = "give it a role that may only read: docs/production.md has the SQL"

# Whatever the tables are called: a customer's schema may differ. Every role that it may become by SET ROLE counts,
# also one whose rights it does not inherit: MEMBER, not USAGE.
_RIGHTS: Final = """
WITH may_be AS (SELECT oid, rolsuper FROM pg_roles WHERE pg_has_role(oid, 'MEMBER'))
SELECT current_user::text AS name, EXISTS (SELECT FROM may_be WHERE may_be.rolsuper) AS is_superuser,
       ARRAY(
           SELECT quote_ident(nspname) || '.' || quote_ident(relname)
           FROM pg_class JOIN pg_namespace AS held_in ON held_in.oid = relnamespace
           WHERE relkind IN ('r', 'p', 'f', 'v') AND nspname <> 'information_schema' AND nspname !~ '^pg_'
             AND EXISTS (
                 SELECT FROM may_be
                 WHERE has_table_privilege(may_be.oid, pg_class.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
                    OR has_any_column_privilege(may_be.oid, pg_class.oid, 'INSERT, UPDATE')
             )
           ORDER BY 1
       ) AS writable,
       ARRAY(
           SELECT quote_ident(nspname) FROM pg_namespace
           WHERE nspname <> 'information_schema' AND nspname !~ '^pg_'
             AND EXISTS (SELECT FROM may_be WHERE has_schema_privilege(may_be.oid, pg_namespace.oid, 'CREATE'))
           ORDER BY 1
       ) AS open_schemas,
       EXISTS (
           SELECT FROM may_be WHERE has_database_privilege(may_be.oid, current_database(), 'CREATE')
       ) AS may_add_schemas,
       EXISTS (
           SELECT FROM pg_class JOIN pg_namespace AS held_in ON held_in.oid = relnamespace
           WHERE nspname <> 'information_schema' AND nspname !~ '^pg_' AND pg_has_role(relowner, 'MEMBER')
       ) AS owns
FROM pg_roles WHERE rolname = current_user
"""

_INDEX: Final = """
SELECT to_regclass('identities') IS NOT NULL AS is_table,
       EXISTS (
           SELECT FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
           WHERE indrelid = to_regclass('identities') AND attname = 'external_id' AND indisvalid
       ) AS is_indexed
"""


def reachable() -> Verdict:
    """Connect, and open the transaction that every read begins with."""

    def look() -> tuple[bool, float]:
        with connect(_url()) as connection:
            complete_until = begin(connection)
            [(is_standby, age)] = connection.execute(
                "SELECT pg_is_in_recovery(), extract(epoch FROM now() - %s)::float8", [complete_until]
            ).fetchall()
            return is_standby, age

    try:
        is_standby, age = guarded(look, "users.sql")
    except SourceStale as error:
        return fail(str(error), "see why the standby is behind; until then every push is held")
    except SourceError as error:
        return fail(str(error), "start it, or correct SYM_DATABASE_URL; until then nothing is pushed")
    return ok(f"answers: a standby, complete up to {age:.0f} s ago" if is_standby else "answers: a primary")


def readable() -> Verdict:
    """Run every query for an organization and a login that do not exist: columns are checked all the same."""
    url = _url()
    try:
        organization_of(url, NOBODY)
        memberships(url, NOBODY)
        user_name(url, NOBODY, NOBODY)
        read_users(url, NOBODY)
    except OrganizationGone:
        return ok("every query runs and returns the columns that it should")
    except SourceError as error:
        return fail(str(error), "GRANT SELECT on the tables to the role, or adapt the SQL file that is named")
    return fail(
        "users.sql returns rows for an organization that does not exist", "adapt symvanta_pipeline/sym/users.sql"
    )


def role() -> Verdict:
    """Look whether the role could write, although every session of ours is read-only."""
    rights = _row(_RIGHTS)
    if rights.is_superuser:
        return warn(f"{rights.name} is a superuser, or may become one, and could write anything", OWN_ROLE)
    if rights.writable:
        tables, name = named(rights.writable), rights.name
        revoke = f"REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON {', '.join(rights.writable)} FROM {name}"
        return warn(
            f"{name} could write to {number(len(rights.writable), 'table')}: {tables}",
            OWN_ROLE if rights.owns else f"{revoke}, and from every role that it is a member of",
        )
    if rights.open_schemas or rights.may_add_schemas:
        place = f"SCHEMA {named(rights.open_schemas)}" if rights.open_schemas else "DATABASE"
        return warn(
            f"{rights.name} could create objects in Sym's {place.lower()}",
            f"REVOKE CREATE ON {place} FROM {rights.name}, and from PUBLIC where it has that from there",
        )
    return ok(f"{rights.name} may read and not write")


def index() -> Verdict:
    """Look for the index by which the connect app finds people."""
    found = _row(_INDEX)
    if not found.is_table:
        return skipped("there is no table identities: the SQL files read another one, look for its index yourself")
    if found.is_indexed:
        return ok("identities.external_id has an index")
    return warn(
        "identities.external_id has no index: each sign-in to the connect app reads the whole table",
        "CREATE INDEX CONCURRENTLY identities_external_id ON identities (external_id)",
    )


def _url() -> str:
    return load(SourceSettings).sym_database_url.get_secret_value()


def _row(query: str) -> Any:
    """Run a query of the catalogue, and return its one row with a column by its name."""

    def look() -> Any:
        with connect(_url()) as connection, connection.cursor(row_factory=namedtuple_row) as cursor:
            return cursor.execute(query.encode()).fetchone()

    return guarded(look, "users.sql")
