"""Sym's login by OpenID Connect: Auth0 in production, any issuer that publishes a discovery document.

Belongs here: the authorization code flow with state, nonce and PKCE, and the checks of an ID token. Does not belong
here: what a person may do (``office``), cookies (``cookies``).

Sources: OpenID Connect Core 1.0 (3.1.3.7 for the ID token), Discovery 1.0 (4.3 for the issuer), RP-Initiated Logout
1.0, RFC 7636 for PKCE. Only the scope ``openid`` is asked for: nobody's name or e-mail address is needed.
"""

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar
from urllib.parse import urlencode, urlsplit

import requests
from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet

from symvanta_pipeline.settings import is_loopback

TIMEOUT: Final = (5.0, 10.0)  # seconds to connect, and between bytes of a reply
METADATA_LIFETIME: Final = 3600.0  # seconds that a discovery document is kept
FAILURE_LIFETIME: Final = 5.0  # seconds that a failure to fetch it is remembered
KEYS_PAUSE: Final = 30.0  # seconds between two looks for a key that is not known
LEEWAY: Final = 120  # seconds that the issuer's clock may differ from ours
LONGEST_SUBJECT: Final = 255  # characters; OpenID Connect Core, 2
# Asymmetric ones alone: with "none" or a shared secret, a token would prove nothing.
ALGORITHMS: Final = ("RS256", "PS256", "ES256", "RS384", "PS384", "ES384", "RS512", "PS512", "ES512", "EdDSA")

_T = TypeVar("_T")


class LoginError(Exception):
    """Nobody was signed in; the text is safe to show."""


class LoginRefused(LoginError):
    """The answer of Sym's login proves nobody's identity; signing in again may help."""


class LoginUnavailable(LoginError):
    """Sym's login cannot be used now, or is set up differently from SYM_OIDC_*."""


@dataclass(frozen=True)
class Handshake:
    """A sign-in under way, for the browser that began it to keep.

    Attributes:
        state: comes back with the answer.
        nonce: comes back within the ID token.
        code_verifier: proves to the issuer that the answer is used by whoever asked.
        then: the path to go on to.
    """

    state: str = field(repr=False)
    nonce: str = field(repr=False)
    code_verifier: str = field(repr=False)
    then: str


