"""The checks: one for each brake, each with a severity, and a warning where there is no answer."""

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import dagster as dg
import pytest

from symvanta_pipeline.accounts.body import Body
from symvanta_pipeline.accounts.brakes import RULES, Brake, HeldChange
from symvanta_pipeline.accounts.diff import compare
from symvanta_pipeline.accounts.proof import SEVERITIES, Finding, Proof, Verdict
from symvanta_pipeline.accounts.state import no_states
from symvanta_pipeline.defs.checks import CHECKS, PROMISES, checks_of
from symvanta_pipeline.ledger.approvals import Approval
from symvanta_pipeline.ledger.history import Looked
from symvanta_pipeline.ledger.snapshots import AcceptedSnapshot
from symvanta_pipeline.planning import Plan
from symvanta_pipeline.rules import Violation
from symvanta_pipeline.sync import CustomerResult, Failure, Push, Reach
from symvanta_pipeline.vanta.client import Acceptance

ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN
ID = UUID(int=1)
NOW = datetime(2026, 11, 24, tzinfo=UTC)
HASH = "ab" * 32
APPROVAL = Approval(7, ID, HASH, ["lost"], "Canary left", "canary", NOW, NOW, None, None)
BRAKE_NAMES = {rule: name for rule, (name, _) in PROMISES.items()}


def result_with(*brakes: Brake, reach: Reach = Reach.PUSH) -> CustomerResult:
    states = no_states()
    held = any(brake.holds for brake in brakes)
    return CustomerResult("acme", reach, plan=Plan(states, compare(states, states), brakes, HASH if held else ""))


def pushed(result: CustomerResult, approval: Approval | None = None) -> CustomerResult:
    body = Body(str(ID), "resource", b"{}", HASH, count=1, active=1, deactivated=0)
    recorded = AcceptedSnapshot(ID, "run", NOW, HASH, 1, 1, 0, 1, NOW, 1, None, None, "accepted", unchanged=False)
    return replace(result, push=Push(body, Acceptance(0.1, 1), recorded), approval=approval)


def brake(rule: str, *, holds: bool = True) -> Brake:
    changes = (HeldChange(rule, "a", "ACTIVE", ""), HeldChange(rule, "b", "ACTIVE", "")) if holds else ()
    return Brake(rule, "2 of 2", holds, changes)


def evaluated(result: CustomerResult) -> dict[str, dg.AssetCheckEvaluation]:
    keys = {check.key for check in CHECKS}
    return {evaluation.check_name: evaluation for evaluation in checks_of(result, keys, {})}


def test_every_brake_has_its_own_promise() -> None:
    assert tuple(PROMISES) == RULES
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names) == len(RULES) + 5
    assert all(check.description.endswith(".") for check in CHECKS)


@pytest.mark.parametrize("rule", RULES)
def test_a_brake_fails_its_own_check_and_no_other(rule: str) -> None:
    told = evaluated(result_with(brake(rule)))
    brakes = {name: told[name] for name in BRAKE_NAMES.values()}
    assert [name for name, check in brakes.items() if not check.passed] == [BRAKE_NAMES[rule]]
    failed = brakes[BRAKE_NAMES[rule]]
    assert failed.severity is ERROR
    assert {name: value.value for name, value in failed.metadata.items()} == {
        "detail": "2 of 2",
        "accounts_held": 2,
        "change_hash": HASH,
    }


@pytest.mark.parametrize("rule", ["without_mfa", "growth", "first_push"])
def test_what_only_warns_is_a_warning(rule: str) -> None:
    failed = evaluated(result_with(brake(rule, holds=False)))[BRAKE_NAMES[rule]]
    assert (failed.passed, failed.severity) == (False, WARN)
    assert {name: value.value for name, value in failed.metadata.items()} == {"detail": "2 of 2"}


def test_an_approved_brake_passes_and_says_which_approval_without_naming_anybody() -> None:
    let_through = evaluated(pushed(result_with(brake("lost")), APPROVAL))[BRAKE_NAMES["lost"]]
    assert let_through.passed
    assert let_through.metadata["approval"].value == 7
    assert let_through.metadata["approved_at"].value == NOW.timestamp()
    assert "canary" not in repr(let_through).lower()


