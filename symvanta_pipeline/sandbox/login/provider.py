"""People, their sessions at the provider, codes, and the claims that a code is good for.

Belongs here: who is signed in, and which code is good for what, until when. Does not belong here: HTTP, signatures.
"""

import base64
import hashlib
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from symvanta_pipeline.sandbox.login.authorization import AuthorizationRequest
from symvanta_pipeline.sandbox.login.config import Person

CODE_SECONDS = 60.0
ID_TOKEN_SECONDS = 3600


class GrantRefused(Exception):
    """A code that buys nothing: ``invalid_grant`` (RFC 6749, 5.2)."""


@dataclass(frozen=True)
class Session:
    """Somebody signed in at the provider itself, in one browser.

    Attributes:
        signed_in_at: seconds since 1970.
    """

    id: str = field(repr=False)
    person: Person
    signed_in_at: float


@dataclass(frozen=True)
class _Code:
    request: AuthorizationRequest
    session: Session
    expires_at: float


class Provider:
    """Everything that one stand-in remembers, in memory."""

    def __init__(self, people: Iterable[Person] = (), *, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._people = {person.subject: person for person in people}
        self._sessions: dict[str, Session] = {}
        self._codes: dict[str, _Code] = {}

    @property
    def people(self) -> list[Person]:
        """Everybody who can sign in, in the order in which they were added."""
        return list(self._people.values())

    def add(self, person: Person) -> None:
        """Let somebody sign in; a known subject gets the new label."""
        self._people[person.subject] = person

    def sign_in(self, subject: str, *, instead_of: Session | None) -> Session | None:
        """Begin a session, under an id that nobody could know; none where there is no such person.

        Args:
            subject: of the person.
            instead_of: the same browser's earlier session, which ends.
        """
        person = self._people.get(subject)
        if person is None:
            return None
        self.sign_out(instead_of)
        session = Session(secrets.token_urlsafe(32), person, self._now())
        self._sessions[session.id] = session
        return session

    def session(self, session_id: str) -> Session | None:
        """The session that a browser's cookie names."""
        return self._sessions.get(session_id)

    def sign_out(self, session: Session | None) -> None:
        """End a session. Safe to repeat."""
        if session is not None:
            self._sessions.pop(session.id, None)

    def passes(self, session: Session | None, request: AuthorizationRequest) -> bool:
        """Whether a session answers a request without asking anybody."""
        return session is not None and request.accepts(seconds_since_sign_in=self._now() - session.signed_in_at)

    def grant(self, request: AuthorizationRequest, session: Session) -> str:
        """Return a code, good for one use within 60 seconds."""
        code = secrets.token_urlsafe(32)
        self._codes[code] = _Code(request, session, self._now() + CODE_SECONDS)
        return code

    def redeem(self, code: str, *, redirect_uri: str, code_verifier: str) -> dict[str, Any]:
        """Spend a code and return the claims about person and sign-in that it buys. A refused attempt spends it too.

        Raises:
            GrantRefused: it is unknown, spent or expired, or comes with another redirect URI or a wrong verifier.
        """
        granted = self._codes.pop(code, None)
        if granted is None or self._now() >= granted.expires_at:
            raise GrantRefused("the code is unknown, used or expired")
        if redirect_uri != granted.request.redirect_uri:
            raise GrantRefused("redirect_uri is not the one of the authorization request")
        if not secrets.compare_digest(_s256(code_verifier), granted.request.code_challenge):
            raise GrantRefused("code_verifier does not fit the code_challenge")
        issued_at = int(self._now())
        return {
            "sub": granted.session.person.subject,
            "exp": issued_at + ID_TOKEN_SECONDS,
            "iat": issued_at,
            "auth_time": int(granted.session.signed_in_at),
            "nonce": granted.request.nonce,
            **_profile(granted.session.person, granted.request.scopes),
        }


def _s256(code_verifier: str) -> str:
    digest = hashlib.sha256(code_verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _profile(person: Person, scopes: tuple[str, ...]) -> dict[str, str]:
    """What only those learn who ask for it; the address is made up from the subject."""
    made_up = f"{hashlib.sha256(person.subject.encode()).hexdigest()[:12]}@people.example"
    claims = {"profile": ("name", person.label), "email": ("email", made_up)}
    return dict(claims[scope] for scope in scopes if scope in claims)
