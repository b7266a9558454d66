"""Who is signed in to the connect app, a session a browser.

Belongs here: the statements on ``web_sessions``, what a session holds and how it is sealed.
Does not belong here: cookies, logging in, what a signed-in person may do.

The table holds the hash of a session's id and a ciphertext that is bound to that hash, so that neither a dump of the
database nor a row moved to another id lets anybody in.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from secrets import token_urlsafe

import psycopg
from cryptography.exceptions import InvalidTag

from symvanta_pipeline.ledger.vault import KeyRing

_ID_BYTES = 32


@dataclass(frozen=True)
class WebSession:
    """One signed-in browser.

    Attributes:
        id: secret; goes into the browser's cookie and nowhere else.
        subject: OpenID Connect's ``sub``; with some logins that is personal data.
        expires_at: when it ends, by the database's clock; with a time zone.
    """

    id: str = field(repr=False)
    subject: str = field(repr=False)
    expires_at: datetime


def begin(
    connection: psycopg.Connection,
    keyring: KeyRing,
    subject: str,
    *,
    lifetime: timedelta,
    replaces: WebSession | None = None,
) -> WebSession:
    """Begin a session under a new id, in one transaction; expired sessions of everybody are deleted in passing.

    Args:
        connection: to the pipeline's own database.
        keyring: seals the content.
        subject: who signed in.
        lifetime: how long it lasts.
        replaces: the browser's session until now; its id is dead afterwards. If it is live and of the same subject,
            its consents under way belong to the new session; otherwise they are gone.
    """
    session_id = token_urlsafe(_ID_BYTES)
    key = digest(session_id)
    row = {
        "new": key,
        "old": digest(replaces.id) if replaces else None,
        "key_id": keyring.encrypting_id,
        "content": keyring.encrypt(json.dumps({"subject": subject}), key),
        "lifetime": lifetime,
    }
    with connection.transaction():
        _delete_expired(connection)
        began = _renewed(connection, row) if replaces and replaces.subject == subject else None
        if began is None:
            connection.execute("DELETE FROM web_sessions WHERE id_sha256 = %(old)s", row)
            [began] = connection.execute(
                """
                INSERT INTO web_sessions (id_sha256, key_id, content, expires_at)
                VALUES (%(new)s, %(key_id)s, %(content)s, clock_timestamp() + %(lifetime)s)
                RETURNING expires_at
                """,
                row,
            ).fetchall()
    return WebSession(session_id, subject, began[0])


def find(connection: psycopg.Connection, keyring: KeyRing, session_id: str) -> WebSession | None:
    """Look up what a cookie claims; ``None`` unless there is such a session, it lives and it can be read."""
    key = digest(session_id)
    row = connection.execute(
        """
        SELECT key_id, content, expires_at FROM web_sessions
        WHERE id_sha256 = %s AND expires_at > clock_timestamp()
        """,
        [key],
    ).fetchone()
    if row is None:
        return None
    key_id, content, expires_at = row
    try:
        subject = json.loads(keyring.decrypt(key_id, content, key))["subject"]
    except (KeyError, InvalidTag):
        return None  # its key has left the ring, or the row is not the one that was written: sign in again
    return WebSession(session_id, subject, expires_at)


def end(connection: psycopg.Connection, session: WebSession) -> None:
    """End a session with all its consents under way. Safe to repeat."""
    connection.execute("DELETE FROM web_sessions WHERE id_sha256 = %s", [digest(session.id)])


def digest(secret: str) -> bytes:
    """Give what stands in the database for a session's id or a state: 32 bytes, whatever a browser sent."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).digest()


def _renewed(connection: psycopg.Connection, row: Mapping[str, object]) -> tuple[datetime] | None:
    """Give a live session its new id, which the consents under way follow (``ON UPDATE CASCADE``)."""
    return connection.execute(
        """
        UPDATE web_sessions
        SET id_sha256 = %(new)s, key_id = %(key_id)s, content = %(content)s,
            created_at = clock_timestamp(), expires_at = clock_timestamp() + %(lifetime)s
        WHERE id_sha256 = %(old)s AND expires_at > clock_timestamp()
        RETURNING expires_at
        """,
        row,
    ).fetchone()


def _delete_expired(connection: psycopg.Connection) -> None:
    """Delete what is over; two who do so at once pass each other by instead of waiting."""
    connection.execute(
        """
        DELETE FROM web_sessions WHERE id_sha256 IN (
            SELECT id_sha256 FROM web_sessions WHERE expires_at <= clock_timestamp() FOR UPDATE SKIP LOCKED
        )
        """
    )
