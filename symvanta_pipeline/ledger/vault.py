"""The token vault: one encrypted Vanta token for each organization.

Belongs here: the key ring, encryption, and the statements on ``tokens``.
Does not belong here: when to refresh, HTTP, what a connection is (``ledger.connections``).
"""

import base64
import binascii
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from symvanta_pipeline.ledger.database import LedgerError

PROVIDER = "vanta"

_KEY_BYTES = 32
# The size that GCM is defined for (NIST SP 800-38D, 8.2.2), drawn at random for each encryption.
_NONCE_BYTES = 12

# Seconds without any progress after which a rotation gives up on rows that others keep locked.
ROTATION_PATIENCE = 60.0
_ROTATION_PAUSE = 0.2


class TokenUnreadable(LedgerError):
    """A stored token cannot be decrypted: its key is not in the key ring, or it is not this organization's."""


class UnknownTokenKey(LedgerError):
    """Stored tokens were encrypted with keys that the key ring does not hold."""


class StaleGeneration(LedgerError):
    """Somebody else saved a newer token (or erased it) in the meantime: load it again."""


class RotationIncomplete(LedgerError):
    """Some tokens stayed locked by others for too long and are not under the first key yet."""


@dataclass(frozen=True)
class Token:
    """What a consent or a refresh yields.

    Attributes:
        access_token: secret.
        refresh_token: secret; replaced by each refresh.
        expires_at: when the access token ends; with a time zone.
        scope: what was granted, separated by spaces.
    """

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    expires_at: datetime
    scope: str

    def __post_init__(self) -> None:
        """Refuse what could never be used, without quoting it."""
        if not (self.access_token and self.refresh_token):
            raise ValueError("a token to be stored needs both an access token and a refresh token")
        if self.expires_at.tzinfo is None:
            raise ValueError("expires_at needs a time zone")


@dataclass(frozen=True)
class StoredToken(Token):
    """A token as the vault holds it.

    Attributes:
        generation: goes up with each refresh, consent and erasure.
        saved_at: when it was stored, by the database's clock.
    """

    generation: int
    saved_at: datetime


@dataclass(frozen=True)
class Rotation:
    """What a rotation found and did.

    Attributes:
        rotated: how many tokens it encrypted anew, with the first key.
        already: how many were under that key when it began.
        unreadable: organizations whose token it could not read and left as it is, in order.
    """

    rotated: int
    already: int
    unreadable: tuple[UUID, ...]


class KeyRing:
    """Keys by id: the first encrypts, all decrypt. Shows ids only, never a key."""

    def __init__(self, text: str) -> None:
        """Parse ``id:base64key`` pairs separated by commas; a key is 32 bytes in url-safe base64.

        Raises:
            ValueError: something is malformed; says which pair, never its value.
        """
        keys: dict[str, bytes] = {}
        for position, pair in enumerate(text.split(","), start=1):
            key_id, _, encoded = pair.strip().partition(":")
            key = _decoded(encoded)
            if not key_id or key is None:
                raise ValueError(
                    f"pair {position} should be id:key, the key being {_KEY_BYTES} bytes in url-safe base64"
                )
            if key_id in keys:
                raise ValueError(f"pair {position} repeats the id of an earlier pair")
            keys[key_id] = key
        self._material = tuple(keys.values())
        self._keys = {key_id: AESGCM(key) for key_id, key in keys.items()}
        self.encrypting_id = next(iter(keys))

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids, the encrypting one first."""
        return tuple(self._keys)

    def encrypt(self, secret: str, associated: bytes) -> bytes:
        """Encrypt with the first key (``encrypting_id``); returns nonce and ciphertext in one."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._keys[self.encrypting_id].encrypt(nonce, secret.encode(), associated)

    def decrypt(self, key_id: str, sealed: bytes, associated: bytes) -> str:
        """Reverse ``encrypt``.

        Raises:
            KeyError: the ring has no such key.
            InvalidTag: another key, other associated data, or a changed ciphertext.
        """
        nonce, ciphertext = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        if len(nonce) < _NONCE_BYTES:
            raise InvalidTag
        return self._keys[key_id].decrypt(nonce, ciphertext, associated).decode()

    def derive(self, purpose: str) -> tuple[bytes, ...]:
        """Derive a key of 32 bytes for another purpose from each key, the first key's first (HKDF-SHA256, RFC 5869).

        Args:
            purpose: keeps these keys apart from those of any other purpose, and from the ring's own.
        """
        return tuple(
            HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=purpose.encode()).derive(key)
            for key in self._material
        )

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(self.ids)})"