def test_where_nothing_was_sent_the_promises_of_the_brakes_are_kept_and_the_others_not_judged() -> None:
    failure = Failure("failing", "Sym's database cannot be reached")
    told = evaluated(CustomerResult("acme", Reach.PUSH, failure=failure))
    for name in BRAKE_NAMES.values():
        assert told[name].passed
        assert told[name].metadata["nothing_was_sent"].value == failure.sentence
    not_judged = told["records_are_valid"]
    assert (not_judged.passed, not_judged.severity) == (False, WARN)
    assert not_judged.metadata["not_judged"].value == failure.sentence
    assert (told["accepted_by_vanta"].passed, told["accepted_by_vanta"].severity) == (False, ERROR)


def test_what_was_never_read_answers_for_the_source_alone_and_only_if_it_was_the_source() -> None:
    unread = CustomerResult("acme", Reach.PUSH)
    of_source = replace(unread, failure=Failure("held", "a standby", of_source=True))
    told = evaluated(of_source)["source_is_whole_and_fresh"]
    assert (told.passed, told.severity, told.metadata["reason"].value) == (False, ERROR, "a standby")
    assert "not_judged" in evaluated(of_source)["rows_keep_the_contract"].metadata
    for result in (unread, replace(unread, failure=Failure("parked", "no consent"))):
        told = evaluated(result)["source_is_whole_and_fresh"]
        assert (told.passed, told.severity) == (False, WARN)
        assert "not_judged" in told.metadata


def test_an_empty_read_breaks_the_promise_although_it_never_becomes_a_plan() -> None:
    told = evaluated(CustomerResult("acme", Reach.PUSH, row_violations=(Violation("nobody", "user_id", 0),)))
    assert [name for name in BRAKE_NAMES.values() if not told[name].passed] == [BRAKE_NAMES["nobody"]]


def test_what_an_earlier_run_of_the_hour_pushed_was_judged_there() -> None:
    already = pushed(result_with()).push
    assert already is not None
    told = evaluated(CustomerResult("acme", Reach.PUSH, already=already.recorded))
    assert {name for name, check in told.items() if not check.passed} == {"vanta_shows_what_was_sent"}
    assert told["records_are_valid"].metadata["judged_by_run"].value == already.recorded.run_id


@pytest.mark.parametrize("name", SEVERITIES)
def test_what_vanta_shows_passes_only_where_it_is_exactly_that(name: str) -> None:
    severity = SEVERITIES[name]
    verdict: Verdict = "contradicted" if severity == "error" else "proved"
    proof = Proof(verdict, (Finding(name, severity, 3, ("canary@older.example",)),))
    told = evaluated(replace(pushed(result_with()), proof=proof))["vanta_shows_what_was_sent"]
    assert (told.passed, told.severity) == (False, ERROR if severity == "error" else WARN)
    assert told.metadata[f"finding {name}"].value == 3
    assert "canary" not in repr(told)  # an id that we never sent may be somebody's address
    clean = evaluated(replace(pushed(result_with()), proof=Proof("proved", ())))["vanta_shows_what_was_sent"]
    assert clean.passed


def test_what_was_never_read_back_warns() -> None:
    told = evaluated(pushed(result_with()))["vanta_shows_what_was_sent"]
    assert (told.passed, told.severity) == (False, WARN)
    assert "never read back" in str(told.metadata["not_judged"].value)


@pytest.mark.parametrize(
    ("looked", "passed", "severity"),
    [
        (Looked("proved", NOW, {}), True, None),
        (Looked("proved", NOW, {"never_sent": 2}), False, WARN),
        (Looked("contradicted", NOW, {"missing": 2}), False, ERROR),
    ],
)
def test_what_was_not_read_back_this_time_is_as_it_was_seen_last(
    looked: Looked, passed: bool, severity: dg.AssetCheckSeverity | None
) -> None:
    told = evaluated(replace(pushed(result_with()), looked=looked))["vanta_shows_what_was_sent"]
    assert told.passed == passed
    assert passed or told.severity is severity
    assert told.metadata["read_back_at"].value == NOW.timestamp()


def test_every_evaluation_has_the_customer_and_a_severity() -> None:
    told = evaluated(pushed(result_with(*map(brake, RULES)), APPROVAL))
    assert {evaluation.partition for evaluation in told.values()} == {"acme"}
    assert {evaluation.severity for evaluation in told.values()} <= {ERROR, WARN}
