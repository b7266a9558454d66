"""A consent from asking to a stored token, with the real stand-in and a real ledger."""

import base64
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import psycopg
import pytest
import requests

from symvanta_pipeline import token_store
from symvanta_pipeline.connect import consent
from symvanta_pipeline.connect.consent import (
    Answer,
    Candidate,
    ConsentError,
    Desk,
    NoLongerAllowed,
    NotRegistered,
    NotStored,
    Overtaken,
    Request,
    TooManyAttempts,
)
from symvanta_pipeline.ledger import audit, connections, database
from symvanta_pipeline.ledger.connections import UnusablePartitionKey
from symvanta_pipeline.ledger.live_connection import LiveConnection
from symvanta_pipeline.ledger.locks import consent_lock
from symvanta_pipeline.ledger.vault import KeyRing, StaleGeneration, StoredToken, Token, Vault
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres
from symvanta_pipeline.sandbox.vanta.control import REDIRECT_URI, VantaServer
from symvanta_pipeline.sym.source import SourceUnavailable
from symvanta_pipeline.vanta.budget import RateBudgets
from symvanta_pipeline.vanta.errors import ApplicationRefused, GrantRefused, RateLimited, Unavailable
from symvanta_pipeline.vanta.oauth import Application, TokenReply
from tests.support.parts import meanwhile, refusing_connections, until

KEYRING = KeyRing("k1:" + base64.urlsafe_b64encode(bytes(range(32))).decode())


class Person:
    """Somebody in front of the consent page of one organization."""

    def __init__(self, vanta: VantaServer, url: str) -> None:
        self.vanta = vanta
        self.registered: list[str] = []
        self.ledger = database.connect(url)
        self.live = LiveConnection(url)
        self.candidate = Candidate(uuid4(), "acme")
        budgets = RateBudgets(
            self.live.get, token_per_minute=1000, resource_per_minute=1000, window=timedelta(seconds=0.1)
        )
        secret = vanta.config.client_secret.get_secret_value()
        application = Application(vanta.config.client_id, secret, vanta.url, vanta.url)
        self.desk = Desk(application, budgets, self.live, KEYRING, self.registered.append)

    def ask(self) -> Request:
        return self.desk.ask(self.candidate, REDIRECT_URI)

    def fault(self, kind: str, **options: Any) -> None:
        self.vanta.fault("token", kind, tenant=str(self.candidate.organization_id), **options)

    def fired(self) -> list[int]:
        own = str(self.candidate.organization_id)
        return [fault["fired"] for fault in self.vanta.faults() if fault["tenant"] == own]

    def rows(self) -> tuple[int, int]:
        """How many connections and tokens there are."""
        [row] = self.ledger.execute(
            "SELECT (SELECT count(*) FROM connections), (SELECT count(*) FROM tokens)"
        ).fetchall()
        return row[0], row[1]

    def suspensions(self) -> list[int | None]:
        """How the stand-in answered what it was asked to suspend."""
        own = str(self.candidate.organization_id)
        return [entry["status"] for entry in self.vanta.journal("suspend") if entry["tenant"] == own]

    def works(self, refresh_token: str) -> bool:
        """Whether the stand-in still takes a refresh token."""
        return self.vanta.token(grant_type="refresh_token", refresh_token=refresh_token).status_code == 200

    def close(self) -> None:
        self.ledger.close()
        self.live.__exit__(None, None, None)
        self.desk.application.adapter.close()


@pytest.fixture
def person(vanta: VantaServer, ledger_url: str) -> Iterator[Person]:
    made = Person(vanta, ledger_url)
    yield made
    made.close()


def allow(request: Request) -> Answer:
    """Click on Allow, and read what the redirect brings back."""
    response = requests.get(f"{request.url}&auto=1", timeout=10, allow_redirects=False)
    response.raise_for_status()
    query = parse_qs(urlsplit(response.headers["Location"]).query)
    return Answer(state=query["state"][0], code=query["code"][0])