class Vault:
    """The tokens of all organizations, over one connection.

    Args:
        connection: to the pipeline's own database.
        keyring: which keys to use.
    """

    def __init__(self, connection: psycopg.Connection, keyring: KeyRing) -> None:
        self._connection = connection
        self._keyring = keyring

    def load(self, organization_id: UUID) -> StoredToken | None:
        """Read and decrypt an organization's token; ``None`` if it has none.

        Raises:
            TokenUnreadable: it cannot be decrypted.
        """
        with self._connection.cursor(row_factory=dict_row) as cursor:
            row = cursor.execute(
                """
                SELECT provider, key_id, access_token, refresh_token, expires_at, scope, generation, saved_at
                FROM tokens WHERE organization_id = %s AND key_id IS NOT NULL
                """,
                [organization_id],
            ).fetchone()
        if row is None:
            return None
        return StoredToken(
            access_token=self._open(organization_id, row, "access"),
            refresh_token=self._open(organization_id, row, "refresh"),
            expires_at=row["expires_at"],
            scope=row["scope"],
            generation=row["generation"],
            saved_at=row["saved_at"],
        )

    def replace(self, organization_id: UUID, token: Token, *, expected_generation: int) -> int:
        """Save a refreshed token, in a transaction of its own that is committed on return.

        Args:
            organization_id: whose token.
            token: the new one.
            expected_generation: of the token that was refreshed.

        Returns:
            The new generation.

        Raises:
            StaleGeneration: the vault moved on in the meantime; nothing was saved.
            RuntimeError: the connection is inside a transaction, so that nothing could be committed here.
        """
        self._require_no_transaction()
        with self._connection.transaction():
            row = self._connection.execute(
                """
                UPDATE tokens
                SET provider = %(provider)s, key_id = %(key_id)s, access_token = %(access)s,
                    refresh_token = %(refresh)s, expires_at = %(expires_at)s, scope = %(scope)s,
                    generation = generation + 1, saved_at = clock_timestamp()
                WHERE organization_id = %(organization_id)s AND generation = %(expected)s AND key_id IS NOT NULL
                RETURNING generation
                """,
                {**self._sealed(organization_id, token), "expected": expected_generation},
            ).fetchone()
        if row is None:
            raise StaleGeneration(
                f"organization {organization_id}: its token is no longer generation {expected_generation}"
            )
        return int(row[0])

    def put_consented(self, organization_id: UUID, token: Token) -> int:
        """Save the token of a person's new consent: always a newer generation, whatever was there before.

        Runs in the caller's transaction, if there is one. The organization needs a row in ``connections``.
        """
        [(generation,)] = self._connection.execute(
            """
            INSERT INTO tokens AS held (organization_id, provider, key_id, access_token, refresh_token,
                                        expires_at, scope, generation, saved_at)
            VALUES (%(organization_id)s, %(provider)s, %(key_id)s, %(access)s, %(refresh)s,
                    %(expires_at)s, %(scope)s, 1, clock_timestamp())
            ON CONFLICT (organization_id) DO UPDATE
            SET provider = excluded.provider, key_id = excluded.key_id, access_token = excluded.access_token,
                refresh_token = excluded.refresh_token, expires_at = excluded.expires_at,
                scope = excluded.scope, generation = held.generation + 1, saved_at = excluded.saved_at
            RETURNING generation
            """,
            self._sealed(organization_id, token),
        ).fetchall()
        return int(generation)

    def erase(self, organization_id: UUID, *, expected_generation: int | None = None) -> bool:
        """Forget an organization's token. Its generation goes on, so that no late refresh can bring one back.

        Args:
            organization_id: whose token.
            expected_generation: of the token that is meant; ``None`` erases whatever is there.

        Returns:
            Whether this call erased one: not if there is none, nor if it is of another generation.
        """
        erased = self._connection.execute(
            """
            UPDATE tokens
            SET key_id = NULL, access_token = NULL, refresh_token = NULL, expires_at = NULL, scope = NULL,
                generation = generation + 1, saved_at = clock_timestamp()
            WHERE organization_id = %(organization_id)s AND key_id IS NOT NULL
              AND (%(expected)s::bigint IS NULL OR generation = %(expected)s)
            """,
            {"organization_id": organization_id, "expected": expected_generation},
        )
        return erased.rowcount == 1

    def rotate(self, *, batch: int = 100) -> Rotation:
        """Encrypt every token anew that is not under the first key; generations stay as they are.

        Each batch is committed by itself, so that whatever ends this early leaves only whole tokens. Safe to repeat,
        and beside refreshes, consents and other rotations: rows that somebody else holds are passed over and come
        last. Processes whose ring does not begin with the same key can still save tokens under another one after
        this; so first every process gets the new ring, then comes the rotation.

        Args:
            batch: how many tokens are locked at once.

        Raises:
            RotationIncomplete: rows were locked by others for `ROTATION_PATIENCE` seconds on end; says how many.
            RuntimeError: the connection is inside a transaction, so that nothing could be committed here.
        """
        self._require_no_transaction()
        already, _ = self._counts(())
        rotated, unreadable = 0, set[UUID]()
        deadline = time.monotonic() + ROTATION_PATIENCE
        while True:
            done, failed = self._rotate_batch(batch, tuple(unreadable))
            rotated += done
            unreadable.update(failed)
            if done or failed:
                deadline = time.monotonic() + ROTATION_PATIENCE
                continue
            _, left = self._counts(tuple(unreadable))
            if not left:
                return Rotation(rotated, already, tuple(sorted(unreadable)))
            if time.monotonic() > deadline:
                raise RotationIncomplete(
                    f"tokens not rotated yet, which another process keeps locked: {left}; rotated: {rotated}; "
                    "run it again"
                )
            time.sleep(_ROTATION_PAUSE)

    def check_keys(self) -> None:
        """Refuse to start without a key that stored tokens need.

        Raises:
            UnknownTokenKey: names the missing key ids.
        """
        rows = self._connection.execute(
            "SELECT DISTINCT key_id FROM tokens WHERE key_id <> ALL(%s) ORDER BY key_id", [list(self._keyring.ids)]
        ).fetchall()
        if rows:
            missing = ", ".join(str(row[0]) for row in rows)
            raise UnknownTokenKey(f"stored tokens need keys that SYMVANTA_TOKEN_KEYS lacks: {missing}; add them back")

    def _require_no_transaction(self) -> None:
        if self._connection.info.transaction_status != TransactionStatus.IDLE:
            raise RuntimeError("what is saved here must be committed at once, not inside another transaction")

    def _counts(self, unreadable: tuple[UUID, ...]) -> tuple[int, int]:
        """Count the tokens under the first key, and those under others that are not known to be unreadable."""
        with self._connection.transaction():
            [(under_first, under_others)] = self._connection.execute(
                """
                SELECT count(*) FILTER (WHERE key_id = %(first)s),
                       count(*) FILTER (WHERE key_id <> %(first)s AND organization_id <> ALL(%(unreadable)s))
                FROM tokens
                """,
                {"first": self._keyring.encrypting_id, "unreadable": list(unreadable)},
            ).fetchall()
        return under_first, under_others

    def _rotate_batch(self, size: int, unreadable: tuple[UUID, ...]) -> tuple[int, list[UUID]]:
        """Rotate some tokens that nobody else holds; returns how many, and which could not be read."""
        rotated: list[dict[str, Any]] = []
        failed: list[UUID] = []
        with self._connection.transaction(), self._connection.cursor(row_factory=dict_row) as cursor:
            rows = cursor.execute(
                """
                SELECT organization_id, provider, key_id, access_token, refresh_token FROM tokens
                WHERE key_id <> %s AND organization_id <> ALL(%s)
                ORDER BY organization_id LIMIT %s FOR UPDATE SKIP LOCKED
                """,
                [self._keyring.encrypting_id, list(unreadable), size],
            ).fetchall()
            for row in rows:
                try:
                    rotated.append(self._under_first_key(row))
                except TokenUnreadable:
                    failed.append(row["organization_id"])
            cursor.executemany(
                """
                UPDATE tokens SET key_id = %(key_id)s, access_token = %(access)s, refresh_token = %(refresh)s
                WHERE organization_id = %(organization_id)s
                """,
                rotated,
            )
        return len(rotated), failed

    def _under_first_key(self, row: dict[str, Any]) -> dict[str, Any]:
        organization_id, provider = row["organization_id"], row["provider"]

        def sealed_anew(kind: str) -> bytes:
            secret = self._open(organization_id, row, kind)
            return self._keyring.encrypt(secret, _associated(organization_id, provider, kind))

        return {
            "organization_id": organization_id,
            "key_id": self._keyring.encrypting_id,
            "access": sealed_anew("access"),
            "refresh": sealed_anew("refresh"),
        }

    def _sealed(self, organization_id: UUID, token: Token) -> dict[str, Any]:
        def seal(secret: str, kind: str) -> bytes:
            return self._keyring.encrypt(secret, _associated(organization_id, PROVIDER, kind))

        return {
            "organization_id": organization_id,
            "provider": PROVIDER,
            "key_id": self._keyring.encrypting_id,
            "access": seal(token.access_token, "access"),
            "refresh": seal(token.refresh_token, "refresh"),
            "expires_at": token.expires_at,
            "scope": token.scope,
        }

    def _open(self, organization_id: UUID, row: dict[str, Any], kind: str) -> str:
        associated = _associated(organization_id, row["provider"], kind)
        try:
            return self._keyring.decrypt(row["key_id"], row[f"{kind}_token"], associated)
        except KeyError:
            remedy = f"add key {row['key_id']} back to SYMVANTA_TOKEN_KEYS, or reconnect the customer"
        except InvalidTag:
            remedy = "it was changed, or moved here from elsewhere; reconnect the customer"
        raise TokenUnreadable(f"organization {organization_id}: its stored {kind} token cannot be read: {remedy}")


def _associated(organization_id: UUID, provider: str, kind: str) -> bytes:
    """Bind a ciphertext to its place; NUL can stand in none of the parts, so no two places look alike."""
    return "\0".join((str(organization_id), provider, kind)).encode()


def _decoded(encoded: str) -> bytes | None:
    with suppress(binascii.Error, ValueError):
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        return key if len(key) == _KEY_BYTES else None
    return None
