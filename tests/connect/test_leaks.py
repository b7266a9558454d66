"""Nothing of a secret or a person is left behind by connecting: the app and the commands as processes, all at DEBUG.

Beside what a person's browser has to be given, which is searched for everywhere else: logs, tables, files.
"""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest
import requests

from symvanta_pipeline.connect.cookies import Cookies
from symvanta_pipeline.ledger.vault import KeyRing
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres
from symvanta_pipeline.sandbox.vanta.config import VantaConfig
from tests.support import leaks
from tests.support.leaks import Canaries
from tests.support.site import KEYS, PATIENCE, Site, running_site
from tests.support.visitor import Page, Visitor

ROOT = Path(__file__).parents[2]
NOISY = "tests.support.noisy"
MARKER = f"Marked{secrets.token_hex(8)}"  # in every token and code of the stand-in for Vanta
VANTA_SECRET, LOGIN_SECRET = "vcs_canary_77e1", "login-canary-77e1"
NAME = 'Łucja "Canary" O\'Neill'
SHORTEST = 8  # characters of a value that is looked for


@dataclass
class Seen:
    """What browsers were given: codes, states, cookies; none of it belongs anywhere else."""

    values: dict[str, set[str]] = field(default_factory=dict)

    def keep(self, kind: str, value: str) -> None:
        if len(value) >= SHORTEST:
            self.values.setdefault(kind, set()).add(value)

    def visitor(self) -> Visitor:
        """Return a browser whose every answer is looked at."""
        made = Visitor()
        made.http.hooks["response"].append(self._look)
        return made

    def address(self, url: str) -> None:
        for name, value in parse_qsl(urlsplit(url).query):
            if name in ("code", "state", "nonce", "code_challenge"):
                self.keep(f"{name} in an address", value)

    def _look(self, answer: requests.Response, **_: object) -> None:
        self.address(answer.url)
        self.address(answer.headers.get("Location", ""))
        for name, value in answer.cookies.items():
            self.keep("cookie", value)
            if name == "symvanta":
                self.keep("session id", Cookies(KeyRing(KEYS), secure=False).session_id({name: value}) or "")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def noisy_site(
    postgres: EmbeddedPostgres, sym_template: str, symvanta_template: str, dagster_template: str, folder: Path
) -> Iterator[Site]:
    templates = {
        "SYM_DATABASE_URL": sym_template,
        "SYMVANTA_DATABASE_URL": symvanta_template,
        "DAGSTER_POSTGRES_URL": dagster_template,
    }
    vanta = VantaConfig(
        client_secret=VANTA_SECRET,
        secret_marker=MARKER,
        token_requests_per_minute=1000,
        resource_requests_per_minute=1000,
    )
    with running_site(
        postgres,
        templates,
        folder,
        vanta_config=vanta,
        login_secret=LOGIN_SECRET,
        command=NOISY,
        PYTHONPATH=str(ROOT),
        SYMVANTA_DATA_URL=str(folder / "data"),
    ) as running:
        yield running


