"""Brakes and proof on a real instance: what is held is not sent, is told of, and goes out once it is approved."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.storage.tags import (
    BACKFILL_ID_TAG,
    PARENT_RUN_ID_TAG,
    RETRY_NUMBER_TAG,
    ROOT_RUN_ID_TAG,
)
from pydantic import JsonValue

from symvanta_pipeline.defs.assets import ACCOUNTS, SYNC, USERS
from symvanta_pipeline.defs.checks import PROMISES
from symvanta_pipeline.ledger import approvals, snapshots
from tests.support.parts import CANARY, Parts, ago, held
from tests.support.runs import ASSETS, CHECKS, Finished, launch, of_tick, one, register, status, stretch

ALL = [key.to_user_string() for key in ASSETS]
ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN
BRAKES = {rule: name for rule, (name, _) in PROMISES.items()}
LOST = {BRAKES["lost"], BRAKES["lost_in_a_day"], BRAKES["lost_in_a_week"]}
SHOWN = "vanta_shows_what_was_sent"
SOURCE = "source_is_whole_and_fresh"


def pushed(parts: Parts, instance: dg.DagsterInstance, *slugs: str, people: int = 10) -> list[UUID]:
    """Connect customers and push them once."""
    made = [parts.customer(slug, people=people) for slug in slugs]
    register(instance, *slugs)
    parts.run(*slugs)
    assert all(len(parts.puts(organization)) == 1 for organization in made)
    return made


def leave(parts: Parts, organization: UUID, count: int) -> None:
    """Deactivate some: six of ten are held."""
    parts.sym.execute(
        "UPDATE users SET deactivated_at = now() WHERE id IN"
        " (SELECT id FROM users WHERE organization_id = %s AND deactivated_at IS NULL ORDER BY id LIMIT %s)",
        organization,
        count,
    )


def approve(parts: Parts, organization: UUID) -> approvals.Approval:
    """Approve what is held, in words that may be seen nowhere else."""
    record = snapshots.customer_record(parts.ledger, organization)
    assert record is not None
    assert record.change_hash is not None
    assert record.outcome_kind is not None
    return approvals.approve(
        parts.ledger, organization, record.change_hash, rules=[record.outcome_kind], reason="Canary left", by="canary"
    )


def evaluations(finished: Finished, customer: str) -> dict[str, dg.AssetCheckEvaluation]:
    """Return how a customer's checks ended in a run."""
    found = {}
    for entry in finished.instance.all_logs(finished.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION):
        assert entry.dagster_event is not None
        evaluation = entry.dagster_event.asset_check_evaluation_data
        if evaluation.partition == customer:
            found[evaluation.check_name] = evaluation
    return found


def failed(finished: Finished, customer: str) -> dict[str, dg.AssetCheckSeverity]:
    """Return the checks that a customer failed, by severity."""
    return {name: check.severity for name, check in evaluations(finished, customer).items() if not check.passed}


def figures(finished: Finished, asset: dg.AssetKey, customer: str) -> Mapping[str, Any]:
    """Return what a run's materialization tells."""
    for entry in finished.instance.all_logs(finished.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION):
        materialization = entry.asset_materialization
        assert materialization is not None
        if (materialization.asset_key, materialization.partition) == (asset, customer):
            return {name: value.value for name, value in materialization.metadata.items()}
    raise AssertionError("it was not materialized")


def logged(finished: Finished, text: str) -> list[int | str]:
    """Return the levels at which the op logged something that contains the text."""
    entries = finished.instance.all_logs(finished.run_id)
    return [entry.level for entry in entries if not entry.is_dagster_event and text in entry.user_message]


def requests(parts: Parts, organization: UUID) -> int:
    """Count everything that arrived at Vanta with the customer's credentials."""
    return sum(entry["tenant"] == str(organization) for entry in parts.vanta.journal())


def backfill(instance: dg.DagsterInstance, began: datetime) -> str:
    """Begin a backfill as the UI does; returns its id, with which each of its runs is tagged."""
    made = PartitionBackfill(
        backfill_id=uuid4().hex[:8],
        status=BulkActionStatus.REQUESTED,
        from_failure=False,
        tags={},
        backfill_timestamp=began.timestamp(),
    )
    instance.add_backfill(made)
    return made.backfill_id


# Held.


