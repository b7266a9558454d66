"""Which organizations gave their consent, under which partition key, and whether it still stands.

Belongs here: the statements on ``connections``, the rule of the partition key.
Does not belong here: encryption (``ledger.vault``), Dagster's own list of partitions.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import psycopg
from psycopg.rows import class_row

from symvanta_pipeline.ledger.database import LedgerError
from symvanta_pipeline.ledger.vault import KeyRing, Token, Vault

# Narrower than what Dagster takes: it accepts a comma, a newline or an empty key and cannot use it after
# (dagster-io/dagster #32183), and a key also stands in file names, tags and on command lines.
_PARTITION_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._~-]{0,199}")
# Dagster writes a range of partitions as "first...last".
_RANGE = "..."

_COLUMNS = """organization_id, customer, state, generation, connected_at, connected_by,
              parked_at, parked_reason, disconnected_at"""


class UnusablePartitionKey(LedgerError):
    """An organization's slug cannot become a partition key, so it cannot be connected."""


@dataclass(frozen=True)
class Connection:
    """One organization's consent.

    Attributes:
        organization_id: ``organizations.id`` at Sym, ``source_id`` at Vanta.
        customer: the partition key; never changes.
        state: ``connected``, ``parked`` or ``disconnected``.
        generation: how many times consent was given.
        connected_at: when it was last given.
        connected_by: who gave it, as an id; ``None`` from a terminal.
        parked_at: since when it waits for a reconnect.
        parked_reason: why, without personal data.
        disconnected_at: when a person ended it.
    """

    organization_id: UUID
    customer: str
    state: str
    generation: int
    connected_at: datetime
    connected_by: str | None
    parked_at: datetime | None
    parked_reason: str | None
    disconnected_at: datetime | None


def connect_customer(
    connection: psycopg.Connection,
    keyring: KeyRing,
    organization_id: UUID,
    slug: str,
    token: Token,
    *,
    connected_by: str | None = None,
) -> Connection:
    """Record a consent and its token, both or neither: state ``connected``, a newer generation of each.

    Never waits for the customer's lock. The partition key is the slug at the first connection; if that is taken by
    another organization, ``-`` and the first 8 characters of the id follow.

    Raises:
        UnusablePartitionKey: a first connection whose slug cannot be used; nothing was stored.
    """
    with connection.transaction():
        # The third is for a first connection of the same organization that another process made in between.
        connected = (
            _renew(connection, organization_id, connected_by)
            or _first(connection, organization_id, slug, connected_by)
            or _renew(connection, organization_id, connected_by)
        )
        if connected is None:
            raise UnusablePartitionKey(
                f"organization {organization_id}: its slug and its slug with its id are both taken as partition keys"
            )
        Vault(connection, keyring).put_consented(organization_id, token)
    return connected


def find(connection: psycopg.Connection, organization_id: UUID) -> Connection | None:
    """Look one up by organization."""
    with connection.cursor(row_factory=class_row(Connection)) as cursor:
        return cursor.execute(
            f"SELECT {_COLUMNS} FROM connections WHERE organization_id = %s",  # noqa: S608 - a constant of this module
            [organization_id],
        ).fetchone()


def is_unchanged(connection: psycopg.Connection, organization_id: UUID, known: Connection | None) -> bool:
    """Tell whether nobody connected or disconnected an organization since it was looked up; a run may have parked it.

    Locks its row until the end of the caller's transaction, so that it stays true until then.
    """
    row = connection.execute(
        "SELECT generation, disconnected_at FROM connections WHERE organization_id = %s FOR UPDATE", [organization_id]
    ).fetchone()
    return row == (None if known is None else (known.generation, known.disconnected_at))


def by_customer(connection: psycopg.Connection, partition_key: str) -> Connection | None:
    """Look one up by partition key."""
    with connection.cursor(row_factory=class_row(Connection)) as cursor:
        return cursor.execute(
            f"SELECT {_COLUMNS} FROM connections WHERE customer = %s",  # noqa: S608 - a constant of this module
            [partition_key],
        ).fetchone()


