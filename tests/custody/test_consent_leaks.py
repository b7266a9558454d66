"""Consents and what may go wrong with them, under the watch for leaks: an authorization code passes here, and states.

The app and the commands go through the same as processes in ``tests/connect/test_leaks.py``.
"""

import http.client
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import psycopg
import pytest

from symvanta_pipeline.connect import consent
from symvanta_pipeline.connect.consent import Answer, Candidate, Desk, Request
from symvanta_pipeline.connect.office import leaving_desk
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres
from symvanta_pipeline.sandbox.vanta.control import REDIRECT_URI
from symvanta_pipeline.sym.source import SourceUnavailable
from tests.support import leaks
from tests.support.leaks import Canaries
from tests.support.parts import Parts, refusing_connections


class Person:
    """Somebody who gives consents for one organization, and remembers each state and code."""

    def __init__(self, parts: Parts, desk: Desk, organization: UUID) -> None:
        self.parts, self.desk, self.organization = parts, desk, organization
        self.secrets: set[str] = set()
        self.errors: list[BaseException] = []

    def ask(self) -> Request:
        request = self.desk.ask(Candidate(self.organization, "acme"), REDIRECT_URI)
        self.secrets.add(request.state)
        return request

    def answer(self, request: Request, **changes: str) -> Answer:
        """Click on Allow; by hand, since an HTTP library would log the address on this person's behalf."""
        parts = urlsplit(request.url)
        browser = http.client.HTTPConnection(parts.netloc, timeout=10)
        browser.request("GET", f"{parts.path}?{parts.query}&auto=1")
        query = parse_qs(urlsplit(browser.getresponse().headers["Location"]).query)
        browser.close()
        self.secrets.add(query["code"][0])
        return replace(Answer(query["state"][0], query["code"][0]), **changes)

    def consents(self, still_allowed: Callable[[], bool] = lambda: True, **changes: str) -> None:
        request = self.ask()
        try:
            self.desk.take(request, self.answer(request, **changes), actor="terminal:x", still_allowed=still_allowed)
        except Exception as error:  # noqa: BLE001 - each is searched below
            self.errors.append(error)

    def fault(self, on: str, kind: str, **options: object) -> None:
        self.parts.vanta.fault(on, kind, tenant=str(self.organization), **options)  # type: ignore[arg-type] # JSON


@pytest.fixture
def person(parts: Parts, leaks_on_purpose: None) -> Iterator[Person]:
    """Out of the folder's own watch, which does not know the states."""
    del leaks_on_purpose
    organization = parts.sym.organization("acme")
    parts.person(organization, email="canary@acme.example")
    with leaving_desk() as desk:
        yield Person(parts, replace(desk, register=lambda _: None), organization)


@contextmanager
def watched(person: Person, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Watch as every test here is watched, and for the states and codes as such."""

    def canaries(parts: Parts) -> Canaries:
        return leaks.canaries_of(parts, {"state or code": person.secrets})

    with leaks.watched(person.parts, capfd, canaries):
        yield
    assert leaks.find_leaks(canaries(person.parts), leaks.exceptions(person.errors)) == []


def test_every_way_of_consenting_leaks_nothing(person: Person, capfd: pytest.CaptureFixture[str]) -> None:
    with watched(person, capfd):
        person.consents(error="access_denied", code="")
        person.consents(error="server_error canary")
        person.consents(state="another")
        person.consents(code="")
        for kind, options in (
            ("scope", {"scope": "connectors.self:read-resource"}),
            ("no_refresh_token", {}),
            ("status", {"status": 400, "body": {"error": "invalid_grant", "error_description": "Canary Person"}}),
            ("html", {"status": 403}),
        ):
            person.fault("token", kind, **options)
            person.consents()
        person.consents(still_allowed=failing_at(1))
        assert (len(person.errors), person.parts.vanta.tokens(str(person.organization))["refresh"]) == (9, [])
        forget_attempts(person)
        person.consents()
        person.consents()
        assert (len(person.errors), person.parts.token(person.organization).generation) == (9, 2)
        person.desk.leave(person.organization, actor="terminal:x")
        person.consents()
        person.fault("suspend", "status", status=500, body={"error": "Canary Person"})
        assert person.desk.leave(person.organization).trouble == "Vanta cannot answer now (500)"
    assert len(person.secrets) == 24
    marked = [secret for secret in person.secrets if person.parts.vanta.config.secret_marker in secret]
    assert len(marked) == 12


def test_an_outage_between_exchange_and_storing_leaks_nothing(
    person: Person,
    postgres: EmbeddedPostgres,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(consent, "STORE_FOR", 0.3)
    looks = iter(range(9))
    with watched(person, capfd):
        with ExitStack() as outage:

            def away() -> bool:
                if next(looks) == 1:
                    outage.enter_context(refusing_connections(person.parts.ledger_url, postgres))
                return True

            person.consents(still_allowed=away)
        person.parts.ledger = psycopg.connect(person.parts.ledger_url, autocommit=True)
    assert "could not be saved" in str(person.errors)
    assert "cannot be saved yet, attempt 1" in caplog.text
    person.parts.ledger.close()


def test_the_watch_would_find_a_state_and_a_code(person: Person, capfd: pytest.CaptureFixture[str]) -> None:
    answer = person.answer(person.ask())
    for planted in (answer.state, answer.code):
        with pytest.raises(AssertionError, match="a secret or a person was found"), watched(person, capfd):
            consent.log.debug("%s", planted)


def failing_at(look: int) -> Callable[[], bool]:
    """Return a look at the right during which Sym's database goes away."""
    looks = iter(range(9))

    def allowed() -> bool:
        if next(looks) == look:
            raise SourceUnavailable("Sym's database cannot be reached")
        return True

    return allowed


def forget_attempts(person: Person) -> None:
    """Let more consents be tried than in ten minutes: the audit log is put back in time."""
    with person.parts.ledger.transaction():
        person.parts.ledger.execute("SET LOCAL session_replication_role = replica")  # past its own trigger
        person.parts.ledger.execute("UPDATE audit_events SET at = at - interval '1 hour'")
