"""The pipeline's own database comes back from yesterday: what that means for each customer.

A customer was pushed, the backup was taken, life went on, the backup was put back; then it runs on against what Vanta
and Sym know meanwhile. docs/production.md says the same in words.
"""

import time
from datetime import UTC, datetime

import dagster as dg
import psycopg
import pytest
from click.testing import CliRunner

from symvanta_pipeline import cli
from symvanta_pipeline.defs.partitions import CUSTOMERS
from symvanta_pipeline.ledger.database import LedgerError
from symvanta_pipeline.ledger.vault import KeyRing, Vault
from tests.brakes.world import Company
from tests.defs.test_sensor import asked, evaluate
from tests.restore.conftest import GRACE, Yesterday
from tests.support.docs import PRODUCTION, blocks
from tests.support.parts import KEYS, sentences
from tests.support.runs import register

OTHER_KEY = "k2:" + "A" * 43 + "="


@pytest.fixture
def acme(yesterday: Yesterday) -> Company:
    """A customer of twenty that Vanta knows."""
    acme = yesterday.world.company(members=20)
    accepted(yesterday, acme)
    return acme


def accepted(yesterday: Yesterday, *companies: Company) -> None:
    results = yesterday.run(*companies)
    assert sentences(results) == dict.fromkeys(company.slug for company in companies)
    assert all(company.arrived() for company in companies)


def use_up(yesterday: Yesterday, refresh_token: str) -> None:
    """Rotate a token, and let its grace window begin and end."""
    for _ in range(2):
        yesterday.parts.vanta.token(grant_type="refresh_token", refresh_token=refresh_token).raise_for_status()
    time.sleep(GRACE)