def test_a_consent_becomes_a_stored_token_and_a_partition(person: Person) -> None:
    request = person.ask()
    held = person.desk.take(request, allow(request), connected_by="auth0|someone")
    assert (held.customer, held.state, held.generation) == ("acme", "connected", 1)
    assert (held.organization_id, held.connected_by) == (person.candidate.organization_id, "auth0|someone")
    assert person.registered == ["acme"]
    token = Vault(person.ledger, KEYRING).load(held.organization_id)
    assert token is not None
    assert (token.generation, token.scope) == (1, "connectors.self:write-resource connectors.self:read-resource")
    entries = [e for e in person.vanta.journal("token") if e["tenant"] == str(held.organization_id)]
    assert [(e["grant_type"], e["status"]) for e in entries] == [("authorization_code", 200)]


def test_the_organizations_id_is_the_source_id(person: Person) -> None:
    request = person.ask()
    query = parse_qs(urlsplit(request.url).query)
    assert query["source_id"] == [str(person.candidate.organization_id)]
    assert query["state"] == [request.state]
    assert query["redirect_uri"] == [REDIRECT_URI]


def test_every_request_has_a_state_of_its_own_and_shows_none(person: Person) -> None:
    requests_made = [person.ask() for _ in range(20)]
    assert len({request.state for request in requests_made}) == 20
    assert all(len(request.state) >= 43 for request in requests_made)
    assert not any(request.state in repr(request) for request in requests_made)
    answer = Answer(state="canary-s", code="canary-c", error="access_denied")
    assert "canary" not in repr(answer)
    assert "KeyRing" not in repr(person.desk)


def test_a_reconnect_keeps_the_key_and_gives_newer_generations(person: Person) -> None:
    request = person.ask()
    person.desk.take(request, allow(request))
    person.candidate = replace(person.candidate, slug="renamed, and no key any more")
    request = person.ask()
    again = person.desk.take(request, allow(request))
    assert (again.customer, again.generation) == ("acme", 2)
    token = Vault(person.ledger, KEYRING).load(again.organization_id)
    assert token is not None
    assert token.generation == 2
    assert person.registered == ["acme", "acme"]


def test_a_key_that_another_organization_holds_is_told_apart_by_the_id(person: Person) -> None:
    request = person.ask()
    person.desk.take(request, allow(request))
    person.candidate = Candidate(UUID("1b2c3d4e-0000-4000-8000-000000000000"), "acme")
    request = person.ask()
    assert person.desk.take(request, allow(request)).customer == "acme-1b2c3d4e"
    assert person.registered == ["acme", "acme-1b2c3d4e"]


@pytest.mark.parametrize("slug", ["", "a,b", "a\nb", "-a", "a...b", "ä", "x" * 201])
def test_nobody_is_asked_under_a_slug_that_cannot_be_a_key(person: Person, slug: str) -> None:
    person.candidate = replace(person.candidate, slug=slug)
    with pytest.raises(UnusablePartitionKey):
        person.ask()


Spoil = Callable[[Answer], Answer]
REFUSALS: list[tuple[Spoil, str]] = [
    (lambda answer: replace(answer, state="another"), "wrong state"),
    (lambda answer: replace(answer, state=""), "wrong state"),
    (lambda answer: replace(answer, state=answer.state + "x"), "wrong state"),
    (lambda answer: replace(answer, state="☃" + answer.state), "wrong state"),
    (lambda answer: replace(answer, state="x", code="", error="access_denied"), "wrong state"),
    (lambda answer: replace(answer, error="access_denied"), "denied"),
    (lambda answer: replace(answer, error="server_error canary"), "reported an error"),
    (lambda answer: replace(answer, code=""), "no authorization code"),
]


