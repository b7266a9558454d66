"""A connection that is opened anew where the one before broke.

Belongs here: that, and nothing else. Does not belong here: repeating statements, which only their author can judge.
"""

from contextlib import suppress
from types import TracebackType
from typing import Self

import psycopg

from symvanta_pipeline.ledger.database import connect


class LiveConnection:
    """Opens on first use, in autocommit; usable as a context manager that closes it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._connection: psycopg.Connection | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def get(self) -> psycopg.Connection:
        """Return an open connection.

        Raises:
            LedgerUnavailable: none can be opened.
        """
        if self._connection is None or self._connection.broken or self._connection.closed:
            self._connection = connect(self.url)
        return self._connection

    def fresh(self) -> psycopg.Connection:
        """Return a connection that answers: after a long silence, the one before may be dead without knowing it.

        Raises:
            LedgerUnavailable: none can be opened.
        """
        with suppress(psycopg.OperationalError):
            self.get().execute("SELECT 1")
        return self.get()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._connection.close()
