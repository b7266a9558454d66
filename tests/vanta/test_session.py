"""A customer's session against the real stand-in, a real vault and real budgets: its calls, retries and slots.

How it keeps a token alive is in ``tests/custody``.
"""

import logging
from collections.abc import Callable
from typing import Any

import pytest

from symvanta_pipeline.ledger.vault import StoredToken, Vault
from symvanta_pipeline.token_store import NoToken, VaultTokenStore, token_of
from symvanta_pipeline.vanta import session
from symvanta_pipeline.vanta.budget import WouldWait
from symvanta_pipeline.vanta.client import put_accounts
from symvanta_pipeline.vanta.errors import (
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
Make = Callable[[], Any]


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


class Left(VaultTokenStore):
    """A person disconnects between Vanta's reply and its saving; they know of the token before alone."""

    fresh = ""

    def save(self, reply: TokenReply, *, replaces: HeldToken) -> StoredToken | None:
        self.fresh = reply.refresh_token or ""
        assert self._vault().erase(self._id)
        return super().save(reply, replaces=replaces)


@pytest.fixture
def left(customer: Any) -> Left:
    """The store of a customer who leaves."""
    customer.expire()
    return Left(customer.live, customer.keyring, customer.organization_id)


def test_a_token_that_comes_for_who_has_left_is_ended(customer: Any, left: Left) -> None:
    """Otherwise it would live on at Vanta, where nobody but this run ever knew of it."""
    customer.fault("suspend", "named_only")
    with pytest.raises(NoToken):
        customer.put(left)
    assert customer.calls() == ["refresh", "suspend"]
    assert customer.fired() == [1]
    assert customer.vanta.token(grant_type="refresh_token", refresh_token=left.fresh).status_code == 400


def test_a_token_that_could_not_be_ended_is_told(customer: Any, left: Left, caplog: pytest.LogCaptureFixture) -> None:
    customer.fault("suspend", "status", status=500, times=99)
    with pytest.raises(NoToken):
        customer.put(left)
    assert customer.calls() == ["refresh"] + ["suspend"] * ATTEMPTS
    assert f"organization {customer.tenant}: a token that nobody keeps could not be ended" in caplog.text
    assert left.fresh not in caplog.text


def test_a_token_that_comes_for_who_was_connected_again_is_left_alone(customer: Any) -> None:
    """Whether the newer consent ended it, nobody knows; to suspend it could end that one, too."""

    class Again(VaultTokenStore):
        def save(self, reply: TokenReply, *, replaces: HeldToken) -> StoredToken | None:
            customer.consent()
            return super().save(reply, replaces=replaces)

    customer.expire()
    customer.put(Again(customer.live, customer.keyring, customer.organization_id))
    assert customer.calls() == ["refresh", "put"]


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