def test_a_backfill_obeys_in_each_of_its_runs(parts: Parts, instance: dg.DagsterInstance) -> None:
    acme, bold, cold = pushed(parts, instance, "acme", "bold", "cold")
    leave(parts, bold, 6)
    whole = backfill(instance, ago(seconds=0))
    puts = len(parts.puts(bold))
    runs = [launch(instance, one(slug) | {BACKFILL_ID_TAG: whole}) for slug in ("acme", "bold", "cold")]
    assert [run.success for run in runs] == [True, False, True]
    assert [len(parts.puts(organization)) for organization in (acme, bold, cold)] == [puts + 1, puts, puts + 1]
    assert "held by lost" in runs[1].failure


def test_all_runs_of_a_backfill_are_one_cycle(parts: Parts, instance: dg.DagsterInstance) -> None:
    """Each run begins after the one before: none would see more than its own customers."""
    slugs = [f"c{n}" for n in range(6)]
    made = pushed(parts, instance, *slugs, people=3)
    for organization in made[:4]:
        leave(parts, organization, 3)
    whole, other = (backfill(instance, ago(seconds=0)) for _ in range(2))
    stopped = "3 of 6 customers are newly held by a brake (nobody_active)"

    def run(slug: str, **tags: str) -> Finished:
        return launch(instance, one(slug) | {BACKFILL_ID_TAG: whole} | tags)

    held = [run(slug) for slug in slugs[:3]]
    assert all("held by nobody_active" in each.failure for each in held)
    for slug in slugs[3:]:  # the one that would be held, and those that nothing is wrong with
        assert stopped in run(slug).failure
    assert [len(parts.puts(organization)) for organization in made] == [1] * 6

    # What a person launches or repeats is a cycle of its own, and so is another backfill from its own beginning on.
    repeated = run("c4", **{PARENT_RUN_ID_TAG: held[0].run_id, ROOT_RUN_ID_TAG: held[0].run_id})
    assert repeated.success
    assert launch(instance, one("c5")).success
    assert stopped in launch(instance, one("c5") | {BACKFILL_ID_TAG: other}).failure
    assert launch(instance, one("c5") | {BACKFILL_ID_TAG: backfill(instance, ago(seconds=0))}).success


def test_a_held_customer_keeps_its_last_good_state_and_the_others_go_on(
    parts: Parts, instance: dg.DagsterInstance
) -> None:
    acme, zeta = pushed(parts, instance, "acme", "zeta")
    before = parts.at_vanta(acme)
    leave(parts, acme, 6)
    leave(parts, zeta, 5)  # at the limit
    finished = launch(instance, stretch("acme", "zeta"))

    assert not finished.success
    assert finished.materialized() == {"acme": ALL[:2], "zeta": ALL}
    assert status(instance, USERS) == ({"acme", "zeta"}, set())
    assert status(instance, ACCOUNTS) == ({"acme", "zeta"}, set())
    assert status(instance, SYNC) == ({"zeta"}, {"acme"})
    # The op itself brakes, before the PUT.
    assert (len(parts.puts(acme)), len(parts.puts(zeta))) == (1, 2)
    assert parts.at_vanta(acme) == before
    assert parts.at_vanta(zeta) == parts.at_sym(zeta)

    told = finished.failure
    assert told.startswith("1 of 2 customers did not get through; the others are done.\nacme: held by lost: 6 of 10 ")
    assert "symvanta plan acme" in told
    assert re.search(r"symvanta approve acme --hash [0-9a-f]{12} --reason", told)
    assert "zeta" not in told

    assert failed(finished, "acme") == dict.fromkeys([*LOST, "accepted_by_vanta"], ERROR)
    assert failed(finished, "zeta") == {}
    assert set(evaluations(finished, "acme")) == {check.name for check in CHECKS}
    # It still shows what was sent before.
    assert evaluations(finished, "acme")[SHOWN].passed
    lost = evaluations(finished, "acme")[BRAKES["lost"]].metadata
    assert lost["accounts_held"].value == 6
    assert str(lost["detail"].value).startswith(
        "6 of 10 active users would no longer be active (60 %, limit 50 % and 3)"
    )


def test_however_it_is_launched_it_is_held(parts: Parts, instance: dg.DagsterInstance) -> None:
    [acme] = pushed(parts, instance, "acme")
    leave(parts, acme, 6)
    held = launch(instance, one("acme"))
    parents = {PARENT_RUN_ID_TAG: held.run_id, ROOT_RUN_ID_TAG: held.run_id}
    launched = [
        launch(instance, one("acme")),
        launch(instance, one("acme") | parents),  # a person's re-execution
        launch(instance, one("acme") | of_tick(ago(minutes=-1)) | parents | {RETRY_NUMBER_TAG: "1"}),
        launch(instance, stretch("acme", "acme") | {BACKFILL_ID_TAG: "backfill"}),
        launch(instance, one("acme") | of_tick(ago(minutes=-1))),
    ]
    assert [run.materialized() for run in launched] == [{"acme": ALL[:2]}] * len(launched)
    only_the_third = launch(instance, one("acme"), assets=[SYNC])
    assert only_the_third.materialized() == {}
    assert [run.success for run in (held, *launched, only_the_third)] == [False] * (len(launched) + 2)
    assert len(parts.puts(acme)) == 1
    # What counts PUTs sees one as soon as nothing holds.
    parts.sym.execute("UPDATE users SET deactivated_at = NULL WHERE organization_id = %s", acme)
    assert launch(instance, one("acme")).success
    assert len(parts.puts(acme)) == 2