class Login:
    """This application at Sym's login. Safe to use from several threads.

    Args:
        issuer: exactly as it stands in its own tokens; Auth0's ends with a slash.
        client_id: of this application.
        client_secret: of this application.
        redirect_uri: where the issuer sends people back to.
    """

    def __init__(self, issuer: str, client_id: str, client_secret: str, redirect_uri: str) -> None:
        self.issuer = issuer
        self._client_id = client_id
        self._client_secret = client_secret
        self._redirect_uri = redirect_uri
        self._metadata = _Cached(self._discover, METADATA_LIFETIME)
        self._keys = _Cached(self._fetch_keys, METADATA_LIFETIME)

    def begin(self, then: str, *, as_somebody_else: bool = False) -> tuple[str, Handshake]:
        """Return the address to send a browser to, and what it has to keep until it comes back.

        Args:
            then: the path to go on to.
            as_somebody_else: ask the person to sign in even where the login still knows somebody.

        Raises:
            LoginUnavailable: the issuer cannot be asked for its addresses.
        """
        handshake = Handshake(
            state=secrets.token_urlsafe(32),
            nonce=secrets.token_urlsafe(32),
            code_verifier=secrets.token_urlsafe(48),
            then=then,
        )
        prompt = {"prompt": "login"} if as_somebody_else else {}
        url, _ = self._client().create_authorization_url(
            self._metadata.get()["authorization_endpoint"],
            state=handshake.state,
            nonce=handshake.nonce,
            code_verifier=handshake.code_verifier,
            **prompt,
        )
        return str(url), handshake

    def finish(self, handshake: Handshake, code: str) -> str:
        """Exchange the code and return whom the ID token proves: its ``sub``.

        Args:
            handshake: as the browser kept it.
            code: as the issuer sent it; empty where it sent an error instead.

        Raises:
            LoginRefused: it proves nobody. LoginUnavailable: the issuer does not answer as it should.
        """
        if not code:
            raise LoginRefused("the login reported an error")
        token = self._exchange(handshake, code)
        return self._subject(str(token.get("id_token") or ""), handshake.nonce, str(token.get("access_token") or ""))

    def logout_url(self, return_to: str) -> str | None:
        """Return where a browser ends its session at the login itself, if the issuer offers that.

        Args:
            return_to: where it comes back to; has to be registered with the issuer.
        """
        try:
            endpoint = self._metadata.get().get("end_session_endpoint")
        except LoginUnavailable:
            return None
        query = urlencode({"client_id": self._client_id, "post_logout_redirect_uri": return_to})
        return f"{endpoint}?{query}" if endpoint else None

    def _client(self) -> Any:
        supported = self._metadata.get().get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        # Auth0's default; and Authlib does not encode a secret for "basic" as RFC 6749, 2.3.1 asks for.
        method = "client_secret_post" if "client_secret_post" in supported else "client_secret_basic"
        return OAuth2Session(
            self._client_id,
            self._client_secret,
            scope="openid",
            redirect_uri=self._redirect_uri,
            token_endpoint_auth_method=method,
            code_challenge_method="S256",
        )

    def _exchange(self, handshake: Handshake, code: str) -> Mapping[str, Any]:
        refusal: LoginError
        try:
            with self._client() as client:
                token = client.fetch_token(
                    self._metadata.get()["token_endpoint"],
                    grant_type="authorization_code",
                    code=code,
                    code_verifier=handshake.code_verifier,
                    redirect_uri=self._redirect_uri,
                    timeout=TIMEOUT,
                    allow_redirects=False,
                )
                return token if isinstance(token, Mapping) else {}
        except OAuthError as error:
            refusal = (
                LoginUnavailable("Sym's login does not accept this application: check SYM_OIDC_CLIENT_ID and _SECRET")
                if error.error in ("invalid_client", "unauthorized_client")
                else LoginRefused("Sym's login did not accept the answer")
            )
        except LoginError:
            raise
        except Exception as error:  # noqa: BLE001 - Authlib raises whatever an odd reply makes it trip over
            refusal = LoginUnavailable(f"Sym's login did not answer as it should ({type(error).__name__})")
        # Out here, so that the library's error, which may quote a reply, is not chained to it.
        raise refusal

    def _subject(self, id_token: str, nonce: str, access_token: str) -> str:
        refusal: LoginError
        try:
            token = self._decoded(id_token)
            claims = CodeIDToken(
                token.claims,
                token.header,
                {
                    "iss": {"essential": True, "value": self.issuer},
                    "aud": {"essential": True, "value": self._client_id},
                    "sub": {"essential": True},
                    "exp": {"essential": True},
                    "nonce": {"essential": True, "value": nonce},
                },
                {"nonce": nonce, "client_id": self._client_id, "access_token": access_token},
            )
            claims.validate(leeway=LEEWAY)
            subject = claims["sub"]
        except LoginError:
            raise
        except (JoseError, ValueError, TypeError, KeyError, AttributeError) as error:
            refusal = LoginRefused(f"the answer of Sym's login is not valid ({type(error).__name__})")
        else:
            if isinstance(subject, str) and 0 < len(subject) <= LONGEST_SUBJECT and subject.isprintable():
                return subject
            refusal = LoginRefused("the answer of Sym's login names nobody")
        raise refusal

    def _decoded(self, id_token: str) -> jwt.Token:
        try:
            return jwt.decode(id_token, self._keys.get(), algorithms=ALGORITHMS)
        except InvalidKeyIdError:  # the issuer may have changed its keys since the last look
            return jwt.decode(id_token, self._keys.renewed(not_before=KEYS_PAUSE), algorithms=ALGORITHMS)

    def _discover(self) -> Mapping[str, Any]:
        metadata = _json_object(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
        if metadata.get("issuer") != self.issuer:
            raise LoginUnavailable("Sym's login names itself differently: SYM_OIDC_ISSUER must match it exactly")
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            self._require_safe(metadata.get(name), name)
        if metadata.get("end_session_endpoint"):
            self._require_safe(metadata["end_session_endpoint"], "end_session_endpoint")
        return metadata

    def _require_safe(self, url: object, name: str) -> None:
        is_safe = isinstance(url, str) and (
            urlsplit(url).scheme == "https" or (is_loopback(url) and is_loopback(self.issuer))
        )
        if not is_safe:
            raise LoginUnavailable(f"Sym's login publishes no usable {name}")

    def _fetch_keys(self) -> KeySet:
        content = _json_object(self._metadata.get()["jwks_uri"])
        try:
            return KeySet.import_key_set(content)  # type: ignore[arg-type] # checked by joserfc itself
        except (JoseError, ValueError, TypeError, KeyError, AttributeError):
            unusable = LoginUnavailable("Sym's login publishes keys that cannot be used")
        raise unusable


class _Cached(Generic[_T]):
    """One value that is fetched when it is needed, kept for a while, and fetched by one thread at a time.

    A value that cannot be renewed is kept; where there is none, a failure is remembered for some seconds, so that those
    who wait behind it do not each wait for one of their own.
    """

    def __init__(self, fetch: Callable[[], _T], lifetime: float) -> None:
        self._fetch = fetch
        self._lifetime = lifetime
        self._lock = threading.Lock()
        self._held: tuple[float, _T] | None = None
        self._failed: tuple[float, LoginUnavailable] | None = None

    def get(self) -> _T:
        """Return the value, however it was come by.

        Raises:
            LoginUnavailable: there is none.
        """
        return self.renewed(not_before=self._lifetime)

    def renewed(self, *, not_before: float) -> _T:
        """Return the value, fetched anew if it is that many seconds old."""
        with self._lock:
            if self._held is not None and time.monotonic() - self._held[0] < not_before:
                return self._held[1]
            if self._failed is None or time.monotonic() - self._failed[0] >= FAILURE_LIFETIME:
                self._try()
            if self._held is None:
                assert self._failed is not None  # noqa: S101 - a try leaves one or the other
                raise LoginUnavailable(str(self._failed[1]))
            return self._held[1]

    def _try(self) -> None:
        try:
            self._held, self._failed = (time.monotonic(), self._fetch()), None
        except LoginUnavailable as error:
            self._failed = (time.monotonic(), error)


def _json_object(url: str) -> dict[str, Any]:
    """Fetch a JSON object of the issuer's, following no redirect."""
    try:
        response = requests.get(url, timeout=TIMEOUT, allow_redirects=False)
        content = response.json() if response.status_code == requests.codes.ok else None
    except requests.RequestException as error:
        unavailable = LoginUnavailable(f"Sym's login cannot be reached ({type(error).__name__})")
    else:
        if isinstance(content, dict):
            return content
        unavailable = LoginUnavailable(f"Sym's login answered {response.status_code} without what was asked for")
    raise unavailable
