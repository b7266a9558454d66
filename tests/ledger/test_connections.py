from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import psycopg
import pytest

from symvanta_pipeline.ledger import connections, database
from symvanta_pipeline.ledger.connections import (
    Connection,
    UnusablePartitionKey,
    connect_customer,
    mark_disconnected,
    park,
)
from symvanta_pipeline.ledger.vault import KeyRing, Token, Vault

MakeToken = Callable[[str], Token]
Connect = Callable[..., Connection]

FIRST = UUID("aaaaaaaa-0000-4000-8000-000000000001")
SECOND = UUID("bbbbbbbb-0000-4000-8000-000000000002")


def test_a_first_connection(ledger: psycopg.Connection, keyring: KeyRing, token: MakeToken) -> None:
    made = connect_customer(ledger, keyring, FIRST, "acme", token("a"), connected_by="auth0|1")
    assert (made.organization_id, made.customer, made.state, made.generation) == (FIRST, "acme", "connected", 1)
    assert (made.connected_by, made.parked_at, made.disconnected_at) == ("auth0|1", None, None)
    assert connections.find(ledger, FIRST) == connections.by_customer(ledger, "acme") == made
    held = Vault(ledger, keyring).load(FIRST)
    assert held is not None
    assert held.generation == 1


def test_nobody_is_none(ledger: psycopg.Connection) -> None:
    assert connections.find(ledger, FIRST) is None
    assert connections.by_customer(ledger, "acme") is None
    assert connections.all_connections(ledger) == []


def test_a_reconnect_renews_both_and_keeps_the_key(
    ledger: psycopg.Connection, keyring: KeyRing, connected: Connect
) -> None:
    first = connected("acme", FIRST)
    assert park(ledger, FIRST, "the grant was refused", token_generation=1)
    again = connected("renamed", FIRST)
    assert (again.customer, again.generation, again.state) == ("acme", 2, "connected")
    assert (again.parked_at, again.parked_reason) == (None, None)
    assert again.connected_at > first.connected_at
    held = Vault(ledger, keyring).load(FIRST)
    assert held is not None
    assert (held.generation, held.access_token) == (2, "vat_renamed")


def test_a_renamed_slug_that_could_not_be_a_key_can_still_reconnect(connected: Connect) -> None:
    connected("acme", FIRST)
    assert connected("no, comma", FIRST).customer == "acme"


def test_a_taken_key_gets_the_id_behind_it(ledger: psycopg.Connection, connected: Connect) -> None:
    assert connected("acme", FIRST).customer == "acme"
    assert connected("acme", SECOND).customer == "acme-bbbbbbbb"
    assert connected("acme", SECOND).customer == "acme-bbbbbbbb"
    assert [c.customer for c in connections.all_connections(ledger)] == ["acme", "acme-bbbbbbbb"]


def test_when_that_is_taken_too_nothing_is_stored(ledger: psycopg.Connection, connected: Connect) -> None:
    connected("acme", FIRST)
    connected("acme-bbbbbbbb", uuid4())
    with pytest.raises(UnusablePartitionKey, match=f"{SECOND}.*both taken"):
        connected("acme", SECOND)
    assert connections.find(ledger, SECOND) is None


def test_slugs_that_can_be_keys(connected: Connect) -> None:
    for slug in ("acme", "a", "Acme_2.0~x-", "0", "_x", "a..b", "x" * 200):
        assert connected(slug).customer == slug


UNUSABLE = (
    *("", " ", "a,b", "a\n", "\n", "a b", "a/b", "ä", "a\x00b", "a\x1b", "a[b]", "*"),
    *("-x", ".x", "a...b", "x" * 201),
)


def test_slugs_that_cannot_be_keys_are_told(ledger: psycopg.Connection, connected: Connect) -> None:
    for slug in UNUSABLE:
        with pytest.raises(UnusablePartitionKey, match="cannot become a partition key") as caught:
            connected(slug)
        assert str(caught.value).isprintable()
    assert connections.all_connections(ledger) == []
    assert ledger.execute("SELECT count(*) FROM tokens").fetchall() == [(0,)]


def test_a_token_that_cannot_be_stored_leaves_no_connection(ledger: psycopg.Connection, connected: Connect) -> None:
    ledger.execute("ALTER TABLE tokens ADD CHECK (generation > 1)")
    with pytest.raises(psycopg.errors.CheckViolation):
        connected("acme", FIRST)
    assert connections.find(ledger, FIRST) is None


def test_the_database_itself_refuses_nonsense(ledger: psycopg.Connection, connected: Connect) -> None:
    connected("acme", FIRST)
    before = connected("acme", FIRST)
    for nonsense in (
        "generation = generation - 1",
        "customer = 'another'",
        "organization_id = gen_random_uuid()",
        "state = 'unheard of'",
        "state = 'parked'",
    ):
        with pytest.raises(psycopg.errors.CheckViolation):
            ledger.execute(f"UPDATE connections SET {nonsense}".encode())
    assert connections.find(ledger, FIRST) == before


def test_parking(ledger: psycopg.Connection, connected: Connect) -> None:
    connected("acme", FIRST)
    assert park(ledger, FIRST, "the grant was refused", token_generation=1)
    parked = connections.find(ledger, FIRST)
    assert parked is not None
    assert (parked.state, parked.parked_reason) == ("parked", "the grant was refused")
    assert not park(ledger, FIRST, "once more", token_generation=1)
    assert connections.find(ledger, FIRST) == parked


