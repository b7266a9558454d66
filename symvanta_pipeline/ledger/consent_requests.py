"""The consents that browsers were sent to Vanta for and that have not come back yet.

Belongs here: the statements on ``consent_requests``; what makes a state good for one browser, one organization, once.
Does not belong here: who may ask (``connect``), the exchange of the code, sessions themselves (``web_sessions``).
"""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import psycopg
from psycopg.rows import class_row

from symvanta_pipeline.ledger.database import LedgerError
from symvanta_pipeline.ledger.web_sessions import WebSession, digest

# More than anybody has tabs open for; a bound on what one signed-in browser can fill the table with.
UNUSED_PER_SESSION = 10


class SessionEnded(LedgerError):
    """The browser's session is over, so nothing can be bound to it."""


@dataclass(frozen=True)
class ConsentRequest:
    """A consent whose answer came back to the browser that asked.

    Attributes:
        organization_id: whom it is for.
        is_first_use: ``False`` where an answer with this state came before: a double click, a page loaded again.
    """

    organization_id: UUID
    is_first_use: bool


def remember(
    connection: psycopg.Connection, session: WebSession, state: str, organization_id: UUID, *, lifetime: timedelta
) -> None:
    """Bind a new state to a session and an organization, for a while.

    At most `UNUSED_PER_SESSION` of a session wait for their answer: the oldest go. Expired ones go too.

    Raises:
        SessionEnded: the session was ended, replaced or has expired.
    """
    key = digest(session.id)
    with connection.transaction():
        # Locked, so that two of one session count one after the other.
        live = connection.execute(
            "SELECT FROM web_sessions WHERE id_sha256 = %s AND expires_at > clock_timestamp() FOR NO KEY UPDATE", [key]
        ).fetchone()
        if live is None:
            raise SessionEnded("the session has ended: sign in again")
        connection.execute(
            """
            INSERT INTO consent_requests (state_sha256, session_sha256, organization_id, expires_at)
            VALUES (%s, %s, %s, clock_timestamp() + %s)
            """,
            [digest(state), key, organization_id, lifetime],
        )
        connection.execute(
            """
            DELETE FROM consent_requests
            WHERE session_sha256 = %(session)s AND (
                expires_at <= clock_timestamp()
                OR state_sha256 IN (
                    SELECT state_sha256 FROM consent_requests
                    WHERE session_sha256 = %(session)s AND used_at IS NULL AND expires_at > clock_timestamp()
                    ORDER BY created_at DESC OFFSET %(kept)s
                )
            )
            """,
            {"session": key, "kept": UNUSED_PER_SESSION},
        )


def use(connection: psycopg.Connection, session: WebSession, state: str) -> ConsentRequest | None:
    """Spend a state: of several who do so at once, exactly one is the first.

    Committed on return, unless the caller has a transaction open.

    Returns:
        ``None`` where the state is unknown, has expired, or belongs to another session.
    """
    key = digest(state)
    with connection.transaction(), connection.cursor(row_factory=class_row(ConsentRequest)) as cursor:
        # Locked as it is looked at: whoever has to wait for another sees what that one wrote.
        request = cursor.execute(
            """
            SELECT organization_id, used_at IS NULL AS is_first_use FROM consent_requests
            WHERE state_sha256 = %s AND session_sha256 = %s AND expires_at > clock_timestamp()
            FOR UPDATE
            """,
            [key, digest(session.id)],
        ).fetchone()
        if request and request.is_first_use:
            cursor.execute("UPDATE consent_requests SET used_at = clock_timestamp() WHERE state_sha256 = %s", [key])
    return request
