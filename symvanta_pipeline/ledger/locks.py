"""The locks of one organization: the customer's, from a run's read to its record, and that of people's actions.

Belongs here: taking, checking and releasing them. Does not belong here: what is done under them.
"""

import hashlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from uuid import UUID

import psycopg

from symvanta_pipeline.ledger.database import LedgerError, connect

# Keeps these keys apart from each other, and from every other advisory lock on the same database.
_CUSTOMER = b"symvanta customer lock"
_CONSENT = b"symvanta consent lock"

# A 64-bit key stands in pg_locks as two halves, with objsubid 1.
_HOLDERS = """
SELECT FROM pg_locks
WHERE locktype = 'advisory' AND granted AND objsubid = 1
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (classid::bigint << 32 | objid::bigint) = %(key)s
"""
_IS_HELD = f"EXISTS ({_HOLDERS} AND pid = pg_backend_pid())"


class LockBusy(LedgerError):
    """Another process works on this organization right now."""


class LockLost(LedgerError):
    """The lock is not held any more (or cannot be seen to be): somebody else may have it, so nothing may be sent."""


class Superseded(LedgerError):
    """The connection was disconnected or parked while work on it was under way: nothing may be sent any more."""


class CustomerLock:
    """A lock that is held. Made by ``customer_lock`` only."""

    def __init__(self, connection: psycopg.Connection, organization_id: UUID) -> None:
        self._connection = connection
        self._organization_id = organization_id

    def check(self) -> None:
        """Ask the database, over the lock's own connection, whether the lock is still held.

        Raises:
            LockLost: it is not, or the answer did not come.
        """
        self._ask("true", {})

    def require_connected(self, generation: int) -> None:
        """Ask, in one statement and over the lock's own connection, whether a push may still be sent.

        It may while the lock is held and a person's consent stands. A consent that was given again in the meantime
        (a higher generation, still connected) is no reason to stop: the vault holds the newer token, which wins.

        Args:
            generation: of the connection, as it was when the work on it began.

        Raises:
            LockLost: the lock is not held any more, or the answer did not come.
            Superseded: the connection was disconnected or parked, or is not one of this generation or later.
        """
        stands = self._ask(
            """
            EXISTS (
                SELECT FROM connections
                WHERE organization_id = %(organization_id)s AND state = 'connected' AND generation >= %(generation)s
            )
            """,
            {"organization_id": self._organization_id, "generation": generation},
        )
        if not stands:
            raise Superseded(
                f"organization {self._organization_id}: it was disconnected or parked in the meantime; nothing was sent"
            )

    def _ask(self, question: str, parameters: dict[str, object]) -> bool:
        """Answer a boolean expression together with the check of the lock."""
        try:
            [(held, answer)] = self._connection.execute(
                f"SELECT {_IS_HELD}, {question}",
                {**parameters, "key": lock_key(self._organization_id)},
            ).fetchall()
        except psycopg.Error as error:
            raise LockLost(f"organization {self._organization_id}: the connection of its lock is gone") from error
        if not held:
            raise LockLost(f"organization {self._organization_id}: its lock is not held any more")
        return bool(answer)


@contextmanager
def customer_lock(url: str, organization_id: UUID) -> Iterator[CustomerLock]:
    """Hold an organization's lock, on a direct connection of its own that belongs to nothing else.

    Does not wait. Closing the connection releases it, and so does the end of the process or of its machine.

    Args:
        url: of the pipeline's own database; direct, not through a transaction pooler.
        organization_id: which organization.

    Raises:
        LockBusy: somebody else holds it.
        LedgerUnavailable: no connection.
    """
    with closing(connect(url, application_name="symvanta customer lock")) as connection:
        row = connection.execute("SELECT pg_try_advisory_lock(%s::bigint)", [lock_key(organization_id)]).fetchone()
        if row != (True,):
            raise LockBusy(f"organization {organization_id}: another process works on it right now")
        yield CustomerLock(connection, organization_id)


@contextmanager
def consent_lock(url: str, organization_id: UUID, *, wait: float = 90.0) -> Iterator[None]:
    """Let people's actions on one organization (connect, reconnect, disconnect) go one after the other.

    First come, first served. Another lock than the customer's: a person never waits for a run, nor a run for a
    person. Closing the connection releases it, and so does the end of the process or of its machine.

    Args:
        url: of the pipeline's own database; direct, not through a transaction pooler.
        organization_id: which organization.
        wait: seconds to wait for whoever holds it.

    Raises:
        LockBusy: somebody else held it all that time.
        LedgerUnavailable: no connection.
    """
    with closing(connect(url, application_name="symvanta consent lock")) as connection:
        if not _taken_within(connection, lock_key(organization_id, _CONSENT), wait):
            raise LockBusy(f"organization {organization_id}: somebody else is connecting or disconnecting it right now")
        yield


def is_consent_under_way(connection: psycopg.Connection, organization_id: UUID) -> bool:
    """Tell whether somebody is connecting or disconnecting an organization at this very moment."""
    holder = connection.execute(_HOLDERS, {"key": lock_key(organization_id, _CONSENT)}).fetchone()
    return holder is not None


def _taken_within(connection: psycopg.Connection, key: int, wait: float) -> bool:
    """Wait for a lock of the session, under time limits that last as long as the wait."""
    milliseconds = max(1, round(wait * 1000))  # 0 would be no limit at all
    try:
        with connection.transaction():
            connection.execute(
                "SELECT set_config('lock_timeout', %s, true), set_config('statement_timeout', '0', true)",
                [f"{milliseconds}ms"],
            )
            connection.execute("SELECT pg_advisory_lock(%s::bigint)", [key])
    except psycopg.errors.LockNotAvailable:
        return False
    return True


def lock_key(organization_id: UUID, namespace: bytes = _CUSTOMER) -> int:
    """Derive the signed 64-bit key. Two organizations that share one merely wait for each other."""
    digest = hashlib.sha256(namespace + organization_id.bytes).digest()
    return int.from_bytes(digest[:8], signed=True)