@pytest.mark.parametrize(("spoil", "says"), REFUSALS)
def test_an_answer_that_is_no_consent_stores_nothing_and_uses_nothing(person: Person, spoil: Spoil, says: str) -> None:
    request = person.ask()
    answer = allow(request)
    with pytest.raises(ConsentError, match=says) as caught:
        person.desk.take(request, spoil(answer))
    for secret in (answer.code, request.state, "canary"):
        assert secret not in repr(caught.value)
    assert (person.rows(), person.registered) == ((0, 0), [])
    # The code was not even tried: it still works.
    assert person.desk.take(request, answer).state == "connected"


def test_a_used_code_stores_nothing(person: Person) -> None:
    request = person.ask()
    answer = allow(request)
    person.vanta.exchange(str(person.candidate.organization_id), answer.code).raise_for_status()
    with pytest.raises(GrantRefused):
        person.desk.take(request, answer)
    assert (person.rows(), person.registered) == ((0, 0), [])


def test_a_code_of_another_organization_stores_nothing(person: Person) -> None:
    mine = person.ask()
    stranger = person.desk.ask(Candidate(uuid4(), "globex"), REDIRECT_URI)
    with pytest.raises(GrantRefused):
        person.desk.take(mine, replace(allow(stranger), state=mine.state))
    assert (person.rows(), person.registered) == ((0, 0), [])


@pytest.mark.parametrize(
    ("kind", "options", "error", "says"),
    [
        ("scope", {}, ConsentError, "missing: connectors.self:write-resource"),
        ("no_refresh_token", {}, ConsentError, "no refresh token"),
        # The code is used up by then: asking once more shows that nothing is to be had for it.
        ("no_access_token", {}, GrantRefused, "invalid_grant"),
        ("drop_after", {}, GrantRefused, "invalid_grant"),
    ],
)
def test_an_exchange_that_fails_stores_nothing(
    person: Person, kind: str, options: dict[str, int], error: type[Exception], says: str
) -> None:
    request = person.ask()
    person.fault(kind, **options)
    with pytest.raises(error, match=says):
        person.desk.take(request, allow(request))
    assert person.fired() == [1]
    assert (person.rows(), person.registered) == ((0, 0), [])


def test_a_short_outage_is_not_the_persons_trouble(person: Person) -> None:
    request = person.ask()
    person.fault("status", status=503)
    assert person.desk.take(request, allow(request)).state == "connected"
    assert person.fired() == [1]


def test_an_outage_is_told_after_two_attempts(person: Person) -> None:
    request = person.ask()
    person.fault("status", status=503, times=9)
    with pytest.raises(Unavailable, match="503"):
        person.desk.take(request, allow(request))
    assert person.fired() == [2]
    assert (person.rows(), person.registered) == ((0, 0), [])


def test_our_own_application_being_refused_is_told_as_that(person: Person) -> None:
    stranger = replace(person.desk.application, client_secret="wrong")
    person.desk = replace(person.desk, application=stranger)
    request = person.ask()
    with pytest.raises(ApplicationRefused, match="VANTA_CLIENT_SECRET"):
        person.desk.take(request, allow(request))
    assert person.rows() == (0, 0)


