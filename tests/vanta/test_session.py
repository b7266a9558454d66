"""A customer's session against the real stand-in, a real vault and real budgets."""

import logging
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from symvanta_pipeline.ledger import database
from symvanta_pipeline.ledger.locks import customer_lock
from symvanta_pipeline.ledger.vault import StoredToken, TokenUnreadable, Vault
from symvanta_pipeline.sandbox.vanta.journal import fingerprint
from symvanta_pipeline.token_store import NoToken, VaultTokenStore, token_of
from symvanta_pipeline.vanta import oauth, session
from symvanta_pipeline.vanta.budget import WouldWait
from symvanta_pipeline.vanta.client import put_accounts
from symvanta_pipeline.vanta.errors import (
    AccessTokenRefused,
    ApplicationRefused,
    BodyRefused,
    GrantRefused,
    RateLimited,
    Refused,
    Unavailable,
    VantaError,
    WrongOrganization,
)
from symvanta_pipeline.vanta.oauth import TokenReply
from symvanta_pipeline.vanta.session import ATTEMPTS, HeldToken

# By the fixture `new_customer`; test modules cannot import one another.
PATH = "/v1/resources/user_account/sync_all"
SCRIPT = Path(__file__).with_name("session_process.py")
Make = Callable[[], Any]


class Meddled(VaultTokenStore):
    """The vault, with something that happens in it just before or after one step; each happens once."""

    def __init__(
        self,
        customer: Any,
        *,
        after_load: Callable[[], object] | None = None,
        before_save: Callable[[], object] | None = None,
    ) -> None:
        super().__init__(customer.live, customer.keyring, customer.organization_id)
        self._due: dict[str, Callable[[], object] | None] = {"after_load": after_load, "before_save": before_save}

    def load(self) -> StoredToken:
        token = super().load()
        self._happen("after_load")
        return token

    def save(self, reply: TokenReply, *, replaces: HeldToken) -> StoredToken | None:
        self._happen("before_save")
        return super().save(reply, replaces=replaces)

    def happened(self, step: str) -> bool:
        return self._due[step] is None

    def _happen(self, step: str) -> None:
        action, self._due[step] = self._due[step], None
        if action:
            action()


@pytest.mark.parametrize("left", [{"hours": 1}, {"minutes": 5, "seconds": 20}], ids=["new", "outside the margin"])
def test_a_valid_token_is_used_as_it_is(customer: Any, left: dict[str, float]) -> None:
    customer.expire(**left)
    response, token = customer.put()
    assert response.json() == {"success": True}
    assert (customer.calls(), token.generation) == (["put"], 1)


@pytest.mark.parametrize("left", [{"minutes": 4, "seconds": 59}, {"seconds": 0}, {"hours": -3}], ids=str)
def test_a_token_that_ends_soon_is_refreshed_once_and_saved_before_it_is_used(
    customer: Any, left: dict[str, float]
) -> None:
    old = customer.stored()
    customer.expire(**left)
    at_send: list[tuple[int, list[str]]] = []

    def look() -> None:
        # Over another connection: what it sees is committed.
        at_send.append((customer.stored().generation, customer.calls()))

    _, token = customer.put(before_send=look)
    saved = customer.stored()
    assert at_send == [(2, ["refresh"])]
    assert customer.calls() == ["refresh", "put"]
    assert customer.puts()[0]["token_fingerprint"] == fingerprint(saved.access_token) != fingerprint(old.access_token)
    assert saved.refresh_token != old.refresh_token
    assert saved.expires_at - datetime.now(UTC) > timedelta(minutes=55)
    assert token.generation == 2
    customer.put()
    assert customer.calls() == ["refresh", "put", "put"]


def test_a_reply_without_a_refresh_token_keeps_the_one_before(customer: Any) -> None:
    old = customer.stored()
    customer.expire()
    customer.fault("token", "no_refresh_token")
    customer.put()
    assert customer.fired() == [1]
    assert customer.stored().refresh_token == old.refresh_token
    assert customer.stored().access_token != old.access_token


def test_a_refused_access_token_is_refreshed_once_and_the_call_repeated(customer: Any) -> None:
    customer.fault("put", "status", status=401)
    response, token = customer.put()
    assert (response.status_code, token.generation) == (200, 2)
    assert customer.calls() == ["put", "refresh", "put"]
    assert customer.fired() == [1]
    first, second = customer.puts()
    assert first["sha256"] == second["sha256"]
    assert first["token_fingerprint"] != second["token_fingerprint"] == fingerprint(customer.stored().access_token)


