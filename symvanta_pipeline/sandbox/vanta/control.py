"""Starting and steering a stand-in for Vanta from another process: the demo, the bench and the tests.

Belongs here: what it can be told beside what every stand-in can (``sandbox.control``). Does not belong here: its code.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import requests
from pydantic import JsonValue

from symvanta_pipeline.sandbox.control import TIMEOUT, StandIn
from symvanta_pipeline.sandbox.process import start_child
from symvanta_pipeline.sandbox.vanta.config import VantaConfig
from symvanta_pipeline.sandbox.vanta.oauth import SCOPES

REDIRECT_URI = "http://127.0.0.1:3080/vanta/callback"


@dataclass(frozen=True)
class VantaServer(StandIn):
    """A running stand-in; its ``url`` is API host and app host in one.

    Attributes:
        config: what it was started with; ``port`` may be 0, the address is ``url``.
    """

    config: VantaConfig

    def consent(self, tenant: str, *, redirect_uri: str = REDIRECT_URI, scope: str = " ".join(SCOPES)) -> str:
        """Give consent at once, as a person's click on Allow would, and return the authorization code."""
        query = {
            "client_id": self.config.client_id,
            "scope": scope,
            "state": "unchecked",
            "redirect_uri": redirect_uri,
            "source_id": tenant,
            "response_type": "code",
            "auto": "1",
        }
        response = requests.get(f"{self.url}/oauth/authorize", query, timeout=TIMEOUT, allow_redirects=False)
        response.raise_for_status()
        return parse_qs(urlsplit(response.headers["Location"]).query)["code"][0]

    def exchange(self, tenant: str, code: str, *, redirect_uri: str = REDIRECT_URI) -> requests.Response:
        """Ask for tokens with a code. Takes a slot of the token budget."""
        return self.token(grant_type="authorization_code", code=code, source_id=tenant, redirect_uri=redirect_uri)

    def token(self, **content: str) -> requests.Response:
        """Ask for tokens as the registered application. Takes a slot of the token budget."""
        secret = self.config.client_secret.get_secret_value()
        content = {"client_id": self.config.client_id, "client_secret": secret, **content}
        return requests.post(f"{self.url}/oauth/token", json=content, timeout=TIMEOUT)

    def connect(self, tenant: str) -> dict[str, Any]:
        """Connect a tenant and return its token reply. Takes a slot of the token budget."""
        response = self.exchange(tenant, self.consent(tenant))
        response.raise_for_status()
        reply: dict[str, Any] = response.json()
        return reply

    def body(self, seq: int) -> bytes:
        """The body of a PUT in the journal, byte for byte."""
        return self._sandbox("GET", f"journal/{seq}/body").content

    def fault(self, on: str, kind: str, **options: JsonValue) -> None:
        """Switch a fault on (``faults.Fault`` has the options)."""
        self._sandbox("POST", "faults", {"on": on, "kind": kind, **options})

    def accounts(self, tenant: str) -> list[dict[str, Any]]:
        """What is stored for a tenant, soft-deleted accounts included."""
        accounts: list[dict[str, Any]] = self._sandbox("GET", f"accounts/{quote(tenant, safe='')}").json()
        return accounts

    def tokens(self, tenant: str) -> dict[str, list[str]]:
        """Fingerprints of a tenant's ``access`` and ``refresh`` tokens that would be taken now."""
        tokens: dict[str, list[str]] = self._sandbox("GET", f"tokens/{quote(tenant, safe='')}").json()
        return tokens

    def name_tenant(self, tenant: str, name: str) -> None:
        """Give a tenant a display name."""
        self._sandbox("PUT", f"tenants/{quote(tenant, safe='')}", {"name": name})

    def set_installation_url(self, url: str) -> None:
        """Let Connect on the marketplace page lead there."""
        self._sandbox("PUT", "installation", {"url": url})


def start_vanta(config: VantaConfig | None = None, *, port: int | None = None, log: Path | None = None) -> VantaServer:
    """Start a stand-in as a child process and wait until it answers.

    Args:
        config: its settings; Vanta's own figures where not given.
        port: overrides the configured one; 0 takes any free one.
        log: file for its stderr.

    Raises:
        ChildFailedError: it did not start, for instance because the port is taken.
    """
    config = config or VantaConfig()
    if port is not None:
        config = config.model_copy(update={"port": port})
    child = start_child("symvanta_pipeline.sandbox.vanta", config.arguments(), env=config.environment(), log=log)
    return VantaServer(child, config)
