"""From the ledger to the targets: written once, sent in order, repeated until taken, whoever else does so too."""

import threading
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from pydantic import SecretStr

from symvanta_pipeline.alerts import delivery, rendering, targets
from symvanta_pipeline.alerts.delivery import FIRST_WAIT, LONGEST_WAIT, SET_ASIDE_FOR, Report, wait_after
from symvanta_pipeline.alerts.messages import Message
from symvanta_pipeline.alerts.targets import LogTarget, NotDelivered, Target, WebTarget
from symvanta_pipeline.ledger import alerts, database
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres
from tests.alerts.receiver import Fault, Receiver
from tests.alerts.world import LINKS, World
from tests.support.leaks import Canaries, find_leaks, tables
from tests.support.parts import held, meanwhile, refusing_connections, until

MINUTE = timedelta(minutes=1)


def both(receiver: Receiver) -> list[Target]:
    return [
        WebTarget("slack", SecretStr(f"{receiver.url}/slack"), rendering.slack),
        WebTarget("webhook", SecretStr(f"{receiver.url}/webhook"), rendering.webhook),
    ]


def states(receiver: Receiver) -> list[tuple[str, str]]:
    """Tell state and kind of what the webhook has taken."""
    return [(got.content["state"], got.content["kind"]) for got in receiver.at("/webhook")]


def of_slack(receiver: Receiver) -> list[str]:
    """Tell the titles of what Slack has taken."""
    return [got.content["text"].partition(":")[0] for got in receiver.at("/slack")]


