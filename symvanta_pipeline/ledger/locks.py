"""The customer's lock: from the read to the record, one process at a time works on one organization.

Belongs here: taking, checking and releasing that lock. Does not belong here: what is done under it.
"""

import hashlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from uuid import UUID

import psycopg

from symvanta_pipeline.ledger.database import LedgerError, connect

# Keeps these keys apart from every other advisory lock on the same database.
_NAMESPACE = b"symvanta customer lock"


class LockBusy(LedgerError):
    """Another process works on this organization right now."""


class LockLost(LedgerError):
    """The lock is not held any more (or cannot be seen to be): somebody else may have it, so nothing may be sent."""


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
        try:
            row = self._connection.execute(
                # A 64-bit key stands in pg_locks as two halves, with objsubid 1.
                """
                SELECT FROM pg_locks
                WHERE locktype = 'advisory' AND granted AND pid = pg_backend_pid() AND objsubid = 1
                  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                  AND (classid::bigint << 32 | objid::bigint) = %s
                """,
                [lock_key(self._organization_id)],
            ).fetchone()
        except psycopg.Error as error:
            raise LockLost(f"organization {self._organization_id}: the connection of its lock is gone") from error
        if row is None:
            raise LockLost(f"organization {self._organization_id}: its lock is not held any more")


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


def lock_key(organization_id: UUID) -> int:
    """Derive the signed 64-bit key. Two organizations that share one merely wait for each other."""
    digest = hashlib.sha256(_NAMESPACE + organization_id.bytes).digest()
    return int.from_bytes(digest[:8], signed=True)