def test_parking_over_another_token_does_nothing(ledger: psycopg.Connection, connected: Connect) -> None:
    connected("acme", FIRST)
    assert not park(ledger, FIRST, "late", token_generation=2)
    assert not park(ledger, SECOND, "unknown", token_generation=1)
    connected("acme", FIRST)
    assert not park(ledger, FIRST, "late", token_generation=1)
    found = connections.find(ledger, FIRST)
    assert found is not None
    assert found.state == "connected"


def test_parking_loses_against_a_reconnect_that_is_being_made(
    *,
    symvanta_url: str,
    ledger: psycopg.Connection,
    keyring: KeyRing,
    token: MakeToken,
    connected: Connect,
    until_blocked: Callable[[int], None],
) -> None:
    connected("acme", FIRST)

    def late() -> bool:
        with database.connect(symvanta_url) as connection:
            return park(connection, FIRST, "late", token_generation=1)

    with ThreadPoolExecutor(1) as pool:
        with ledger.transaction():
            # As far as the reconnect's first statement: its token is still to come.
            ledger.execute("SELECT FROM connections FOR UPDATE")
            parking = pool.submit(late)
            until_blocked(1)
            connect_customer(ledger, keyring, FIRST, "acme", token("again"))
        assert not parking.result(timeout=30)
    found = connections.find(ledger, FIRST)
    assert found is not None
    assert (found.state, found.generation) == ("connected", 2)


def test_disconnecting_keeps_the_partition_key_and_tells_since_when(
    ledger: psycopg.Connection, connected: Connect
) -> None:
    before, bystander = connected("acme", FIRST), connected("globex", SECOND)
    ended = mark_disconnected(ledger, FIRST)
    assert ended is not None
    assert ended == connections.find(ledger, FIRST)
    assert (ended.state, ended.customer, ended.generation) == ("disconnected", "acme", before.generation)
    assert ended.disconnected_at is not None
    assert ended.disconnected_at > before.connected_at
    assert mark_disconnected(ledger, FIRST) == ended
    assert connections.find(ledger, SECOND) == bystander


def test_what_was_never_connected_cannot_be_disconnected(ledger: psycopg.Connection) -> None:
    assert mark_disconnected(ledger, FIRST) is None
    assert connections.all_connections(ledger) == []


def test_a_parked_connection_can_be_disconnected(ledger: psycopg.Connection, connected: Connect) -> None:
    connected("acme", FIRST)
    assert park(ledger, FIRST, "the grant was refused", token_generation=1)
    ended = mark_disconnected(ledger, FIRST)
    assert ended is not None
    assert (ended.state, ended.parked_at, ended.parked_reason) == ("disconnected", None, None)


def test_a_late_run_does_not_park_a_disconnected_connection(ledger: psycopg.Connection, connected: Connect) -> None:
    connected("acme", FIRST)
    ended = mark_disconnected(ledger, FIRST)
    assert not park(ledger, FIRST, "late", token_generation=1)
    assert connections.find(ledger, FIRST) == ended


def test_parking_loses_against_a_disconnect_that_is_being_made(
    symvanta_url: str, ledger: psycopg.Connection, connected: Connect, until_blocked: Callable[[int], None]
) -> None:
    connected("acme", FIRST)

    def late() -> bool:
        with database.connect(symvanta_url) as connection:
            return park(connection, FIRST, "late", token_generation=1)

    with ThreadPoolExecutor(1) as pool:
        with ledger.transaction():
            mark_disconnected(ledger, FIRST)
            parking = pool.submit(late)
            until_blocked(1)
        assert not parking.result(timeout=30)
    found = connections.find(ledger, FIRST)
    assert found is not None
    assert found.state == "disconnected"


@pytest.mark.parametrize("state", ["connected", "parked", "disconnected", "parked and disconnected", "erased"])
def test_a_reconnect_is_possible_from_every_state_and_starts_afresh(
    ledger: psycopg.Connection, keyring: KeyRing, connected: Connect, state: str
) -> None:
    connected("acme", FIRST)
    if "parked" in state:
        assert park(ledger, FIRST, "the grant was refused", token_generation=1)
    if "disconnected" in state or state == "erased":
        assert mark_disconnected(ledger, FIRST)
    if state == "erased":
        assert Vault(ledger, keyring).erase(FIRST)
    again = connected("renamed", FIRST)
    assert (again.customer, again.generation, again.state) == ("acme", 2, "connected")
    assert (again.parked_at, again.parked_reason, again.disconnected_at) == (None, None, None)
    held = Vault(ledger, keyring).load(FIRST)
    assert held is not None
    assert held.access_token == "vat_renamed"
    once_more = mark_disconnected(ledger, FIRST)
    assert once_more is not None
    assert once_more.disconnected_at is not None
    assert once_more.disconnected_at > again.connected_at


@pytest.mark.parametrize(("second", "customer", "generation"), [(SECOND, "acme-bbbbbbbb", 1), (FIRST, "acme", 2)])
def test_two_first_connections_at_once(
    *,
    symvanta_url: str,
    ledger: psycopg.Connection,
    keyring: KeyRing,
    token: MakeToken,
    until_blocked: Callable[[int], None],
    second: UUID,
    customer: str,
    generation: int,
) -> None:
    def other() -> Connection:
        with database.connect(symvanta_url) as connection:
            return connect_customer(connection, keyring, second, "acme", token("b"))

    with ThreadPoolExecutor(1) as pool:
        with ledger.transaction():
            connect_customer(ledger, keyring, FIRST, "acme", token("a"))
            connecting = pool.submit(other)
            until_blocked(1)
        made = connecting.result(timeout=30)
    assert (made.customer, made.generation) == (customer, generation)
