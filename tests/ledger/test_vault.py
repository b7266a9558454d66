import base64
import hmac
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from uuid import uuid4

import psycopg
import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given
from hypothesis import strategies as st

from symvanta_pipeline.ledger import database
from symvanta_pipeline.ledger.connections import Connection
from symvanta_pipeline.ledger.vault import (
    KeyRing,
    StaleGeneration,
    StoredToken,
    Token,
    TokenUnreadable,
    UnknownTokenKey,
    Vault,
)

CANARY = "canary-of-a-token"
MakeToken = Callable[[str], Token]
Connect = Callable[..., Connection]


def key(byte: int) -> str:
    return base64.urlsafe_b64encode(bytes([byte] * 32)).decode()


def test_the_first_key_encrypts_and_all_decrypt() -> None:
    old = KeyRing(f"old:{key(1)}")
    both = KeyRing(f"new:{key(2)},old:{key(1)}")
    assert both.ids == ("new", "old")
    assert both.encrypting_id == "new"
    assert both.decrypt("old", old.encrypt("secret", b"place"), b"place") == "secret"
    assert both.decrypt("new", both.encrypt("secret", b"place"), b"place") == "secret"


def test_padding_and_blanks_do_not_matter() -> None:
    assert KeyRing(f" a:{key(1).rstrip('=')} , b:{key(2)}").ids == ("a", "b")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "pair 1 should be"),
        (CANARY, "pair 1 should be"),
        (f"k:{CANARY}", "pair 1 should be"),
        (f":{key(1)}", "pair 1 should be"),
        (f"k1:{key(1)},", "pair 2 should be"),
        (f"k1:{key(1)},k2:{base64.urlsafe_b64encode(CANARY.encode()).decode()}", "pair 2 should be"),
        (f"k1:{key(1)},k1:{key(2)}", "pair 2 repeats"),
        (f"k1:{key(1)[:10]}!!{key(1)[10:]}", "pair 1 should be"),
    ],
)
def test_a_malformed_ring_is_refused_without_its_value(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        KeyRing(text)
    for secret in (CANARY, key(1), base64.urlsafe_b64encode(CANARY.encode()).decode()):
        assert secret not in f"{caught.value!r} {caught.value.__context__!r}"


def test_a_ring_shows_ids_only() -> None:
    assert repr(KeyRing(f"k1:{key(1)},k2:{key(2)}")) == "KeyRing(k1, k2)"


def test_every_encryption_has_its_own_nonce() -> None:
    ring = KeyRing(f"k:{key(1)}")
    assert len({ring.encrypt("secret", b"place")[:12] for _ in range(100)}) == 100


@given(st.binary(min_size=32, max_size=32), st.text(max_size=40))
def test_a_derived_key_is_hkdf_sha256_of_a_ring_key(material: bytes, purpose: str) -> None:
    """RFC 5869, written out: no salt, one block."""
    pseudorandom = hmac.digest(bytes(32), material, "sha256")
    expected = hmac.digest(pseudorandom, purpose.encode() + b"\x01", "sha256")
    ring = KeyRing(f"k:{base64.urlsafe_b64encode(material).decode()}")
    assert ring.derive(purpose) == (expected,)


def test_derived_keys_keep_the_order_and_differ_by_purpose_and_key() -> None:
    both, new = KeyRing(f"new:{key(2)},old:{key(1)}"), KeyRing(f"any:{key(2)}")
    cookies, forms = both.derive("cookies"), both.derive("forms")
    assert len({*cookies, *forms, bytes([1] * 32), bytes([2] * 32)}) == 6
    assert {len(derived) for derived in cookies + forms} == {32}
    assert new.derive("cookies") == cookies[:1]
    assert both.derive("cookies") == cookies


@given(st.text(), st.binary(), st.data())
def test_a_changed_ciphertext_is_rejected(secret: str, place: bytes, data: st.DataObject) -> None:
    ring = KeyRing(f"k:{key(1)}")
    sealed = ring.encrypt(secret, place)
    assert ring.decrypt("k", sealed, place) == secret
    position = data.draw(st.integers(0, len(sealed) - 1))
    flipped = bytearray(sealed)
    flipped[position] ^= data.draw(st.integers(1, 255))
    for changed in (bytes(flipped), sealed[:position]):
        with pytest.raises(InvalidTag):
            ring.decrypt("k", changed, place)
    with pytest.raises(InvalidTag):
        ring.decrypt("k", sealed, place + b"x")


def test_a_token_comes_back_as_it_was_put(
    ledger: psycopg.Connection, keyring: KeyRing, token: MakeToken, connected: Connect
) -> None:
    vault, organization = Vault(ledger, keyring), connected().organization_id
    assert vault.put_consented(organization, token("second")) == 2
    loaded = vault.load(organization)
    assert loaded is not None
    assert (loaded.access_token, loaded.refresh_token) == ("vat_second", "refresh_second")
    assert (loaded.expires_at, loaded.scope) == (datetime(2030, 1, 1, tzinfo=UTC), "read write")
    assert loaded.generation == 2
    assert loaded.saved_at.tzinfo is not None


def test_no_token_is_none(ledger: psycopg.Connection, keyring: KeyRing) -> None:
    assert Vault(ledger, keyring).load(uuid4()) is None


def test_nothing_readable_is_in_the_table(ledger: psycopg.Connection, connected: Connect) -> None:
    connected(CANARY)
    [(row,)] = ledger.execute("SELECT row_to_json(tokens)::text FROM tokens").fetchall()
    for form in (CANARY, CANARY.encode().hex(), base64.b64encode(CANARY.encode()).decode()):
        assert form not in row


def test_a_refresh_is_committed_when_it_returns(
    ledger: psycopg.Connection, other: psycopg.Connection, keyring: KeyRing, token: MakeToken, connected: Connect
) -> None:
    organization = connected().organization_id
    assert Vault(ledger, keyring).replace(organization, token("new"), expected_generation=1) == 2
    seen = Vault(other, keyring).load(organization)
    assert seen is not None
    assert seen.access_token == "vat_new"


def test_a_refresh_is_committed_on_a_connection_without_autocommit(
    symvanta_url: str, ledger: psycopg.Connection, keyring: KeyRing, token: MakeToken, connected: Connect
) -> None:
    organization = connected().organization_id
    with database.connect(symvanta_url, autocommit=False) as connection:
        Vault(connection, keyring).replace(organization, token("new"), expected_generation=1)
        seen = Vault(ledger, keyring).load(organization)
    assert seen is not None
    assert seen.generation == 2


def test_a_refresh_inside_a_transaction_is_refused(
    ledger: psycopg.Connection, keyring: KeyRing, token: MakeToken, connected: Connect
) -> None:
    organization = connected().organization_id
    with ledger.transaction(), pytest.raises(RuntimeError, match="committed at once"):
        Vault(ledger, keyring).replace(organization, token("new"), expected_generation=1)


def test_of_two_refreshes_that_race_exactly_one_wins(
    *,
    symvanta_url: str,
    ledger: psycopg.Connection,
    keyring: KeyRing,
    token: MakeToken,
    connected: Connect,
    until_blocked: Callable[[int], None],
) -> None:
    organization = connected().organization_id

    def refresh(mark: str) -> str:
        with database.connect(symvanta_url) as connection:
            try:
                Vault(connection, keyring).replace(organization, token(mark), expected_generation=1)
            except StaleGeneration:
                return "lost"
            return mark

    with ThreadPoolExecutor(2) as pool:
        with ledger.transaction():
            ledger.execute("SELECT FROM tokens FOR UPDATE")
            racing = [pool.submit(refresh, mark) for mark in ("a", "b")]
            until_blocked(2)
        results = {future.result(timeout=30) for future in racing}
    assert "lost" in results
    (winner,) = results - {"lost"}
    held = Vault(ledger, keyring).load(organization)
    assert held is not None
    assert (held.access_token, held.generation) == (f"vat_{winner}", 2)


def test_a_new_consent_beats_a_refresh_that_began_before(
    ledger: psycopg.Connection, keyring: KeyRing, token: MakeToken, connected: Connect
) -> None:
    vault, organization = Vault(ledger, keyring), connected().organization_id
    vault.put_consented(organization, token("consented"))
    with pytest.raises(StaleGeneration):
        vault.replace(organization, token("refreshed"), expected_generation=1)
    held = vault.load(organization)
    assert held is not None
    assert held.access_token == "vat_consented"


def test_an_erased_token_stays_erased_and_its_generation_goes_on(
    ledger: psycopg.Connection, keyring: KeyRing, token: MakeToken, connected: Connect
) -> None:
    vault, organization = Vault(ledger, keyring), connected().organization_id
    vault.erase(organization)
    assert vault.load(organization) is None
    assert ledger.execute("SELECT access_token, refresh_token, key_id FROM tokens").fetchall() == [(None, None, None)]
    for generation in (1, 2):
        with pytest.raises(StaleGeneration):
            vault.replace(organization, token("late"), expected_generation=generation)
    vault.erase(organization)
    assert vault.put_consented(organization, token("again")) == 3


def test_erasing_tells_whether_it_did(
    ledger: psycopg.Connection, keyring: KeyRing, token: MakeToken, connected: Connect
) -> None:
    vault, organization = Vault(ledger, keyring), connected().organization_id
    bystander = connected("globex").organization_id
    assert not vault.erase(uuid4())
    assert vault.erase(organization)
    assert not vault.erase(organization)
    vault.put_consented(organization, token("again"))
    assert vault.erase(organization)
    assert vault.load(bystander)


def test_a_token_of_another_generation_is_not_erased(
    ledger: psycopg.Connection, keyring: KeyRing, token: MakeToken, connected: Connect
) -> None:
    vault, organization = Vault(ledger, keyring), connected().organization_id
    assert vault.replace(organization, token("refreshed"), expected_generation=1) == 2
    for generation in (0, 1, 3):
        assert not vault.erase(organization, expected_generation=generation)
    held = vault.load(organization)
    assert held is not None
    assert (held.generation, held.access_token) == (2, "vat_refreshed")
    assert vault.erase(organization, expected_generation=2)
    assert not vault.erase(organization, expected_generation=3)
    assert vault.load(organization) is None
    assert ledger.execute("SELECT generation FROM tokens").fetchall() == [(3,)]


@pytest.mark.parametrize("first", ["refresh", "erase"])
def test_of_a_refresh_and_an_erasure_at_once_exactly_one_wins(
    *,
    symvanta_url: str,
    ledger: psycopg.Connection,
    keyring: KeyRing,
    token: MakeToken,
    connected: Connect,
    until_blocked: Callable[[int], None],
    first: str,
) -> None:
    organization = connected().organization_id

    def refresh() -> bool:
        with database.connect(symvanta_url) as connection:
            try:
                Vault(connection, keyring).replace(organization, token("late"), expected_generation=1)
            except StaleGeneration:
                return False
            return True

    def erase() -> bool:
        with database.connect(symvanta_url) as connection:
            return Vault(connection, keyring).erase(organization, expected_generation=1)

    actions = {"refresh": refresh, "erase": erase}
    second = ({*actions} - {first}).pop()
    with ThreadPoolExecutor(2) as pool:
        with ledger.transaction():
            ledger.execute("SELECT FROM tokens FOR UPDATE")
            winner = pool.submit(actions[first])
            until_blocked(1)
            loser = pool.submit(actions[second])
            until_blocked(2)
        actions_won = {first: winner.result(timeout=30), second: loser.result(timeout=30)}
    assert sorted(actions_won.values()) == [False, True]
    assert ledger.execute("SELECT generation FROM tokens").fetchall() == [(2,)]
    held = Vault(ledger, keyring).load(organization)
    assert (held is None) == actions_won["erase"]


def test_the_database_itself_refuses_to_go_back(
    ledger: psycopg.Connection, keyring: KeyRing, token: MakeToken, connected: Connect
) -> None:
    organization = connected().organization_id
    Vault(ledger, keyring).put_consented(organization, token("second"))
    for statement in (
        b"UPDATE tokens SET generation = generation - 1",
        b"DELETE FROM tokens",
        b"UPDATE tokens SET refresh_token = NULL",
    ):
        with pytest.raises(psycopg.errors.CheckViolation):
            ledger.execute(statement)
    held = Vault(ledger, keyring).load(organization)
    assert held is not None
    assert held.generation == 2


ELSEWHERE = "FROM tokens AS o WHERE o.organization_id <> tokens.organization_id"


def test_a_moved_or_changed_ciphertext_is_rejected(
    ledger: psycopg.Connection, keyring: KeyRing, connected: Connect
) -> None:
    organizations = [connected(slug).organization_id for slug in ("acme", "globex")]
    for swap in (
        f"access_token = o.access_token {ELSEWHERE}",
        f"refresh_token = o.refresh_token {ELSEWHERE}",
        f"access_token = o.access_token, refresh_token = o.refresh_token {ELSEWHERE}",
        "access_token = refresh_token",
        "refresh_token = access_token",
        "access_token = refresh_token, refresh_token = access_token",
        "provider = 'another'",
        "access_token = substr(access_token, 1, 5)",
        "refresh_token = ''",
    ):
        with ledger.transaction(force_rollback=True):
            changed = ledger.execute(f"UPDATE tokens SET {swap}".encode())
            assert changed.rowcount == 2
            for organization in organizations:
                with pytest.raises(TokenUnreadable, match=rf"{organization}.*reconnect the customer"):
                    Vault(ledger, keyring).load(organization)
    assert all(Vault(ledger, keyring).load(organization) for organization in organizations)


def test_a_key_that_is_gone_is_named(ledger: psycopg.Connection, keyring: KeyRing, connected: Connect) -> None:
    organization = connected().organization_id
    stranger = Vault(ledger, KeyRing(f"k2:{key(9)}"))
    with pytest.raises(TokenUnreadable, match=f"{organization}.*add key k1 back to SYMVANTA_TOKEN_KEYS"):
        stranger.load(organization)
    with pytest.raises(UnknownTokenKey, match="lacks: k1"):
        stranger.check_keys()
    Vault(ledger, keyring).check_keys()


def test_an_erased_token_needs_no_key(ledger: psycopg.Connection, keyring: KeyRing, connected: Connect) -> None:
    Vault(ledger, keyring).erase(connected().organization_id)
    Vault(ledger, KeyRing(f"k2:{key(9)}")).check_keys()


def test_another_key_under_the_same_id_is_rejected(ledger: psycopg.Connection, connected: Connect) -> None:
    organization = connected().organization_id
    with pytest.raises(TokenUnreadable):
        Vault(ledger, KeyRing(f"k1:{key(9)}")).load(organization)


@pytest.mark.parametrize(("access", "refresh"), [("", CANARY), (CANARY, "")])
def test_half_a_token_is_refused_without_its_text(access: str, refresh: str) -> None:
    with pytest.raises(ValueError, match="needs both") as caught:
        Token(access, refresh, datetime(2030, 1, 1, tzinfo=UTC), "read")
    assert CANARY not in repr(caught.value)


def test_a_token_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        Token("a", "r", datetime(2030, 1, 1), "read")  # noqa: DTZ001 - the point


def test_tokens_show_in_no_repr() -> None:
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    for held in (
        Token(CANARY, CANARY, moment, "read"),
        StoredToken(CANARY, CANARY, moment, "read", generation=1, saved_at=moment),
    ):
        assert CANARY not in repr(held)
        assert "2030" in repr(held)


def test_tokens_show_in_no_log_and_no_exception(
    ledger: psycopg.Connection,
    keyring: KeyRing,
    token: MakeToken,
    connected: Connect,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    vault, organization = Vault(ledger, keyring), connected(CANARY).organization_id
    errors: list[BaseException] = []

    def fails(action: Callable[[], object]) -> None:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - each of them, whatever it is
            action()
        errors.append(caught.value)

    fails(lambda: vault.replace(organization, token(CANARY), expected_generation=7))
    fails(lambda: vault.put_consented(uuid4(), token(CANARY)))
    fails(lambda: Vault(ledger, KeyRing(f"k1:{key(9)}")).load(organization))
    ledger.execute("ALTER TABLE tokens ADD CHECK (generation < 2)")
    fails(lambda: vault.put_consented(organization, token(CANARY)))
    ledger.close()
    fails(lambda: vault.load(organization))
    assert len(errors) == 5
    for error in errors:
        assert CANARY not in f"{error} {error!r} {error.__cause__!r} {error.__context__!r}"
    assert CANARY not in caplog.text
