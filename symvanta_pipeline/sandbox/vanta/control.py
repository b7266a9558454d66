"""Starting and steering a stand-in for Vanta from another process: the demo, the bench and the tests.

Belongs here: the handle on the child process and its ``/_sandbox`` controls. Does not belong here: the child's code.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, quote, urlsplit

import requests
from pydantic import JsonValue

from symvanta_pipeline.sandbox.process import Child, start_child
from symvanta_pipeline.sandbox.vanta.config import VantaConfig
from symvanta_pipeline.sandbox.vanta.oauth import SCOPES

TIMEOUT = 10.0
REDIRECT_URI = "http://127.0.0.1:3080/vanta/callback"


@dataclass(frozen=True)
class VantaServer:
    """A running stand-in, ended when its ``with`` block or this process ends.

    Attributes:
        child: its process.
        config: what it was started with; ``port`` may be 0, the address is ``url``.
    """

    child: Child
    config: VantaConfig

    @property
    def url(self) -> str:
        """API host and app host in one, without a slash at the end."""
        return self.child.url

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.child.pid

    def stop(self) -> None:
        """End it. Safe to repeat."""
        self.child.stop()

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

    def journal(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """All requests so far, oldest first, or those to one endpoint (``journal.Entry`` has the keys)."""
        entries: list[dict[str, Any]] = self._sandbox("GET", "journal").json()
        return [entry for entry in entries if endpoint in {None, entry["endpoint"]}]

    def body(self, seq: int) -> bytes:
        """The body of a PUT in the journal, byte for byte."""
        return self._sandbox("GET", f"journal/{seq}/body").content

    def clear_journal(self) -> None:
        """Forget all requests."""
        self._sandbox("DELETE", "journal")

    def fault(self, on: str, kind: str, **options: JsonValue) -> None:
        """Switch a fault on (``faults.Fault`` has the options)."""
        self._sandbox("POST", "faults", {"on": on, "kind": kind, **options})

    def faults(self) -> list[dict[str, Any]]:
        """All faults with the number of times that each ``fired``."""
        faults: list[dict[str, Any]] = self._sandbox("GET", "faults").json()
        return faults

    def clear_faults(self) -> None:
        """Switch all faults off."""
        self._sandbox("DELETE", "faults")

    def accounts(self, tenant: str) -> list[dict[str, Any]]:
        """What is stored for a tenant, soft-deleted accounts included."""
        accounts: list[dict[str, Any]] = self._sandbox("GET", f"accounts/{quote(tenant, safe='')}").json()
        return accounts

    def name_tenant(self, tenant: str, name: str) -> None:
        """Give a tenant a display name."""
        self._sandbox("PUT", f"tenants/{quote(tenant, safe='')}", {"name": name})

    def set_installation_url(self, url: str) -> None:
        """Let Connect on the marketplace page lead there."""
        self._sandbox("PUT", "installation", {"url": url})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _sandbox(self, method: str, path: str, content: JsonValue = None) -> requests.Response:
        response = requests.request(method, f"{self.url}/_sandbox/{path}", json=content, timeout=TIMEOUT)
        response.raise_for_status()
        return response


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