def all_connections(connection: psycopg.Connection) -> list[Connection]:
    """List all, also parked and disconnected ones, by partition key."""
    with connection.cursor(row_factory=class_row(Connection)) as cursor:
        return cursor.execute(
            f'SELECT {_COLUMNS} FROM connections ORDER BY customer COLLATE "C"'  # noqa: S608 - a constant of this module
        ).fetchall()


def park(connection: psycopg.Connection, organization_id: UUID, reason: str, *, token_generation: int) -> bool:
    """Stop trying an organization whose grant was refused, until somebody reconnects it.

    Args:
        connection: to the pipeline's own database.
        organization_id: whose grant.
        reason: for an operator, without personal data.
        token_generation: of the token that was refused.

    Returns:
        Whether this call parked it: not if a reconnect came in between, nor if it is parked or disconnected already.
    """
    with connection.transaction():
        # Locked one after the other, each by a statement of its own: one statement would judge a reconnect that it
        # had to wait for by the token from before.
        connection.execute("SELECT FROM connections WHERE organization_id = %s FOR UPDATE", [organization_id])
        held = connection.execute(
            "SELECT generation FROM tokens WHERE organization_id = %s FOR UPDATE", [organization_id]
        ).fetchone()
        if held is None or held[0] != token_generation:
            return False
        parked = connection.execute(
            """
            UPDATE connections SET state = 'parked', parked_at = clock_timestamp(), parked_reason = %s
            WHERE organization_id = %s AND state = 'connected'
            """,
            [reason, organization_id],
        )
        return parked.rowcount == 1


def mark_disconnected(connection: psycopg.Connection, organization_id: UUID) -> Connection | None:
    """Record that a person ended a connection, whatever state it was in; its partition and history stay.

    Safe to repeat: the first ``disconnected_at`` stays. Erases no token (``Vault.erase``).

    Returns:
        The connection; ``None`` where there is none.
    """
    with connection.cursor(row_factory=class_row(Connection)) as cursor:
        return cursor.execute(
            f"""
            UPDATE connections
            SET state = 'disconnected', disconnected_at = coalesce(disconnected_at, clock_timestamp()),
                parked_at = NULL, parked_reason = NULL
            WHERE organization_id = %s
            RETURNING {_COLUMNS}
            """,  # noqa: S608 - a constant of this module
            [organization_id],
        ).fetchone()


def require_usable(slug: str) -> None:
    """Check that a slug can become a partition key.

    Raises:
        UnusablePartitionKey: it cannot; says what a key may look like.
    """
    if not _PARTITION_KEY.fullmatch(slug) or _RANGE in slug:
        raise UnusablePartitionKey(
            f"the slug {slug!r} cannot become a partition key: up to 200 of A-Z a-z 0-9 . _ ~ -, "
            "a letter, digit or underscore first, no three dots in a row; change it in Sym before connecting"
        )


def _renew(connection: psycopg.Connection, organization_id: UUID, connected_by: str | None) -> Connection | None:
    with connection.cursor(row_factory=class_row(Connection)) as cursor:
        return cursor.execute(
            f"""
            UPDATE connections
            SET state = 'connected', generation = generation + 1, connected_at = clock_timestamp(),
                connected_by = %s, parked_at = NULL, parked_reason = NULL, disconnected_at = NULL
            WHERE organization_id = %s
            RETURNING {_COLUMNS}
            """,  # noqa: S608 - a constant of this module
            [connected_by, organization_id],
        ).fetchone()


def _first(
    connection: psycopg.Connection, organization_id: UUID, slug: str, connected_by: str | None
) -> Connection | None:
    """Insert under the first key that is free; the unique index decides between two that come at once."""
    require_usable(slug)
    with connection.cursor(row_factory=class_row(Connection)) as cursor:
        for key in (slug, f"{slug}-{str(organization_id)[:8]}"):
            inserted = cursor.execute(
                f"""
                INSERT INTO connections (organization_id, customer, state, generation, connected_at, connected_by)
                VALUES (%s, %s, 'connected', 1, clock_timestamp(), %s)
                ON CONFLICT DO NOTHING
                RETURNING {_COLUMNS}
                """,  # noqa: S608 - a constant of this module
                [organization_id, key, connected_by],
            ).fetchone()
            if inserted is not None:
                return inserted
    return None