def symvanta(*arguments: str) -> str:
    result = CliRunner().invoke(cli.main, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


class TestTheDatabase:
    @pytest.mark.usefixtures("acme")
    def test_it_is_the_same_with_its_rights_and_triggers(self, yesterday: Yesterday) -> None:
        before = yesterday.rights()
        assert before["accepted_snapshots"] != before["connections"], "append-only is a right that is missing"
        yesterday.back_up()
        yesterday.restore()
        assert yesterday.rights() == before
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            yesterday.parts.ledger.execute("DELETE FROM accepted_snapshots")
        assert symvanta("migrate").strip() == "already up to date"
        assert "acme" in symvanta("customers")

    def test_whoever_was_signed_in_then_signs_in_again(self, yesterday: Yesterday) -> None:
        ledger = yesterday.parts.ledger
        ledger.execute(
            "INSERT INTO web_sessions VALUES (sha256('canary'), 'k1', 'sealed', now(), now() + interval '1 hour')"
        )
        yesterday.back_up()
        ledger.execute("DELETE FROM web_sessions")
        yesterday.restore()
        count = "SELECT count(*) FROM web_sessions"
        assert yesterday.parts.ledger.execute(count).fetchall() == [(1,)], "signed out since, and alive again"
        [statement] = [sql for sql in blocks(PRODUCTION, "sql") if sql.startswith("DELETE FROM web_sessions")]
        yesterday.parts.ledger.execute(statement.encode())
        assert yesterday.parts.ledger.execute(count).fetchall() == [(0,)]


class TestTokens:
    def test_one_that_was_rotated_since_is_recovered_within_the_grace_window(
        self, yesterday: Yesterday, acme: Company
    ) -> None:
        then = yesterday.parts.token(acme.id)
        yesterday.back_up()
        yesterday.parts.age_token(acme.id)
        accepted(yesterday, acme)
        assert yesterday.parts.token(acme.id).generation == then.generation + 1
        yesterday.restore()
        assert yesterday.parts.token(acme.id) == then
        accepted(yesterday, acme)
        assert yesterday.parts.token(acme.id).refresh_token != then.refresh_token

    def test_outside_of_it_that_customer_alone_is_parked_until_somebody_reconnects(
        self, yesterday: Yesterday, acme: Company
    ) -> None:
        bold = yesterday.world.company("bold", members=3)
        accepted(yesterday, bold)
        yesterday.back_up()
        use_up(yesterday, yesterday.parts.token(acme.id).refresh_token)
        yesterday.restore()
        yesterday.parts.age_token(acme.id)
        results = sentences(yesterday.run(acme, bold))
        assert results == {
            "acme": ("parked", "Vanta refused the grant (invalid_grant): consent has to be given again"),
            "bold": None,
        }
        assert "symvanta connect acme" in symvanta("customers", "--json")
        yesterday.parts.connect(acme.id, "acme")
        accepted(yesterday, acme)

    def test_of_many_at_once_the_cycle_stops_and_the_next_one_goes_on(self, yesterday: Yesterday) -> None:
        many = [yesterday.world.company(f"c{n}", members=1) for n in range(4)]
        accepted(yesterday, *many)
        yesterday.back_up()
        for company in many[:3]:
            yesterday.parts.vanta.connect(str(company.id))  # which ends the tokens of the backup
        yesterday.restore()
        stopped = sentences(yesterday.run(*many))
        assert [outcome for outcome, _ in filter(None, stopped.values())] == ["parked"] * 3 + ["failing"]
        assert "this cycle was stopped for everybody: 3 of 4" in (stopped["c3"] or ("", ""))[1]
        accepted(yesterday, many[3])

    def test_from_before_a_rotation_of_keys_it_needs_the_old_one(
        self, yesterday: Yesterday, acme: Company, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        yesterday.back_up()
        monkeypatch.setenv("SYMVANTA_TOKEN_KEYS", f"{OTHER_KEY},{KEYS}")
        assert symvanta("keys", "rotate").startswith("1 re-encrypted with key k2")
        monkeypatch.setenv("SYMVANTA_TOKEN_KEYS", OTHER_KEY)
        assert Vault(yesterday.parts.ledger, KeyRing(OTHER_KEY)).load(acme.id)
        yesterday.restore()
        with pytest.raises(LedgerError, match="need keys that SYMVANTA_TOKEN_KEYS lacks: k1; add them back"):
            yesterday.run(acme)
        monkeypatch.setenv("SYMVANTA_TOKEN_KEYS", f"{OTHER_KEY},{KEYS}")
        assert symvanta("keys", "rotate").startswith("1 re-encrypted with key k2")
        monkeypatch.setenv("SYMVANTA_TOKEN_KEYS", OTHER_KEY)
        assert sentences(yesterday.run(acme)) == {"acme": None}


class TestTheLedger:
    def test_what_was_pushed_since_is_pushed_again(self, yesterday: Yesterday, acme: Company) -> None:
        yesterday.back_up()
        tick = datetime.now(UTC)
        acme.hire(3)
        acme.leave(2)
        accepted(yesterday, acme)
        arrived = acme.alive()
        yesterday.restore()
        # The same hour again: nobody is left out, since nobody is known to have been pushed in it.
        [result] = yesterday.parts.run("acme", tick=tick)
        assert (result.failure, result.already) == (None, None)
        assert acme.alive() == arrived
        assert result.plan is not None
        assert (len(result.plan.difference.added), len(result.plan.difference.deactivated)) == (3, 2)

    def test_who_was_held_stays_held(self, yesterday: Yesterday, acme: Company) -> None:
        acme.leave(15)
        [held] = yesterday.run(acme)
        yesterday.back_up()
        acme.approve(held)
        accepted(yesterday, acme)
        yesterday.restore()
        [again] = yesterday.run(acme)
        assert held.failure is not None
        assert again.failure == held.failure
        assert acme.active_at_vanta() == 5, "what Vanta accepted since stays with Vanta"
        acme.approve(again)
        accepted(yesterday, acme)

    def test_an_approval_that_was_used_since_is_good_once_more_for_the_same_change(
        self, yesterday: Yesterday, acme: Company
    ) -> None:
        acme.leave(15)
        [held] = yesterday.run(acme)
        acme.approve(held)
        yesterday.back_up()
        accepted(yesterday, acme)
        yesterday.restore()
        assert acme.latest_approval().used_at is None
        accepted(yesterday, acme)
        assert acme.latest_approval().used_at is not None

    def test_but_not_for_another_one_and_not_after_four_hours(self, yesterday: Yesterday, acme: Company) -> None:
        acme.leave(15)
        [held] = yesterday.run(acme)
        acme.approve(held)
        yesterday.back_up()
        accepted(yesterday, acme)
        acme.leave(1)
        yesterday.restore()
        [void] = yesterday.run(acme)
        assert "is void: it was for another change" in sentences([void])["acme"][1]  # type: ignore[index]
        yesterday.tamper("UPDATE approvals SET at = at - interval '4 h', expires_at = expires_at - interval '4 h'")
        acme.come_back()
        acme.leave(15)
        [over] = yesterday.run(acme)
        assert "was for four hours and is over" in sentences([over])["acme"][1]  # type: ignore[index]

    def test_brakes_do_not_know_who_came_since_and_a_look_at_vanta_does(
        self, yesterday: Yesterday, acme: Company
    ) -> None:
        yesterday.back_up()
        acme.hire(20)
        accepted(yesterday, acme)
        yesterday.restore()
        told = symvanta("plan", "acme", "--against-vanta")
        assert "warn never_sent: 20 " in told
        # Were they lost by a broken read now, no brake would see it: it compares with yesterday's twenty.
        with acme.undone():
            yesterday.parts.sym.execute(
                "DELETE FROM identities WHERE user_id IN (SELECT id FROM users ORDER BY email DESC LIMIT 20)"
            )
            yesterday.parts.sym.execute(
                "DELETE FROM users WHERE id IN (SELECT id FROM users ORDER BY email DESC LIMIT 20)"
            )
            told = symvanta("plan", "acme", "--against-vanta")
            assert "No brake holds it." in told
            assert "warn never_sent: 20 " in told

    def test_what_was_being_sent_is_possibly_applied_until_the_next_push(
        self, yesterday: Yesterday, acme: Company
    ) -> None:
        acme.hire(1)
        acme.fault("put", "no_verdict")
        yesterday.run(acme)
        yesterday.back_up()
        accepted(yesterday, acme)
        yesterday.restore()
        assert yesterday.parts.intents(acme.id) == ["accepted", None]
        accepted(yesterday, acme)
        assert yesterday.parts.intents(acme.id) == ["accepted", "superseded", "accepted"]


class TestWhoConnectedSince:
    def test_it_is_not_known_any_more_and_connects_again_as_the_same(
        self, yesterday: Yesterday, acme: Company, instance: dg.DagsterInstance
    ) -> None:
        yesterday.back_up()
        bold = yesterday.world.company("bold", members=4)
        register(instance, "acme", "bold")
        first = asked(evaluate(instance))
        accepted(yesterday, bold)
        at_vanta = {account["uniqueId"] for account in yesterday.parts.vanta.accounts(str(bold.id))}
        yesterday.restore()

        assert sentences(yesterday.run(bold, acme)) == {
            "bold": ("failing", "the ledger knows no such customer: connect it first"),
            "acme": None,
        }
        assert asked(evaluate(instance)) == {}
        assert instance.get_dynamic_partitions(CUSTOMERS) == ["acme", "bold"]

        yesterday.parts.connect(bold.id, "bold")
        again = asked(evaluate(instance))
        assert first.keys() == again.keys() == {"bold"}
        assert first["bold"] != again["bold"], "a run key that was used starts no run"
        accepted(yesterday, bold)
        assert {account["uniqueId"] for account in yesterday.parts.vanta.accounts(str(bold.id))} == at_vanta


class TestWhoDisconnectedSince:
    def test_it_is_connected_again_and_vanta_refuses_it(self, yesterday: Yesterday, acme: Company) -> None:
        yesterday.back_up()
        symvanta("disconnect", "acme")
        yesterday.restore()
        assert yesterday.parts.state(acme.id) == "connected"
        puts = acme.puts()
        [(outcome, _)] = filter(None, sentences(yesterday.run(acme)).values())
        assert (outcome, yesterday.parts.state(acme.id), acme.outcome() is not None) == ("parked", "parked", True)
        assert len(yesterday.parts.vanta.accounts(str(acme.id))) == 20
        assert acme.puts() == puts + 1, "sent with a token that is dead, and refused"

    def test_where_vanta_was_not_told_it_would_be_pushed_unless_it_is_disconnected_first(
        self, yesterday: Yesterday, acme: Company
    ) -> None:
        yesterday.back_up()
        acme.fault("suspend", "status", status=503, times=9)
        assert "did not confirm" in CliRunner().invoke(cli.main, ["disconnect", "acme"]).output
        yesterday.parts.vanta.clear_faults()
        yesterday.restore()
        assert sentences(yesterday.run(acme)) == {"acme": None}, "somebody ended this, and it was sent"
        symvanta("disconnect", "acme")
        puts = acme.puts()
        [(outcome, sentence)] = filter(None, sentences(yesterday.run(acme)).values())
        assert (outcome, sentence.startswith("disconnected since"), acme.puts()) == ("parked", True, puts)