def command(site: Site, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", NOISY, *arguments],
        env={**os.environ, **site.env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def go_through_everything(site: Site, seen: Seen, subject: str, slug: str) -> None:
    """Deny, fail, connect, connect again, disconnect, be refused, sign out: what people do with the pages."""

    def consent(visitor: Visitor, button: str) -> Page:
        return visitor.submit(visitor.get(f"{site.url}/orgs/{slug}/vanta"), button)

    visitor = seen.visitor()
    page = visitor.get(f"{site.url}/orgs/{slug}/vanta")
    assert site.sign_in(visitor, page, subject).status == 200
    assert visitor.submit(consent(visitor, "Connect Vanta"), "Deny").heading == "You did not allow it"
    site.vanta.fault("token", "scope", scope="connectors.self:read-resource")
    site.vanta.fault("token", "drop_after")
    site.vanta.fault("token", "status", status=400, body={"error": "invalid_grant", "error_description": NAME})
    for _ in range(2):  # the second meets two of them: it is tried twice
        assert visitor.submit(consent(visitor, "Connect Vanta"), "Allow").heading == "Vanta was not connected"
    assert [fault["fired"] for fault in site.vanta.faults()] == [1, 1, 1]
    for button in ("Connect Vanta", "Reconnect Vanta"):
        assert "first sync is running" in visitor.submit(consent(visitor, button), "Allow").text
    question = visitor.get(f"{site.url}/orgs/{slug}/vanta?confirm=disconnect")
    assert "Disconnected" in visitor.submit(question, "Disconnect Vanta").text
    assert "first sync is running" in visitor.submit(consent(visitor, "Reconnect Vanta"), "Allow").text
    stranger = site.stranger()
    seen.keep("subject", stranger)
    other = seen.visitor()
    assert site.sign_in(other, other.get(f"{site.url}/orgs/{slug}/vanta"), stranger).status == 403
    assert other.get(f"{site.url}/vanta/callback?state=invented-canary&code=invented-canary").status == 400
    site.login.fault("wrong_nonce")
    assert site.sign_in(other, other.get(f"{site.url}/auth/login?again"), subject).status == 403
    visitor.submit(visitor.get(f"{site.url}/orgs/{slug}/vanta"), "Sign out")


def connect_at_a_terminal(site: Site, seen: Seen, slug: str, *, decision: str) -> tuple[str, str]:
    """Run the command and decide in a browser; gives what it printed beside the address, and its standard error."""
    process = command(site, "connect", slug, "--no-browser", "--port", "0")
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        seen.address(url)
        visitor = seen.visitor()
        visitor.submit(visitor.get(url), decision)
        return process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()


def test_connecting_with_everything_logged_leaks_nothing(noisy_site: Site, folder: Path) -> None:
    site, seen = noisy_site, Seen()
    organization, slug = site.organization()
    subject = site.admin(organization, name=NAME, email=f"canary@{slug}.example")
    go_through_everything(site, seen, subject, slug)
    printed = {
        f"symvanta connect, {decision}": connect_at_a_terminal(site, seen, slug, decision=decision)
        for decision in ("Deny", "Allow")
    }
    printed["symvanta disconnect"] = command(site, "disconnect", slug).communicate(timeout=PATIENCE)

    connection = site.connection(organization)
    assert connection is not None
    assert (connection.state, connection.generation) == ("disconnected", 4)
    canaries = Canaries(
        {
            "code or token of Vanta's": [MARKER],
            "client secret": [VANTA_SECRET, LOGIN_SECRET],
            "key": [KEYS.partition(":")[2]],
            "name": [NAME],
            "e-mail": [f"canary@{slug}.example"],
            "subject": [subject],
            "invented": ["invented-canary"],
            **seen.values,
        }
    )
    assert {"code in an address", "state in an address", "cookie", "session id"} <= set(seen.values)
    log = site.log.read_text()
    # The logs are the right ones, and loud; and a code is found where one is.
    for word in ("POST /oauth/token", "GET callback 303", '"event": "reconnected"', "connection attempt: host"):
        assert word in log
    for stdout, stderr in printed.values():
        assert stdout in ("", f"{slug} is disconnected: nothing is sent any more, its history stays.\n")
        assert "/oauth/token" in stderr or "consent was denied" in stderr
    assert leaks.find_leaks(canaries, leaks.text("here", json.dumps(sorted(seen.values["code in an address"]))))

    found = leaks.find_leaks(
        canaries,
        [
            *(place for what, said in printed.items() for place in leaks.text(what, *said)),
            *leaks.tables(site.env["SYMVANTA_DATABASE_URL"]),
            *leaks.tables(site.env["DAGSTER_POSTGRES_URL"]),
            *leaks.files(folder, apart_from=[folder / "data"]),
        ],
    )
    assert not found, "\n".join(found)
