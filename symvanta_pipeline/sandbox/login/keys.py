"""The keys that ID tokens are signed with, and ID tokens that no client may accept.

Belongs here: signatures, honest and not. Does not belong here: whom a token is about (``provider``).
"""

import secrets
from collections.abc import Mapping
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import Key, KeySet, OctKey, RSAKey

KEY_BITS = 2048
ALGORITHM = "RS256"
Claims = Mapping[str, Any]


class SigningKeys:
    """An RSA key made afresh, and its predecessors, which sign nothing any more and are not published."""

    def __init__(self, client_secret: str) -> None:
        self._client_secret = client_secret
        self._keys = [_new_key()]

    def rotate(self) -> None:
        """Sign with a new key from now on, and publish it alone."""
        self._keys.append(_new_key())

    def published(self) -> dict[str, Any]:
        """The JSON Web Key Set: the public half of the current key."""
        return dict(KeySet([self._keys[-1]]).as_dict(private=False))

    def sign(self, claims: Claims, fault: str | None = None) -> str:
        """Make an ID token.

        Args:
            claims: its claims.
            fault: one of ``faults.ID_TOKEN``, which makes it one that no client may accept.
        """
        current = self._keys[-1]
        header, key = {"alg": ALGORITHM, "kid": current.kid}, current
        if fault == "malformed":
            return "not.an-id.token"
        if fault == "alg_none":
            return jwt.encode({"alg": "none"}, dict(claims), current, algorithms=["none"])
        if fault == "hs256":
            shared: Key = OctKey.import_key(self._client_secret)
            return jwt.encode({**header, "alg": "HS256"}, dict(claims), shared, algorithms=["HS256"])
        if fault == "foreign_key":
            key = _new_key()
        return jwt.encode(header, _spoilt(claims, fault), key, algorithms=[ALGORITHM])

    def read_hint(self, id_token: str) -> dict[str, Any] | None:
        """The claims of an ID token signed here at any time, expired or not; none where it was not."""
        try:
            return dict(jwt.decode(id_token, KeySet(list(self._keys)), algorithms=[ALGORITHM]).claims)
        except (JoseError, ValueError):
            return None


def _new_key() -> RSAKey:
    return RSAKey.generate_key(KEY_BITS, {"use": "sig", "alg": ALGORITHM}, auto_kid=True)


def _spoilt(claims: Claims, fault: str | None) -> dict[str, Any]:
    """The claims with what a fault makes of them: a value of none leaves the claim out."""
    changes: dict[str, dict[str, Any]] = {
        "wrong_nonce": {"nonce": secrets.token_urlsafe()},
        "no_nonce": {"nonce": None},
        "wrong_issuer": {"iss": "https://other-login.example"},
        "wrong_audience": {"aud": "another-client"},
        "expired": {"iat": claims["iat"] - 7200, "exp": claims["iat"] - 3600},
        "no_subject": {"sub": None},
        "subject_not_text": {"sub": 12345},
    }
    merged = {**claims, **changes.get(fault or "", {})}
    return {name: value for name, value in merged.items() if value is not None}