class TestAnnouncing:
    def test_a_change_is_written_once_a_target_whatever_is_looked(self, world: World) -> None:
        world.customer("acme", "bold", "cold")
        assert world.announce("log", "slack") == []
        world.hold("acme", "bold")
        [message] = world.announce("log", "slack")
        assert [affected.customer for affected in message.customers] == ["acme", "bold"]
        assert message.title.startswith("2 of 3 customers held (lost)")
        assert world.waiting() == [("log", 0, None), ("slack", 0, None)]
        for _ in range(3):
            assert world.announce("log", "slack") == []

    def test_each_state_is_told_with_its_run_and_the_way_out(self, world: World) -> None:
        world.customer("held", "failing", "parked", "late", "disconnected", "healthy")
        world.hold("disconnected")
        world.announce()
        world.pass_time(minutes=100)
        world.accept("held", "failing", "parked", "healthy")
        world.hold("held")
        world.end("failing", "refused", "Vanta refused the request (403)", kind="Refused")
        world.park("parked")
        world.disconnect("disconnected")
        told = {message.state: message for message in world.announce("log")}
        assert set(told) == {"held", "failing", "parked", "late", "disconnected"}
        steps = {state: message.customers[0].next_step for state, message in told.items()}
        assert "held by lost: 40 of 100" in steps["held"]
        assert "Vanta refused the request (403)" in steps["failing"]
        assert "symvanta connect parked" in steps["parked"]
        assert "dagster-daemon" in steps["late"]
        assert told["failing"].customers[0].run == f"{LINKS.dagster}/runs/run-of-failing"
        assert told["held"].customers[0].organization_id == world.customers["held"]
        assert told["held"].connected == 5

    def test_a_recovery_is_told_once(self, world: World) -> None:
        world.customer("acme")
        world.hold("acme")
        world.announce("log")
        world.accept("acme")
        assert [message.state for message in world.announce("log")] == ["recovered"]
        assert world.announce("log") == []

    def test_a_reconnected_customer_recovers_with_its_next_push(self, world: World) -> None:
        world.customer("acme")
        world.park("acme")
        assert [message.state for message in world.announce("log")] == ["parked"]
        world.reconnect("acme")
        assert world.announce("log") == []
        world.accept("acme")
        assert [message.state for message in world.announce("log")] == ["recovered"]

    def test_what_is_announced_and_its_message_are_written_together_or_not_at_all(self, world: World) -> None:
        world.customer("acme")
        world.hold("acme")
        world.pass_time(minutes=6)
        world.ledger.execute("ALTER TABLE announced ADD CONSTRAINT planted CHECK (state <> 'held')")
        try:
            with pytest.raises(psycopg.errors.CheckViolation, match="planted"):
                delivery.announce(world.ledger, ["log"], LINKS, alerts.now(world.ledger))
        finally:
            world.ledger.execute("ALTER TABLE announced DROP CONSTRAINT planted")
        assert world.waiting() == []
        assert len(world.announce("log")) == 1

    def test_of_two_that_look_at_once_one_announces(self, world: World, ledger_url: str) -> None:
        world.customer("acme")
        world.hold("acme")
        world.pass_time(minutes=6)
        with database.connect(ledger_url) as other, other.transaction():
            assert alerts.try_lock(other)
            report = world.look()
            assert report.sentence() == "another process is announcing"
        assert world.look().announced != []

    def test_many_at_once_write_one_message(self, world: World) -> None:
        world.customer("acme")
        world.hold("acme")
        world.pass_time(minutes=6)
        barrier, reports = threading.Barrier(6), list[Report]()

        def look() -> None:
            barrier.wait()
            reports.append(world.look(LogTarget(lambda *_: None)))

        threads = [threading.Thread(target=look) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(len(report.announced) for report in reports) == 1
        assert sum(report.sent.get("log", 0) for report in reports) == 1

    def test_no_address_and_no_name_gets_into_the_tables(self, world: World, ledger_url: str) -> None:
        world.customer("acme")
        world.end("acme", "refused", "Vanta refused canary.person@customer.example", kind="Refused")
        [message] = world.announce("log")
        assert "Vanta refused (address removed)" in message.customers[0].next_step
        world.ledger.execute("UPDATE outcomes SET sentence = NULL")
        assert find_leaks(Canaries({"address": ["canary.person"]}), tables(ledger_url)) == []
        with pytest.raises(psycopg.errors.CheckViolation):
            alerts.write_down(world.ledger, {UUID(int=1): {"a": "b@c"}}, targets=["log"], announces=[])


class TestSending:
    def test_each_target_gets_each_message_once_and_in_order(self, world: World, receiver: Receiver) -> None:
        world.customer("acme", "bold")
        world.hold("acme")
        world.announce("slack", "webhook")
        world.park("bold")
        world.announce("slack", "webhook")
        world.accept("acme")
        world.announce("slack", "webhook")
        report = world.look(*both(receiver))
        assert report.sent == {"slack": 3, "webhook": 3}
        assert states(receiver) == [("held", "lost"), ("parked", ""), ("recovered", "")]
        assert [title.split(" ", 4)[4] for title in of_slack(receiver)] == ["held (lost)", "parked", "recovered"]
        assert world.look(*both(receiver)).sentence() == "no customer's state changed"
        assert len(receiver.got) == 6
        assert {got.key for got in receiver.at("/slack")} == {got.key for got in receiver.at("/webhook")}

    def test_a_look_announces_and_sends_at_once(self, world: World, receiver: Receiver) -> None:
        world.customer("acme")
        world.hold("acme")
        assert world.look(*both(receiver)).sentence() == "no customer's state changed"
        world.pass_time(minutes=6)
        assert world.look(*both(receiver)).sentence() == (
            "announced: 1 of 1 customers held (lost): nothing was sent of them; Vanta keeps what it accepted last; "
            "sent to slack 1, webhook 1"
        )

    def test_a_target_that_is_down_stops_no_other_and_loses_nothing(self, world: World, receiver: Receiver) -> None:
        world.customer("acme")
        down = [Fault(500), Fault(way="drop"), Fault(503, {"Retry-After": "600"}), Fault(404), Fault(301)]
        receiver.fail("/slack", *down)
        world.hold("acme")
        world.announce("slack", "webhook")
        for attempt, _ in enumerate(down, 1):
            report = world.look(*both(receiver))
            assert set(report.failed) == {"slack"}
            assert "1 message waits for slack since" in report.sentence()
            assert [(target, attempts) for target, attempts, _ in world.waiting()] == [("slack", attempt)]
            world.pass_time(minutes=16)
        assert receiver.fired == down
        assert (states(receiver), of_slack(receiver)) == ([("held", "lost")], [])
        assert world.look(*both(receiver)).sent == {"slack": 1}
        assert (len(receiver.at("/webhook")), len(receiver.at("/slack"))) == (1, 1)

    def test_later_messages_wait_for_the_one_before(self, world: World, receiver: Receiver) -> None:
        world.customer("acme")
        receiver.fail("/slack", Fault(500))
        world.hold("acme")
        world.announce("slack")
        world.look(*both(receiver))
        world.accept("acme")
        world.ledger.execute("UPDATE alerts SET due_at = due_at + interval '10 minutes'")
        world.announce("slack")
        assert (world.look(*both(receiver)).failed, of_slack(receiver)) == ({}, [])
        world.pass_time(minutes=10)
        assert world.look(*both(receiver)).sent == {"slack": 2}
        assert [title.split(" ", 4)[4] for title in of_slack(receiver)] == ["held (lost)", "recovered"]

    def test_nothing_is_tried_before_a_pause_is_over(self, world: World, receiver: Receiver) -> None:
        world.customer("acme")
        receiver.fail("/slack", Fault(429, {"Retry-After": "120"}))
        world.hold("acme")
        world.announce("slack")
        world.look(*both(receiver))
        assert receiver.fired == [Fault(429, {"Retry-After": "120"})]
        world.pass_time(minutes=1.9)
        assert world.look(*both(receiver)).sent == {}
        world.pass_time(minutes=0.2)
        assert world.look(*both(receiver)).sent == {"slack": 1}

    def test_a_message_that_is_refused_lets_others_pass_and_stays(self, world: World, receiver: Receiver) -> None:
        world.customer("acme")
        receiver.fail("/slack", Fault(400))
        world.hold("acme")
        world.announce("slack")
        world.accept("acme")
        world.announce("slack")
        report = world.look(*both(receiver))
        assert (report.failed, report.sent) == ({"slack": "it refused this message (400)"}, {"slack": 1})
        assert world.waiting() == [("slack", 1, "it refused this message (400)")]
        world.pass_time(minutes=61)
        assert world.look(*both(receiver)).sent == {"slack": 1}
        assert [title.split(" ", 4)[4] for title in of_slack(receiver)] == ["recovered", "held (lost)"]

    def test_an_answer_that_never_came_makes_a_repetition(
        self, world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.customer("acme")
        receiver.fail("/webhook", Fault(200, way="hold"))
        world.hold("acme")
        world.announce("webhook")
        with monkeypatch.context() as impatient:
            impatient.setattr(targets, "TIMEOUT", (5.0, 0.5))
            report = world.look(*both(receiver))
        assert report.failed == {"webhook": "no answer within 10 s"}
        world.pass_time(minutes=2)
        assert world.look(*both(receiver)).sent == {"webhook": 1}
        first, second = receiver.at("/webhook")
        assert first.key == second.key == second.content["id"]
        assert (first.content["repeated"], second.content["repeated"]) == (False, True)

    def test_a_message_that_cannot_be_worded_stops_no_other(self, world: World, receiver: Receiver) -> None:
        world.customer("acme")
        world.hold("acme")
        world.announce("webhook")
        world.ledger.execute("""UPDATE alerts SET message = '{"version": 1}'""")
        world.accept("acme")
        world.announce("webhook")
        report = world.look(*both(receiver))
        assert report.sent == {"webhook": 1}
        assert report.failed["webhook"].startswith("unexpected ValidationError at ")

    def test_a_target_that_was_switched_off_shows_and_gets_it_later(self, world: World, receiver: Receiver) -> None:
        world.customer("acme")
        world.hold("acme")
        world.announce("slack")
        sentence = world.look().sentence()
        assert sentence.startswith("1 message waits for slack since 20")
        assert sentence.endswith("UTC: it is not switched on")
        assert world.look(*both(receiver)).sent == {"slack": 1}

    def test_what_waits_for_long_is_told(self, world: World, receiver: Receiver) -> None:
        world.customer("acme")
        receiver.fail("/slack", Fault(500), Fault(500))
        world.hold("acme")
        world.announce("slack")
        assert world.look(*both(receiver)).long_waiting() == []
        world.pass_time(minutes=61)
        [sentence] = world.look(*both(receiver)).long_waiting()
        assert sentence.endswith("UTC: it cannot take messages now (500)")

    def test_a_slow_target_leaves_time_for_the_others(
        self, world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(delivery, "BUSY_FOR", 0.0)
        world.customer("acme")
        world.hold("acme")
        world.announce("slack", "webhook")
        assert world.look(*both(receiver)).sent == {}
        assert receiver.got == []

    def test_no_transaction_is_open_while_a_message_is_sent(self, world: World, receiver: Receiver) -> None:
        world.customer("acme")
        world.hold("acme")
        world.announce("webhook")
        receiver.fail("/webhook", Fault(200, way="hold"))
        with meanwhile(lambda: world.look(*both(receiver))):
            receiver.wait()
            [(idle, busy)] = world.ledger.execute(
                "SELECT count(*) FILTER (WHERE state = 'idle'), count(*) FILTER (WHERE state <> 'idle')"
                " FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            ).fetchall()
            receiver.release()
        assert (idle, busy) == (1, 0)

    def test_a_database_that_is_away_when_the_answer_comes_repeats_nothing(
        self, world: World, receiver: Receiver, postgres: EmbeddedPostgres, ledger_url: str
    ) -> None:
        world.customer("acme")
        world.hold("acme")
        world.announce("webhook")
        receiver.fail("/webhook", Fault(200, way="hold"))
        with meanwhile(lambda: world.look(*both(receiver))):
            receiver.wait()
            with refusing_connections(ledger_url, postgres):
                receiver.release()
                until(lambda: receiver.at("/webhook"), "the answer came")
        with database.connect(ledger_url) as again:
            assert again.execute("SELECT count(*) FROM alerts WHERE sent_at IS NOT NULL").fetchone() == (1,)
        assert len(receiver.got) == 1

    def test_whoever_sends_is_the_only_one(self, world: World, receiver: Receiver) -> None:
        world.customer("acme")
        world.hold("acme")
        world.announce("webhook")
        receiver.fail("/webhook", Fault(200, way="hold"))
        with meanwhile(lambda: world.look(*both(receiver))):
            receiver.wait()
            assert world.look(*both(receiver)).sent == {}
            receiver.release()
        assert len(receiver.got) == 1

    def test_a_claim_that_two_ask_for_at_once_is_given_once(self, world: World, ledger_url: str) -> None:
        world.customer("acme")
        world.hold("acme")
        world.announce("slack")
        claims: list[Any] = []
        with held(ledger_url, "LOCK TABLE alerts IN SHARE MODE") as hold:

            def claim() -> None:
                with database.connect(ledger_url) as connection:
                    claims.append(alerts.claim(connection, "slack"))

            with meanwhile(claim), meanwhile(claim):
                until(lambda: len(hold.waiting("UPDATE alerts")) == 2, "both wait")
                hold.release()
        assert sorted(claim is None for claim in claims) == [False, True]


@pytest.mark.parametrize(
    ("failure", "attempts", "wait"),
    [
        (NotDelivered("x"), 1, FIRST_WAIT),
        (NotDelivered("x"), 2, 2 * MINUTE),
        (NotDelivered("x"), 4, 8 * MINUTE),
        (NotDelivered("x"), 9999, LONGEST_WAIT),
        (NotDelivered("x", retry_after=30 * MINUTE), 1, 30 * MINUTE),
        (NotDelivered("x", retry_after=timedelta(0)), 3, 4 * MINUTE),
        (NotDelivered("x", permanent=True), 1, LONGEST_WAIT),
        (NotDelivered("x", permanent=True, of_message=True), 1, SET_ASIDE_FOR),
    ],
)
def test_how_long_a_failed_message_waits(failure: NotDelivered, attempts: int, wait: timedelta) -> None:
    assert wait_after(failure, attempts) == wait


def test_what_was_sent_is_pruned_and_what_waits_stays(world: World, receiver: Receiver) -> None:
    world.customer("acme")
    world.hold("acme")
    world.announce("slack", "webhook", "later")
    world.look(*both(receiver))
    now = alerts.now(world.ledger)
    assert alerts.prune(world.ledger, now - timedelta(days=1)) == 0
    assert [alerts.prune(world.ledger, now + timedelta(days=1), batch=1) for _ in range(3)] == [1, 1, 0]
    assert [target for target, *_ in world.waiting()] == ["later"]


def test_a_message_survives_the_table(world: World) -> None:
    world.customer("acme")
    world.hold("acme")
    [message] = world.announce("slack")
    claim = alerts.claim(world.ledger, "slack")
    assert claim is not None
    assert Message.model_validate(claim.message) == message
    assert (claim.message_id, claim.attempts, claim.unsure) == (message.id, 1, False)


def test_this_package_knows_no_dagster() -> None:
    for path in Path(delivery.__file__).parent.glob("*.py"):
        assert "import dagster" not in path.read_text()
