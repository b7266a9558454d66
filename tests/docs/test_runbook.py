"""The runbook has an entry for whatever goes wrong: every sentence, rule, brake, check, finding and state."""

import ast
import inspect
import re
from collections.abc import Callable
from typing import get_args

import pytest

from symvanta_pipeline.accounts import brakes, mapping, proof, schema
from symvanta_pipeline.alerts.changes import Word
from symvanta_pipeline.alerts.messages import RUNBOOK
from symvanta_pipeline.doctor.examination import CHECKS
from symvanta_pipeline.ledger.status import State
from symvanta_pipeline.sym import contract
from symvanta_pipeline.vanta import errors
from tests.docs.sentences import GAP, explained, of_answers, of_code, of_source, pattern
from tests.support.docs import DOCS, rows, section

RUNBOOK_TEXT = (DOCS / "runbook.md").read_text()


def unexplained(sentences: set[str], text: str) -> set[str]:
    """Return the sentences that no phrase of a page stands for."""
    patterns = [pattern(phrase) for phrase in explained(text)]
    return {sentence for sentence in sentences if not any(p.search(sentence) for p in patterns)}


def stale(sentences: set[str], text: str) -> set[str]:
    """Return the phrases of a page that nothing says."""
    return {phrase for phrase in explained(text) if not any(pattern(phrase).search(s) for s in sentences)}


def first_column(text: str, heading: str) -> set[str]:
    """Return the names in code in the first column of a section's table."""
    return {name for first, *_ in rows(section(text, heading)) for name in re.findall(r"`([^`]+)`", first)}


# What is put together from pieces in the code.
ASSEMBLED = {
    f"rule {GAP} ({GAP}) broken by {GAP}",
    f"held by {GAP}: {GAP}. To look: symvanta plan {GAP}. "
    f"If it is true: symvanta approve {GAP} --hash {GAP} --reason TEXT",
    f"{GAP} is not set: it should hold {GAP}",
    f"{GAP} is malformed: it should hold {GAP}",
    f"{GAP} is {GAP}: {GAP}",
    "the pipeline's own tables are not up to date; run: symvanta migrate",
    "the pipeline's own tables do not exist yet; run: symvanta migrate",
    "the pipeline's own tables are newer than this program; install the version that migrated them",
    f"Sym's database is a standby whose data may be {GAP} old: see that it is connected and replays",
    f"Sym's database is a standby that does not tell how old its data is: {GAP}",
    "first_push: What Vanta lists could not be read, or came in a form that nobody has seen",
    f"first_push: {GAP} are not ours",
    f"Vanta refused the body because of record {GAP}, field {GAP} (400): users.id {GAP}",
    "Vanta refused the body (400)",
    "the reason is blank",
}
# Each is a whole of `ASSEMBLED`, or becomes one.
PIECES = {
    f"the pipeline's own tables {GAP}; run: symvanta migrate",
    f"Vanta refused the body{GAP}{GAP} (400)",
    f"{GAP} is blank",
    f"{GAP}: {GAP}",
}


def all_sentences() -> set[str]:
    return (of_code() - PIECES) | ASSEMBLED


def test_every_sentence_is_explained() -> None:
    assert unexplained(all_sentences(), RUNBOOK_TEXT) == set()


def test_nothing_is_explained_that_nobody_says() -> None:
    assert stale(all_sentences() | AUDIT_DETAILS, RUNBOOK_TEXT) == set()


# Told in the audit log and on pages.
AUDIT_DETAILS = {"consent was denied", "Vanta's consent page reported an error"}


def test_every_status_of_vantas_is_among_them() -> None:
    said = of_answers()
    assert {status for status in errors.PERMANENT if not any(f"({status})" in s for s in said)} == set()
    assert unexplained(said, RUNBOOK_TEXT) == set()


@pytest.mark.parametrize(
    "statement",
    [
        'raise Refused("Vanta refused for a new reason")',
        'raise Refused(f"Vanta refused {what} for a new reason")',
        'raise Unavailable("Vanta is " f"closed on {day} this week")',
        'super().__init__(f"a new kind of trouble with {name}")',
        'sentence = f"a new kind of trouble with {name}"',
    ],
)
def test_a_new_sentence_is_found(statement: str) -> None:
    [sentence] = of_source(statement)
    assert unexplained({sentence}, RUNBOOK_TEXT) == {sentence}


def test_a_row_that_is_missing_and_one_too_many_are_found() -> None:
    row = next(line for line in RUNBOOK_TEXT.splitlines() if "`its lock is not held any more`" in line)
    without = RUNBOOK_TEXT.replace(row, "")
    assert unexplained(all_sentences(), without) == {
        f"organization {GAP}: its lock is not held any more",
        f"organization {GAP}: the connection of its lock is gone",
    }
    more = RUNBOOK_TEXT + "\n| `Vanta is closed on Sundays` | x | y |\n"
    assert stale(all_sentences() | AUDIT_DETAILS, more) == {"Vanta is closed on Sundays"}


def rule_names() -> set[str]:
    """Return every rule that records can break."""
    found = set(contract.COLUMN_BY_RULE)
    for function in (contract.violations, schema.violations, schema._checks, mapping.to_accounts):
        found |= names_of_rules(function)
    return found


def names_of_rules(function: Callable[..., object]) -> set[str]:
    """Return the rules that a function names: first in a `Violation`, or in a tuple."""
    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(function))):
        match node:
            case (
                ast.Tuple(elts=[ast.Constant(value=str(name)), *_]) | ast.Call(args=[ast.Constant(value=str(name)), *_])
            ):
                found.add(name)
    return {name for name in found if re.fullmatch(r"[a-z0-9_]+", name)} - {"organization_id", "user_id"}


def test_every_rule_is_explained_and_no_other() -> None:
    told = first_column(RUNBOOK_TEXT, "held by a rule")
    assert told == rule_names()


def test_every_brake_is_explained_and_no_other() -> None:
    assert first_column((DOCS / "brakes.md").read_text(), "The rules") == set(brakes.RULES)


def test_every_check_of_the_doctor_is_explained_and_no_other() -> None:
    told = first_column((DOCS / "doctor.md").read_text(), "Is it well?") - {"ok", "warn", "fail", "skipped"}
    assert told == {check.name for check in CHECKS}


def test_every_finding_of_a_read_back_is_explained_and_no_other() -> None:
    assert first_column(RUNBOOK_TEXT, "Vanta shows something else than was sent") == set(proof.SEVERITIES)


def test_every_state_is_explained_and_no_other() -> None:
    words = set(get_args(State)) | set(get_args(Word))
    assert first_column(RUNBOOK_TEXT, "States of a customer") == words


@pytest.mark.parametrize("state", ["held", "parked", "failing", "late"])
def test_each_trouble_has_an_entry_that_says_what_is_safe(state: str) -> None:
    assert "**Safe:**" in section(RUNBOOK_TEXT, state)
    assert RUNBOOK[state] == state  # type: ignore[index]


def test_every_alert_leads_to_an_entry() -> None:
    assert set(RUNBOOK) == set(get_args(Word))


@pytest.mark.parametrize(
    ("heading", "row"),
    [
        ("held by a rule", "| `email` |"),
        ("States of a customer", "| `late` |"),
        ("States of a customer", "| `recovered` |"),
    ],
)
def test_a_name_that_is_missing_is_found(heading: str, row: str) -> None:
    assert row in RUNBOOK_TEXT
    [name] = re.findall("`(.*)`", row)
    assert name not in first_column(RUNBOOK_TEXT.replace(row, "| it |"), heading)