def test_a_second_refusal_ends_it(customer: Any) -> None:
    customer.fault("put", "status", status=401, times=99)
    with pytest.raises(AccessTokenRefused):
        customer.put()
    assert customer.calls() == ["put", "refresh", "put"]
    assert customer.state() == "connected"


def test_a_refused_access_token_that_somebody_renewed_is_not_renewed_again(customer: Any) -> None:
    store = Meddled(customer, after_load=customer.consent)
    _, token = customer.put(store)
    assert customer.calls() == ["put", "put"]
    assert [entry["status"] for entry in customer.puts()] == [401, 200]
    assert token.generation == 2


FAILURES: list[tuple[str, dict[str, Any]]] = [
    ("status", {"status": 500}),
    ("status", {"status": 503}),
    ("status", {"status": 504}),
    ("html", {"status": 502}),
    ("drop_before", {}),
    ("drop_after", {}),
    ("slow_before", {"delay": 2, "times": 1}),
    ("slow", {"delay": 2, "times": 1}),
]


@pytest.mark.parametrize(("kind", "options"), FAILURES, ids=str)
def test_what_may_pass_is_tried_again_with_the_same_bytes(
    customer: Any, kind: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "delay" in options:
        monkeypatch.setattr(session, "TIMEOUT", (5.0, 1.0))
    sent: list[int] = []
    options = {"times": ATTEMPTS - 1} | options
    customer.fault("put", kind, **options)
    response, _ = customer.put(before_send=lambda: sent.append(1))
    assert response.json() == {"success": True}
    assert customer.fired() == [options["times"]]
    assert len({entry["sha256"] for entry in customer.puts()}) == 1
    assert customer.calls() == ["put"] * len(sent) == ["put"] * (options["times"] + 1)


@pytest.mark.parametrize(("kind", "options"), [FAILURES[1], FAILURES[4]], ids=str)
def test_what_does_not_pass_is_given_up(customer: Any, kind: str, options: dict[str, Any]) -> None:
    customer.fault("put", kind, times=99, **options)
    with pytest.raises(Unavailable):
        customer.put()
    assert customer.fired() == [ATTEMPTS]
    assert customer.calls() == ["put"] * ATTEMPTS


@pytest.mark.parametrize(
    ("kind", "options", "error"),
    [
        ("status", {"status": 400}, BodyRefused),
        ("status", {"status": 403}, Refused),
        ("html", {"status": 403}, Refused),
        ("status", {"status": 404}, Refused),
        ("status", {"status": 413}, Refused),
        ("redirect", {"status": 301}, Refused),
        ("redirect", {"status": 307}, Refused),
        ("redirect", {"status": 308}, Refused),
    ],
    ids=str,
)
def test_what_will_not_pass_is_not_tried_again(
    customer: Any, kind: str, options: dict[str, Any], error: type[VantaError]
) -> None:
    if kind == "redirect":
        options = options | {"location": f"{customer.vanta.url}{PATH}"}
    customer.fault("put", kind, times=99, **options)
    with pytest.raises(error):
        customer.put()
    assert customer.calls() == ["put"]
    assert customer.fired() == [1]


@pytest.mark.parametrize("kind", ["status", "html", "drop_before"])
def test_a_token_endpoint_that_fails_for_a_moment(customer: Any, kind: str) -> None:
    customer.expire()
    customer.fault("token", kind, times=ATTEMPTS - 1)
    customer.put()
    assert customer.calls() == ["refresh"] * ATTEMPTS + ["put"]
    assert customer.fired() == [ATTEMPTS - 1]


def test_a_token_endpoint_that_stays_away_costs_nobody_their_connection(customer: Any) -> None:
    customer.expire()
    customer.fault("token", "status", status=503, body={"error": "invalid_grant"}, times=ATTEMPTS)
    with pytest.raises(Unavailable):
        customer.put()
    assert customer.calls() == ["refresh"] * ATTEMPTS
    customer.put()
    assert customer.calls() == ["refresh"] * (ATTEMPTS + 1) + ["put"]


@pytest.mark.parametrize("kind", ["drop_after", "no_access_token", "invalid_json", "slow"])
def test_a_reply_that_was_lost_after_the_rotation_is_asked_for_again(
    customer: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer.expire()
    monkeypatch.setattr(oauth, "TIMEOUT", (5.0, 1.0))
    customer.fault("token", kind, delay=2)
    customer.put()
    assert customer.calls() == ["refresh", "refresh", "put"]
    assert customer.fired() == [1]
    assert customer.stored().generation == 2
    assert customer.puts()[0]["token_fingerprint"] == fingerprint(customer.stored().access_token)


def test_a_rotation_that_a_killed_process_lost_is_recovered_by_the_next_one(customer: Any) -> None:
    customer.expire()
    customer.application.refresh(customer.stored().refresh_token)  # and nobody saves what it says
    customer.put()
    assert customer.calls() == ["refresh", "refresh", "put"]
    assert customer.stored().generation == 2


def pauses(customer: Any, *names: str) -> list[tuple[int, float]]:
    """How often each budget was paused, and for how many seconds from now."""
    rows = customer.ledger.execute(
        "SELECT pauses, extract(epoch FROM paused_until - clock_timestamp())::float8 FROM rate_budgets "
        "WHERE name = ANY(%s) ORDER BY name",
        [list(names)],
    ).fetchall()
    return [(int(count), float(seconds or 0)) for count, seconds in rows]


def test_a_short_pause_is_waited_out_by_everybody(new_customer: Make) -> None:
    customer, other = new_customer(), new_customer()
    customer.fault("put", "status", status=429, retry_after=1)
    customer.put()
    assert customer.calls() == ["put", "put"]
    [(count, left)] = pauses(customer, "resource")
    assert count == 1
    assert left <= 0  # the second attempt waited until then
    other.put()
    assert other.calls() == ["put"]


@pytest.mark.parametrize(
    ("options", "seconds"),
    [({"retry_after": 300}, 300), ({"retry_after": 300, "retry_after_form": "date"}, 300), ({}, 60)],
    ids=str,
)
def test_a_long_pause_gives_the_customer_up_and_holds_everybody_back(
    new_customer: Make, options: dict[str, Any], seconds: float
) -> None:
    customer, other = new_customer(), new_customer()
    customer.fault("put", "status", status=429, **options)
    for waiting in (customer, other):
        with pytest.raises(WouldWait) as caught:
            waiting.put()
        assert seconds - 30 < caught.value.seconds <= seconds
    assert (customer.calls(), other.calls()) == (["put"], [])
    [(count, left)] = pauses(customer, "resource")
    assert count == 1
    assert seconds - 30 < left <= seconds


def test_a_429_of_the_token_endpoint_pauses_people_too(customer: Any) -> None:
    customer.expire()
    customer.fault("token", "status", status=429, retry_after=300)
    with pytest.raises(WouldWait):
        customer.put()
    assert customer.calls() == ["refresh"]
    assert customer.stored().generation == 1
    assert [count for count, _ in pauses(customer, "token_background", "token_interactive")] == [1, 1]
    with pytest.raises(WouldWait):
        customer.budgets.token_interactive.take(max_wait=10)


def test_a_429_that_never_ends_is_given_up(customer: Any) -> None:
    customer.fault("put", "status", status=429, retry_after=0, times=99)
    with pytest.raises(RateLimited):
        customer.put()
    assert customer.calls() == ["put"] * ATTEMPTS


def test_a_refused_grant_names_its_generation_and_nothing_is_sent(customer: Any) -> None:
    customer.expire()
    customer.fault("token", "revoke")
    with pytest.raises(GrantRefused) as caught:
        customer.put()
    assert caught.value.token_generation == 1
    assert customer.calls() == ["refresh"]
    assert customer.stored().generation == 1


def test_a_refused_grant_counts_only_if_the_vault_holds_nothing_newer(customer: Any) -> None:
    customer.expire()
    # A person reconnects while this process is about to refresh: the old refresh token is dead by then.
    store = Meddled(customer, after_load=customer.consent)
    _, token = customer.put(store)
    assert store.happened("after_load")
    assert customer.calls() == ["refresh", "put"]
    assert (token.generation, customer.state()) == (2, "connected")
    assert customer.puts()[0]["token_fingerprint"] == fingerprint(customer.stored().access_token)


def test_our_own_application_being_refused_is_no_refused_grant(customer: Any) -> None:
    customer.expire()
    customer.fault("token", "status", status=401, body={"error": "invalid_client"})
    with pytest.raises(ApplicationRefused):
        customer.put()
    assert customer.calls() == ["refresh"]


def test_a_database_that_is_away_for_a_moment_costs_no_token(customer: Any, caplog: pytest.LogCaptureFixture) -> None:
    customer.expire()
    terminated: list[tuple[bool]] = []

    def terminate() -> None:
        pid = customer.live.get().info.backend_pid
        terminated.extend(customer.ledger.execute("SELECT pg_terminate_backend(%s, 5000)", [pid]).fetchall())

    with caplog.at_level(logging.WARNING):
        _, token = customer.put(Meddled(customer, before_save=terminate))
    assert terminated == [(True,)]
    assert "cannot be saved yet, attempt 1" in caplog.text
    assert customer.calls() == ["refresh", "put"]
    assert token.generation == customer.stored().generation == 2
    assert customer.stored().access_token not in caplog.text


def test_a_save_whose_answer_was_lost_is_found_to_be_done(customer: Any) -> None:
    customer.expire()

    class Lost(VaultTokenStore):
        """The database commits, and its answer gets lost."""

        def save(self, reply: TokenReply, *, replaces: HeldToken) -> StoredToken | None:
            generation = Vault(customer.ledger, customer.keyring).replace(
                customer.organization_id, token_of(reply), expected_generation=replaces.generation
            )
            assert generation == 2
            return super().save(reply, replaces=replaces)

    _, token = customer.put(Lost(customer.live, customer.keyring, customer.organization_id))
    assert token.generation == 2
    assert customer.calls() == ["refresh", "put"]


def test_a_newer_token_in_the_vault_is_used_and_not_overwritten(customer: Any) -> None:
    customer.expire()
    # A person's callback is served between the refresh and its save; at Vanta theirs is the newer authorization.
    store = Meddled(customer, before_save=customer.consent)
    _, token = customer.put(store)
    assert store.happened("before_save")
    assert token.generation == customer.stored().generation == 2
    assert customer.calls() == ["refresh", "put"]
    assert customer.puts()[0]["token_fingerprint"] == fingerprint(customer.stored().access_token)


def test_a_customer_who_was_disconnected_meanwhile_is_not_sent(customer: Any) -> None:
    customer.expire()
    erase = lambda: Vault(customer.ledger, customer.keyring).erase(customer.organization_id)  # noqa: E731
    with pytest.raises(NoToken):
        customer.put(Meddled(customer, before_save=erase))
    assert customer.calls() == ["refresh"]


def test_a_body_never_meets_another_customers_session(new_customer: Make) -> None:
    one, two = new_customer(), new_customer()
    one.expire()
    with pytest.raises(WrongOrganization, match=two.tenant) as caught:
        put_accounts(one.session(), PATH, two.body(), before_send=lambda: pytest.fail("about to send"))
    assert one.tenant in str(caught.value)
    assert (one.calls(), two.calls()) == ([], [])
    # The same call with the right body goes through: it is the swap that was refused.
    put_accounts(one.session(), PATH, one.body(), before_send=lambda: None)
    assert one.calls() == ["refresh", "put"]


def test_another_customers_token_in_the_vault_is_never_used(new_customer: Make) -> None:
    one, two = new_customer(), new_customer()
    swapped = one.ledger.execute(
        "UPDATE tokens SET key_id = o.key_id, access_token = o.access_token, refresh_token = o.refresh_token "
        "FROM tokens AS o WHERE tokens.organization_id = %s AND o.organization_id = %s",
        [two.organization_id, one.organization_id],
    )
    assert swapped.rowcount == 1
    for left in ({"hours": 1}, {"hours": -1}):
        two.expire(**left)
        with pytest.raises(TokenUnreadable, match=two.tenant):
            put_accounts(two.session(), PATH, two.body(), before_send=lambda: pytest.fail("about to send"))
    assert (one.calls(), two.calls()) == ([], [])


def test_a_brake_right_before_the_call_keeps_it_from_being_made(customer: Any) -> None:
    class LockLost(Exception):
        pass

    def lost() -> None:
        raise LockLost

    with pytest.raises(LockLost):
        customer.put(before_send=lost)
    assert customer.calls() == []


def spent(customer: Any) -> dict[str, int]:
    return dict(customer.ledger.execute("SELECT name, cardinality(spent) FROM rate_budgets").fetchall())


def reserved(customer: Any) -> set[str]:
    return {row[0] for row in customer.ledger.execute("SELECT name FROM rate_budgets").fetchall()}


def test_every_attempt_takes_a_slot(customer: Any) -> None:
    customer.expire()
    customer.fault("token", "status", status=503)
    customer.fault("put", "status", status=503, times=2)
    customer.put()
    assert customer.calls() == ["refresh"] * 2 + ["put"] * 3
    assert spent(customer) == {"token_background": 2, "resource": 3}


@pytest.mark.parametrize(
    ("left", "names"),
    [({"hours": 1}, {"resource"}), ({"seconds": 0}, {"resource", "token_background"})],
    ids=["valid", "due"],
)
def test_the_slots_that_are_expected_are_taken_beforehand(
    customer: Any, left: dict[str, float], names: set[str]
) -> None:
    customer.expire(**left)
    prepared = customer.session()
    prepared.prepare()
    prepared.prepare()
    assert reserved(customer) == names
    assert customer.calls() == []
    slots = customer.ledger.execute("SELECT cardinality(slots) FROM rate_budgets").fetchall()
    assert set(slots) == {(1,)}
    prepared.call("PUT", PATH, payload=customer.body().payload, before_send=lambda: None)
    assert customer.ledger.execute("SELECT cardinality(slots) FROM rate_budgets").fetchall() == slots
    assert spent(customer) == dict.fromkeys(names, 1)


def test_the_calls_of_all_customers_share_one_kept_connection(new_customer: Make) -> None:
    one, two = new_customer(), new_customer()
    for customer in (one, two, one):
        customer.expire()
        customer.put()
    pools = one.application.adapter.poolmanager.pools
    [pool] = [pools[key] for key in pools.keys()]  # noqa: SIM118 - no dict, and iterating it is not allowed
    assert (pool.num_connections, pool.num_requests) == (1, 6)


def test_no_failure_tells_a_token(customer: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    customer.expire()
    told = []
    for on, kind, options in (
        ("token", "status", {"status": 400}),
        ("token", "redirect", {}),
        ("put", "status", {"status": 400}),
        ("put", "redirect", {}),
    ):
        customer.fault(on, kind, **options)
        with pytest.raises(VantaError) as caught:
            customer.put()
        told.append(f"{caught.value!r} {caught.value.__cause__!r}")
    assert customer.fired() == [1, 1, 1, 1]
    token = customer.stored()
    for secret in (token.access_token, token.refresh_token, customer.application.client_secret):
        assert secret not in "".join(told)
        assert secret not in caplog.text


def test_two_processes_refresh_a_customer_once(customer: Any, ledger_url: str) -> None:
    customer.expire()
    command = [sys.executable, str(SCRIPT), ledger_url, customer.vanta.url, customer.tenant]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        with customer_lock(ledger_url, customer.organization_id):
            for process in processes:
                assert process.stdout is not None
                assert process.stdout.readline() == "busy\n"
            assert customer.calls() == []
        generations = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert generations == ["2\n", "2\n"]
    assert sorted(customer.calls()) == ["put", "put", "refresh"]
    assert customer.stored().generation == 2


def test_a_save_gives_up_in_the_end(
    customer: Any, ledger_url: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr("symvanta_pipeline.token_store.SAVE_FOR", 0.2)
    customer.expire()
    name = psycopg.conninfo.conninfo_to_dict(ledger_url)["dbname"]

    def allow_connections(*, allowed: bool) -> None:
        with database.connect(ledger_url.replace(f"/{name}", "/postgres")) as admin:
            admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS {allowed}'.encode())

    def lock_out() -> None:
        allow_connections(allowed=False)
        customer.ledger.execute("SELECT pg_terminate_backend(%s, 5000)", [customer.live.get().info.backend_pid])

    request.addfinalizer(lambda: allow_connections(allowed=True))
    with pytest.raises((psycopg.OperationalError, database.LedgerUnavailable)):
        customer.put(Meddled(customer, before_save=lock_out))
    assert customer.calls() == ["refresh"]