def test_a_429_pauses_everybody_and_nobody_waits_for_an_hour(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    request = person.ask()
    answer = allow(request)
    person.fault("status", status=429, retry_after=1800)
    with pytest.raises(RateLimited):
        person.desk.take(request, answer)
    paused = person.ledger.execute("SELECT name, pauses FROM rate_budgets ORDER BY name").fetchall()
    assert paused == [("token_background", 1), ("token_interactive", 1)]
    monkeypatch.setattr(consent, "LONGEST_WAIT", 0.1)
    with pytest.raises(ConsentError, match="rate limit leaves no room for"):
        person.desk.take(request, answer)
    assert person.rows() == (0, 0)


def test_a_registration_that_fails_is_told_and_the_token_is_kept(person: Person) -> None:
    def fails(_: str) -> None:
        raise psycopg.OperationalError("canary")

    person.desk = replace(person.desk, register=fails)
    request = person.ask()
    with pytest.raises(NotRegistered, match="acme is connected") as caught:
        person.desk.take(request, allow(request))
    assert "canary" not in f"{caught.value!r} {caught.value.__cause__!r}"
    assert person.rows() == (1, 1)
    held = connections.by_customer(person.ledger, "acme")
    assert held is not None
    assert held.state == "connected"


def test_a_ledger_that_broke_while_somebody_decided_is_opened_again(person: Person) -> None:
    request = person.ask()
    answer = allow(request)
    pid = person.live.get().info.backend_pid
    assert person.ledger.execute("SELECT pg_terminate_backend(%s, 5000)", [pid]).fetchall() == [(True,)]
    assert person.desk.take(request, answer).state == "connected"


class TestLeaving:
    def connected(self, person: Person) -> UUID:
        request = person.ask()
        return person.desk.take(request, allow(request)).organization_id

    def test_a_token_that_a_run_saves_meanwhile_is_the_one_that_is_ended(
        self, person: Person, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Otherwise a refresh that is under way would leave a live token behind for ever."""
        organization = self.connected(person)
        load = Vault.load
        raced: list[StoredToken] = []
        asked: list[str] = []

        def overtaken(vault: Vault, organization_id: UUID) -> StoredToken | None:
            held = load(vault, organization_id)
            if held and not raced:
                raced.append(held)
                newer = Token("newer access", "newer refresh", held.expires_at, held.scope)
                Vault(person.ledger, KEYRING).replace(organization, newer, expected_generation=held.generation)
            return held

        monkeypatch.setattr(Vault, "load", overtaken)
        monkeypatch.setattr(Application, "suspend", lambda _, token: asked.append(token))
        person.desk.leave(organization)
        monkeypatch.undo()
        assert len(raced) == 1
        assert asked == ["newer refresh"]
        assert Vault(person.ledger, KEYRING).load(organization) is None

    def test_a_refresh_that_comes_later_brings_no_token_back(self, person: Person) -> None:
        organization = self.connected(person)
        held = Vault(person.ledger, KEYRING).load(organization)
        assert held is not None
        person.desk.leave(organization)
        with pytest.raises(StaleGeneration):
            Vault(person.ledger, KEYRING).replace(organization, held, expected_generation=held.generation)

    def test_a_database_that_breaks_while_vanta_is_asked_leaves_no_token(
        self, person: Person, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The wait for a rate slot may take a minute; what was decided before it has to hold by itself."""
        organization = self.connected(person)
        budget = person.desk.budgets.token_interactive

        def broken(*_: object) -> None:
            pid = person.live.get().info.backend_pid
            person.ledger.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
            person.live.get().execute("SELECT 1")

        monkeypatch.setattr(budget, "take", broken)
        departure = person.desk.leave(organization)
        assert departure.trouble == "the pipeline's own database failed (AdminShutdown)"
        assert Vault(person.ledger, KEYRING).load(organization) is None
        assert events(person) == ["connected", "disconnected", "suspension_failed"]

    def test_again_is_written_down_once(self, person: Person) -> None:
        organization = self.connected(person)
        for _ in range(3):
            person.desk.leave(organization, actor="somebody")
        assert events(person) == ["connected", "disconnected"]

    def test_a_token_that_nobody_can_read_is_erased(self, person: Person) -> None:
        organization = self.connected(person)
        person.ledger.execute("UPDATE tokens SET key_id = 'lost' WHERE organization_id = %s", [organization])
        departure = person.desk.leave(organization)
        assert departure.trouble == "its token cannot be read, so that it cannot be named to Vanta"
        assert person.ledger.execute("SELECT key_id FROM tokens").fetchall() == [(None,)]
        assert person.suspensions() == []

    def test_nothing_is_sent_from_the_first_step_on(self, person: Person) -> None:
        """Vanta may take its time to answer; the hourly runs stop before it does."""
        organization = self.connected(person)
        states: list[str] = []

        def look(_: Application, __: str) -> None:
            held = connections.find(person.ledger, organization)
            assert held is not None
            states.append(held.state)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Application, "suspend", look)
            person.desk.leave(organization)
        assert states == ["disconnected"]

    def test_connecting_and_disconnecting_go_one_after_the_other(self, person: Person, ledger_url: str) -> None:
        """A reconnect that overtook a disconnect would have its new grant suspended."""
        organization = self.connected(person)
        request = person.ask()
        answer = allow(request)
        with consent_lock(ledger_url, organization):
            taking = threading.Thread(target=person.desk.take, args=[request, answer])
            taking.start()
            taking.join(0.5)
            assert taking.is_alive()
            assert person.rows() == (1, 1)
        taking.join(20)
        assert not taking.is_alive()
        held = connections.find(person.ledger, organization)
        assert held is not None
        assert held.generation == 2

    def test_who_was_never_connected_is_told(self, person: Person) -> None:
        with pytest.raises(ConsentError, match="never connected"):
            person.desk.leave(uuid4())


class TestTaking:
    def test_who_lost_the_right_while_vanta_was_asked_connects_nothing(self, person: Person) -> None:
        """The wait for a slot and for Vanta takes minutes at worst, and the right is looked at after it once more."""
        request = person.ask()
        allowed = iter([True, False])
        with pytest.raises(NoLongerAllowed):
            person.desk.take(request, allow(request), still_allowed=lambda: next(allowed))
        assert person.rows() == (0, 0)
        assert person.suspensions() == [200]
        assert events(person) == ["consent_failed"]

    def test_who_lost_it_before_asks_nothing(self, person: Person) -> None:
        request = person.ask()
        with pytest.raises(NoLongerAllowed):
            person.desk.take(request, allow(request), still_allowed=lambda: False)
        own = str(person.candidate.organization_id)
        assert [e for e in person.vanta.journal("token") if e["tenant"] == own] == []

    def test_a_slug_that_became_unusable_is_found_before_the_code_is_used(self, person: Person) -> None:
        request = person.ask()
        answer = allow(request)
        unusable = replace(request, candidate=Candidate(person.candidate.organization_id, "not, usable"))
        with pytest.raises(UnusablePartitionKey):
            person.desk.take(unusable, answer)
        own = str(person.candidate.organization_id)
        assert [e for e in person.vanta.journal("token") if e["tenant"] == own] == []
        assert events(person) == ["consent_failed"]

    def test_made_up_codes_do_not_use_up_everybodys_budget(self, person: Person) -> None:
        request = person.ask()
        for _ in range(consent.MOST_ATTEMPTS):
            with pytest.raises(GrantRefused):
                person.desk.take(request, Answer(request.state, "made up"))
        before = len(person.vanta.journal("token"))
        with pytest.raises(TooManyAttempts, match="within 10 minutes"):
            person.desk.take(request, allow(request))
        assert len(person.vanta.journal("token")) == before

    def test_a_token_that_could_not_be_stored_is_ended(self, person: Person) -> None:
        """Nobody keeps it, so nobody should have it."""
        request = person.ask()
        person.fault("scope", scope="connectors.self:read-resource")
        with pytest.raises(ConsentError, match="missing"):
            person.desk.take(request, allow(request))
        assert person.suspensions() == [200]

    def test_a_failed_reconnect_leaves_what_is_stored_and_asks_vanta_to_end_nothing(self, person: Person) -> None:
        """Nobody knows whether a new consent ends the earlier set of tokens at Vanta, nor what a suspension ends.

        By the strictest reading, which the stand-in follows, the stored token is dead with the exchange; were it
        alive, ending the fresh grant could end it.
        """
        request = person.ask()
        organization = person.desk.take(request, allow(request)).organization_id
        before = Vault(person.ledger, KEYRING).load(organization)
        assert before is not None
        again = person.ask()
        person.fault("scope", scope="connectors.self:read-resource")
        with fresh_tokens() as fresh, pytest.raises(ConsentError, match="missing"):
            person.desk.take(again, allow(again))
        assert Vault(person.ledger, KEYRING).load(organization) == before
        held = connections.find(person.ledger, organization)
        assert held is not None
        assert (held.state, held.generation) == ("connected", 1)
        assert person.suspensions() == []
        assert not person.works(before.refresh_token)
        assert [person.works(token) for token in fresh] == [True]
        assert events(person) == ["connected", "consent_failed"]

    @pytest.mark.parametrize("error", [SourceUnavailable("Sym is away"), RuntimeError("canary"), KeyboardInterrupt()])
    def test_whatever_breaks_after_the_exchange_ends_the_fresh_grant_and_is_written_down(
        self, person: Person, error: BaseException
    ) -> None:
        """Otherwise a grant would live on at Vanta that nobody holds, and no line would say so."""
        request = person.ask()

        def break_down() -> None:
            raise error

        with fresh_tokens() as fresh, pytest.raises(type(error)):
            person.desk.take(request, allow(request), still_allowed=between_exchange_and_storing(break_down))
        assert person.suspensions() == [200]
        assert [person.works(token) for token in fresh] == [False]
        assert person.rows() == (0, 0)
        said = "Sym is away" if isinstance(error, SourceUnavailable) else type(error).__name__
        assert details(person) == [("consent_failed", said)]

    def test_what_is_stored_is_written_down_or_neither(self, person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(consent, "STORE_FOR", 0.2)
        request = person.ask()
        record = audit.record

        def fails(connection: psycopg.Connection, event: audit.Event, **told: Any) -> None:
            if event == "connected":
                raise psycopg.OperationalError("canary")
            record(connection, event, **told)

        monkeypatch.setattr(audit, "record", fails)
        with fresh_tokens() as fresh, pytest.raises(NotStored, match="could not be saved"):
            person.desk.take(request, allow(request))
        assert person.rows() == (0, 0)
        assert person.suspensions() == [200]
        assert [person.works(token) for token in fresh] == [False]
        [(event, detail)] = details(person)
        assert (event, "bring the pipeline's own database back" in str(detail)) == ("consent_failed", True)


class TestStoring:
    """What may happen to the ledger while Vanta is asked; by then the code is used up."""

    @pytest.fixture(autouse=True)
    def short_waits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(token_store, "FIRST_SAVE_WAIT", 0.05)

    def test_a_token_waits_for_the_database_and_is_then_stored(
        self, person: Person, ledger_url: str, postgres: EmbeddedPostgres, caplog: pytest.LogCaptureFixture
    ) -> None:
        request = person.ask()
        with ExitStack() as outage:

            def end_it() -> None:
                until(lambda: "cannot be saved yet, attempt 2" in caplog.text, "storing was tried twice")
                outage.close()

            allowed = between_exchange_and_storing(
                lambda: outage.enter_context(refusing_connections(ledger_url, postgres))
            )
            with meanwhile(end_it), fresh_tokens() as fresh:
                held = person.desk.take(request, allow(request), still_allowed=allowed)
        person.ledger = database.connect(ledger_url)
        assert (held.state, held.generation) == ("connected", 1)
        stored = Vault(person.ledger, KEYRING).load(held.organization_id)
        assert stored is not None
        assert (fresh, person.works(stored.refresh_token)) == ([stored.refresh_token], True)
        assert (events(person), person.suspensions()) == (["connected"], [])
        assert "WARNING" in {record.levelname for record in caplog.records if "cannot be saved yet" in record.message}

    def test_a_database_that_stays_away_is_told_and_the_grant_named(
        self,
        person: Person,
        ledger_url: str,
        postgres: EmbeddedPostgres,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Without the database no call may be made either: it keeps the rate budget."""
        monkeypatch.setattr(consent, "STORE_FOR", 0.2)
        request = person.ask()
        with ExitStack() as outage:
            allowed = between_exchange_and_storing(
                lambda: outage.enter_context(refusing_connections(ledger_url, postgres))
            )
            with pytest.raises(NotStored, match="start again"):
                person.desk.take(request, allow(request), still_allowed=allowed)
        person.ledger = database.connect(ledger_url)
        own = person.candidate.organization_id
        assert f"organization {own}: a grant that nobody keeps could not be ended: " in caplog.text
        assert (person.rows(), person.suspensions()) == ((0, 0), [])
        again = person.ask()
        assert person.desk.take(again, allow(again)).generation == 1

    def test_a_commit_whose_answer_was_lost_is_not_taken_for_somebody_elses(
        self, person: Person, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Asked again, the ledger holds a newer consent than before: this very one."""
        connect_customer, lost = connections.connect_customer, list[UUID]()

        def and_lose_the_answer(ledger: psycopg.Connection, *arguments: Any, **named: Any) -> connections.Connection:
            held = connect_customer(ledger, *arguments, **named)
            if not lost:
                lost.append(held.organization_id)
                ledger.execute("COMMIT")
                raise psycopg.OperationalError("canary")
            return held

        monkeypatch.setattr(connections, "connect_customer", and_lose_the_answer)
        request = person.ask()
        held = person.desk.take(request, allow(request))
        assert (lost, held.generation, held.state) == ([held.organization_id], 1, "connected")
        assert person.suspensions() == []

    @pytest.mark.parametrize("already", [False, True], ids=["first", "again"])
    def test_who_was_disconnected_after_the_lock_was_lost_is_not_connected_again(
        self, person: Person, ledger_url: str, *, already: bool
    ) -> None:
        """The lock's connection can die in the minutes of waiting for Vanta, and nobody hears of it."""
        before = person.ask()
        organization = person.desk.take(before, allow(before)).organization_id
        if not already:
            person.desk.leave(organization)
        request = person.ask()

        def lose_the_lock() -> None:
            ended = person.ledger.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                " WHERE application_name = 'symvanta consent lock' AND datname = current_database()"
            )
            assert ended.fetchall() == [(True,)]
            with LiveConnection(ledger_url) as ledger:
                another = replace(person.desk, ledger=ledger)
                if not already:
                    quick = person.ask()
                    with fresh_tokens() as fresh:
                        another.take(quick, allow(quick))
                    assert [person.works(token) for token in fresh] == [True]
                another.leave(organization)

        allowed = between_exchange_and_storing(lose_the_lock)
        with fresh_tokens() as fresh, pytest.raises(Overtaken):
            person.desk.take(request, allow(request), still_allowed=allowed)
        held = connections.find(person.ledger, organization)
        assert held is not None
        assert held.state == "disconnected"
        assert Vault(person.ledger, KEYRING).load(organization) is None
        assert not any(person.works(token) for token in fresh)
        assert events(person)[-2:] == ["disconnected", "consent_failed"]


def between_exchange_and_storing(act: Callable[[], object]) -> Callable[[], bool]:
    """Return a look at the right that does something at that very moment."""
    looks = iter(range(99))

    def allowed() -> bool:
        if next(looks) == 1:
            act()
        return True

    return allowed


@contextmanager
def fresh_tokens() -> Iterator[list[str]]:
    """Look at the refresh tokens that exchanges bring."""
    exchange, fresh = Application.exchange, list[str]()

    def looked_at(application: Application, **arguments: str) -> TokenReply:
        reply = exchange(application, **arguments)
        fresh.append(reply.refresh_token or "")
        return reply

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Application, "exchange", looked_at)
        yield fresh


def events(person: Person) -> list[str]:
    """What was written down about the person's organization."""
    rows = person.ledger.execute(
        "SELECT event FROM audit_events WHERE organization_id = %s ORDER BY id", [person.candidate.organization_id]
    )
    return [event for (event,) in rows]


def details(person: Person) -> list[tuple[str, str | None]]:
    """The same, with what was said of each."""
    rows = person.ledger.execute(
        "SELECT event, detail FROM audit_events WHERE organization_id = %s ORDER BY id",
        [person.candidate.organization_id],
    )
    return rows.fetchall()
