"""What a browser keeps: who is signed in, and the sign-ins that are under way.

Belongs here: names, attributes and sealing of cookies. Does not belong here: what a session means (``ledger.
web_sessions``), the checks of a sign-in (``login``).

A sign-in under way lives in a cookie of its own, sealed, so that two tabs do not disturb each other and a visitor who
never signs in writes nothing into a database.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import Final

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from starlette.responses import Response

from symvanta_pipeline.connect.login import Handshake
from symvanta_pipeline.ledger.vault import KeyRing

SESSION_LIFETIME: Final = timedelta(hours=1)
HANDSHAKE_LIFETIME: Final = timedelta(minutes=10)
MOST_HANDSHAKES: Final = 5
LONGEST_VALUE: Final = 2048  # characters; more than any cookie of ours has


class Cookies:
    """Writes and reads them; Fernet signs, encrypts and dates each value.

    Args:
        keyring: the keys for them are derived from its keys, each purpose its own.
        secure: whether the app is reached by https, everywhere but on this machine alone.
    """

    def __init__(self, keyring: KeyRing, *, secure: bool) -> None:
        self._sessions = _fernet(keyring, "connect app: session cookie")
        self._handshakes = _fernet(keyring, "connect app: sign-in cookie")
        self._secure = secure
        # The prefix makes browsers refuse it from anywhere but this very host, and without Secure (RFC 6265bis).
        prefix = "__Host-" if secure else ""
        self._session_name = f"{prefix}symvanta"
        self._handshake_prefix = f"{prefix}symvanta-login-"

    def session_id(self, cookies: Mapping[str, str]) -> str | None:
        """Return the id of the session that the browser shows, if it is one of ours and young enough."""
        return _opened(self._sessions, cookies.get(self._session_name, ""), SESSION_LIFETIME)

    def keep_session(self, response: Response, session_id: str) -> None:
        """Give the browser its session."""
        self._set(response, self._session_name, self._sessions.encrypt(session_id.encode()), SESSION_LIFETIME)

    def forget_session(self, response: Response) -> None:
        """Take the browser's session away."""
        self._delete(response, self._session_name)

    def handshake(self, cookies: Mapping[str, str], state: str) -> Handshake | None:
        """Return the sign-in that this browser began with this state, in the last ten minutes."""
        text = _opened(self._handshakes, cookies.get(self._handshake_name(state), ""), HANDSHAKE_LIFETIME)
        return Handshake(**json.loads(text)) if text else None

    def keep_handshake(self, response: Response, handshake: Handshake, cookies: Mapping[str, str]) -> None:
        """Give the browser a sign-in to keep; where it keeps many, they go, since headers are bounded."""
        kept = [name for name in cookies if name.startswith(self._handshake_prefix)]
        for name in kept if len(kept) >= MOST_HANDSHAKES else []:
            self._delete(response, name)
        sealed = self._handshakes.encrypt(json.dumps(asdict(handshake)).encode())
        self._set(response, self._handshake_name(handshake.state), sealed, HANDSHAKE_LIFETIME)

    def forget_handshake(self, response: Response, state: str) -> None:
        """Take away a sign-in that was used."""
        self._delete(response, self._handshake_name(state))

    def _handshake_name(self, state: str) -> str:
        return self._handshake_prefix + hashlib.sha256(state.encode()).hexdigest()[:16]

    def _set(self, response: Response, name: str, value: bytes, lifetime: timedelta) -> None:
        response.set_cookie(
            name,
            value.decode(),
            max_age=int(lifetime.total_seconds()),
            path="/",
            secure=self._secure,
            httponly=True,
            samesite="lax",
        )

    def _delete(self, response: Response, name: str) -> None:
        response.delete_cookie(name, path="/", secure=self._secure, httponly=True, samesite="lax")


def _fernet(keyring: KeyRing, purpose: str) -> MultiFernet:
    return MultiFernet([Fernet(base64.urlsafe_b64encode(key)) for key in keyring.derive(purpose)])


def _opened(fernet: MultiFernet, value: str, lifetime: timedelta) -> str | None:
    if not value or len(value) > LONGEST_VALUE:
        return None
    try:
        return fernet.decrypt(value.encode(), ttl=int(lifetime.total_seconds())).decode()
    except InvalidToken:
        return None