SourceTrouble = Callable[[Parts, UUID], AbstractContextManager[object]]


@contextmanager
def deleted(parts: Parts, organization: UUID) -> Iterator[None]:
    parts.sym.execute("UPDATE organizations SET deleted_at = now() WHERE id = %s", organization)
    yield


@contextmanager
def another_schema(parts: Parts, _organization: UUID) -> Iterator[None]:
    parts.sym.execute("ALTER TABLE identities RENAME COLUMN service TO provider")
    yield
    parts.sym.execute("ALTER TABLE identities RENAME COLUMN provider TO service")


@contextmanager
def too_slow(_parts: Parts, _organization: UUID) -> Iterator[None]:
    """The table is locked for longer than a statement may take."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("symvanta_pipeline.sym.database.STATEMENT_TIMEOUT_SECONDS", 0.3)
        with held(os.environ["SYM_DATABASE_URL"], "LOCK TABLE users IN ACCESS EXCLUSIVE MODE"):
            yield


@contextmanager
def lagging(parts: Parts, organization: UUID) -> Iterator[None]:
    """What Vanta accepted last was read later than what a replica has now."""
    with parts.ledger.transaction():
        parts.ledger.execute("SET LOCAL session_replication_role = replica")
        parts.ledger.execute(
            "UPDATE accepted_snapshots SET read_at = now() + interval '1 hour' WHERE organization_id = %s",
            [organization],
        )
    yield


@contextmanager
def unreachable(_parts: Parts, _organization: UUID) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SYM_DATABASE_URL", "postgresql://nobody:nothing@127.0.0.1:1/nowhere")
        yield


@pytest.mark.parametrize(
    ("trouble", "outcome", "words"),
    [
        (deleted, "held", "is deleted in Sym's database"),
        (another_schema, "held", "Sym's database says: column"),
        (too_slow, "held", "broke off (QueryCanceled 57014)"),
        (lagging, "held", "older than what Vanta accepted last"),
        (unreachable, "failing", "cannot connect to Sym's database"),
    ],
)
def test_what_holds_at_the_source_fails_its_check_and_sends_nothing(
    parts: Parts, instance: dg.DagsterInstance, trouble: SourceTrouble, outcome: str, words: str
) -> None:
    [acme] = pushed(parts, instance, "acme")
    with trouble(parts, acme):
        finished = launch(instance, one("acme"))
    told = evaluations(finished, "acme")[SOURCE]
    assert (told.passed, told.severity) == (False, ERROR)
    assert words in str(told.metadata["reason"].value)
    assert (parts.outcome(acme), len(parts.puts(acme))) == (outcome, 1)


# Look, then approve.


def test_the_subset_of_two_assets_is_the_plan_and_asks_vanta_nothing(
    parts: Parts, instance: dg.DagsterInstance
) -> None:
    acme, zeta = pushed(parts, instance, "acme", "zeta")
    leave(parts, acme, 6)
    parts.person(acme)
    parts.sym.execute(
        "UPDATE users SET type = 'admin' WHERE id = (SELECT max(id::text)::uuid FROM users WHERE organization_id = %s"
        " AND deactivated_at IS NULL AND id::text = ANY(%s))",
        acme,
        list(parts.at_vanta(acme)),
    )
    before = requests(parts, acme), requests(parts, zeta)
    finished = launch(instance, stretch("acme", "zeta"), assets=ASSETS[:2])
    assert finished.success
    assert (requests(parts, acme), requests(parts, zeta)) == before
    told = figures(finished, ACCOUNTS, "acme")
    assert {name: told[name] for name in told if name.startswith("change ")} == {
        "change added": 1,
        "change reactivated": 0,
        "change deactivated": 6,
        "change vanished": 0,
        "change changed": 1,
        "change unchanged": 3,
        "change of status": 6,
        "change of level": 1,
        "change of login": 0,
        "change of mfa": 0,
    }
    assert told["held_by"].startswith("lost, ")
    assert re.fullmatch("[0-9a-f]{64}", told["change_hash"])
    assert f"symvanta approve acme --hash {told['change_hash'][:12]} --reason" in told["what_to_do"]
    assert failed(finished, "acme") == dict.fromkeys(LOST, ERROR)
    of_zeta = figures(finished, ACCOUNTS, "zeta")
    assert (of_zeta["held_by"], of_zeta["change unchanged"]) == ("nothing", 10)
    assert not {"change_hash", "what_to_do"} & of_zeta.keys()


def test_executing_checks_alone_tells_of_the_brakes_and_sends_nothing(
    parts: Parts, instance: dg.DagsterInstance
) -> None:
    acme, zeta = pushed(parts, instance, "acme", "zeta")
    leave(parts, acme, 6)
    before = requests(parts, acme), requests(parts, zeta)
    finished = launch(instance, {}, assets=(), checks=CHECKS)
    assert finished.success
    assert failed(finished, "acme") == dict.fromkeys(LOST, ERROR)
    assert failed(finished, "zeta") == {}
    assert (requests(parts, acme), requests(parts, zeta)) == before


def test_what_is_approved_goes_out_once_and_its_checks_pass(parts: Parts, instance: dg.DagsterInstance) -> None:
    [acme] = pushed(parts, instance, "acme")
    leave(parts, acme, 6)
    launch(instance, one("acme"))
    approval = approve(parts, acme)
    assert len(parts.puts(acme)) == 1
    finished = launch(instance, one("acme"))
    assert finished.success
    assert finished.materialized() == {"acme": ALL}
    assert parts.at_vanta(acme) == parts.at_sym(acme)
    assert failed(finished, "acme") == {}
    let_through = evaluations(finished, "acme")[BRAKES["lost"]].metadata
    assert {name: let_through[name].value for name in ("approval", "approved_at", "change_hash", "accounts_held")} == {
        "approval": approval.id,
        "approved_at": approval.at.timestamp(),
        "change_hash": approval.hash,
        "accounts_held": 6,
    }
    for asset in (ACCOUNTS, SYNC):
        told = figures(finished, asset, "acme")
        assert (told["approval"], told["change deactivated"]) == (approval.id, 6)
    assert figures(finished, ACCOUNTS, "acme")["held_by"] == "nothing"
    # A re-execution finds the approval used.
    leave(parts, acme, 3)
    assert not launch(instance, one("acme") | {PARENT_RUN_ID_TAG: finished.run_id}).success
    assert len(parts.puts(acme)) == 2


# Told once.


def test_who_is_held_since_yesterday_does_not_hide_who_is_new(parts: Parts, instance: dg.DagsterInstance) -> None:
    acme, bold, _, zeta = pushed(parts, instance, "acme", "bold", "cold", "zeta")
    leave(parts, acme, 6)
    leave(parts, bold, 6)
    customers = stretch("acme", "zeta")
    first = launch(instance, customers | of_tick(ago(minutes=-1)))
    assert re.search(r"\nacme: held by .*\nbold: held by ", first.failure)
    assert "still" not in first.failure
    leave(parts, zeta, 6)
    second = launch(instance, customers | of_tick(ago(minutes=-2)))
    count, news, rest = second.failure.splitlines()
    assert count == "3 of 4 customers did not get through; the others are done."
    assert news.startswith("zeta: held by lost: 6 of 10")
    assert rest == "still, since earlier runs (symvanta customers says why): acme, bold"
    levels = {slug: logged(second, f"{slug}: held by") for slug in ("acme", "bold", "zeta")}
    assert levels == {"acme": [20], "bold": [20], "zeta": [40]}
    # A person who asks is told in full.
    by_hand = launch(instance, one("acme"))
    assert by_hand.failure.splitlines()[1].startswith("acme: held by lost: 6 of 10")
    assert logged(by_hand, "acme: held by") == [40]


def test_a_cycle_that_stops_is_told_of_once(parts: Parts, instance: dg.DagsterInstance) -> None:
    slugs = [f"customer-{n}" for n in range(6)]
    organizations = pushed(parts, instance, *slugs)
    for organization in organizations[:3]:
        leave(parts, organization, 6)
    finished = launch(instance, stretch(slugs[0], slugs[-1]))
    lines = finished.failure.splitlines()
    assert lines[0] == "6 of 6 customers did not get through."
    assert lines[-1].startswith(
        "customer-3, customer-4, customer-5: not tried: this cycle was stopped for everybody: 3 of"
    )
    assert finished.failure.count("this cycle was stopped") == 1
    assert logged(finished, "this cycle was stopped") == [40]
    assert [len(parts.puts(organization)) for organization in organizations] == [1] * 6
    assert status(instance, SYNC) == (set(), set(slugs))


# Proof.


def test_what_was_pushed_is_proved(parts: Parts, instance: dg.DagsterInstance) -> None:
    pushed(parts, instance, "acme")
    finished = launch(instance, one("acme"))
    assert evaluations(finished, "acme")[SHOWN].passed
    told = figures(finished, SYNC, "acme")
    assert {name: told[name] for name in told if name.startswith(("proof", "finding"))} == {
        "proof": "proved",
        "finding missing": 0,
        "finding status": 0,
        "finding level": 0,
        "finding duplicate": 0,
        "finding never_sent": 0,
    }


def test_what_vanta_said_and_did_not_do_is_contradicted(parts: Parts, instance: dg.DagsterInstance) -> None:
    [acme] = pushed(parts, instance, "acme")
    leave(parts, acme, 2)
    parts.vanta.fault("put", "ignored", tenant=str(acme))
    finished = launch(instance, one("acme"))
    assert fired(parts, acme) == [1]
    assert failed(finished, "acme") == {SHOWN: ERROR}
    assert evaluations(finished, "acme")[SHOWN].metadata["finding status"].value == 2
    told = figures(finished, SYNC, "acme")
    assert (told["proof"], told["finding status"]) == ("contradicted", 2)
    assert launch(instance, one("acme")).checked()["acme"][SHOWN]


def test_what_vanta_shows_beyond_that_is_a_warning(parts: Parts, instance: dg.DagsterInstance) -> None:
    """An account of an older connection, which no push removes."""
    [acme] = pushed(parts, instance, "acme")
    listed = parts.vanta.accounts(str(acme))
    strange = {**listed[0], "uniqueId": "canary@older.example"}
    parts.vanta.fault("list", "status", tenant=str(acme), status=200, body={"resources": [*listed, strange]})
    finished = launch(instance, one("acme"))
    assert fired(parts, acme) == [1]
    assert finished.success
    assert failed(finished, "acme") == {SHOWN: WARN}
    told = figures(finished, SYNC, "acme")
    assert (told["proof"], told["finding never_sent"]) == ("proved", 1)


def test_what_could_not_be_read_back_is_accepted_and_no_more(parts: Parts, instance: dg.DagsterInstance) -> None:
    [acme] = pushed(parts, instance, "acme")
    parts.vanta.fault("list", "status", tenant=str(acme), status=503)
    finished = launch(instance, one("acme"))
    assert fired(parts, acme) == [1]
    assert finished.success
    assert failed(finished, "acme") == {}
    assert "read_back_at" in evaluations(finished, "acme")[SHOWN].metadata, "of the push before"
    told = figures(finished, SYNC, "acme")
    assert told["proof"] == "accepted"
    assert told["read_back"] == 0, "which is why there are no findings"
    assert {told[name] for name in told if name.startswith("finding")} == {0}
    launch(instance, one("acme"))
    proved = figures(Finished(instance, instance.get_run_ids(limit=1)[0]), SYNC, "acme")
    assert (proved["proof"], proved["read_back"]) == ("proved", 1)
    assert proved.keys() == told.keys(), "no plot has a hole"


def fired(parts: Parts, organization: UUID) -> list[int]:
    """Tell how often each of the customer's faults struck."""
    return [fault["fired"] for fault in parts.vanta.faults() if fault.get("tenant") == str(organization)]


# What may be seen.


def test_no_event_names_anybody(parts: Parts, instance: dg.DagsterInstance) -> None:
    acme, zeta = pushed(parts, instance, "acme", "zeta")
    first = parts.customer("first")  # whose list holds what somebody else put there, under an address
    register(instance, "first")
    there = parts.vanta.accounts(str(acme))
    listed: list[JsonValue] = [{**account, "uniqueId": f"canary{n}@older.example"} for n, account in enumerate(there)]
    for organization in (first, zeta):
        parts.vanta.fault("list", "status", tenant=str(organization), status=200, body={"resources": listed})
    leave(parts, acme, 6)
    launch(instance, stretch("acme", "first"))
    approve(parts, acme)
    launch(instance, stretch("acme", "first"))
    launch(instance, {}, assets=(), checks=CHECKS)
    assert fired(parts, first) == fired(parts, zeta) == [1]
    events = [repr(entry) for run in instance.get_runs() for entry in instance.all_logs(run.run_id)]
    assert len(events) > 100
    assert [
        event[max(0, found.start() - 60) : found.end() + 60] for event in events if (found := CANARY.search(event))
    ] == []
