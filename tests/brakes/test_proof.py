"""Reading back what was pushed: proved, contradicted or unreadable, and never at a push's expense."""

from collections.abc import Callable
from typing import Any

import pytest

from symvanta_pipeline.ledger import history
from symvanta_pipeline.sync import CustomerResult
from tests.brakes.world import Company, World


def findings(company: Company) -> tuple[str, dict[str, tuple[str, int]]]:
    """Return the latest verdict, and severity and count of each finding."""
    verdict, found = company.proofs()[-1]
    return verdict, {finding["name"]: (finding["severity"], finding["count"]) for finding in found}


def accepted(company: Company, result: CustomerResult) -> None:
    """See that the push counts, whatever reading it back showed."""
    assert result.failure is None
    assert result.push is not None
    outcome = company.outcome()
    assert outcome is not None
    assert (outcome[0], company.parts.intents(company.id)[-1]) == ("accepted", "accepted")


def test_what_vanta_lists_is_what_it_was_sent(world: World) -> None:
    company = world.company(members=3, admins=2)
    company.leave(1)
    result = company.push()
    accepted(company, result)
    assert result.proof is not None
    assert (result.proof.verdict, result.proof.findings, result.warnings) == ("proved", (), [])
    assert (company.puts(), company.lists()) == (1, 2)  # the first push looked before
    company.vanish(1)
    company.pushed()
    assert (company.puts(), company.lists()) == (2, 3)  # whom Vanta lists as deleted is no finding
    assert [verdict for verdict, _ in company.proofs()] == ["proved", "proved"]
    pushes = history.pushes(world.parts.ledger, company.id)
    assert [(push.proof, push.findings, push.proved_at is not None) for push in pushes] == [("proved", [], True)] * 2


# Vanta says that it applied what it did not.


def leave(company: Company) -> None:
    company.leave(2)


def promote(company: Company) -> None:
    company.promote(2)


def hire(company: Company) -> None:
    company.hire(2)


def vanish(company: Company) -> None:
    company.vanish(2)


IGNORED: list[tuple[Callable[[Company], None], str, dict[str, tuple[str, int]]]] = [
    (leave, "contradicted", {"status": ("error", 2)}),
    (promote, "contradicted", {"level": ("error", 2)}),
    (hire, "contradicted", {"missing": ("error", 2)}),
    (vanish, "proved", {"never_sent": ("warn", 2)}),
]


def test_what_vanta_did_not_apply_is_found(world: World) -> None:
    company = world.company(members=10).pushed()
    for move, verdict, found in IGNORED:
        move(company)
        company.fault("put", "ignored")
        result = company.push()
        assert company.fired()[-1] == 1
        accepted(company, result)
        assert findings(company) == (verdict, found)
        assert result.proof is not None
        assert result.proof.verdict == verdict
        [name] = found
        [warning] = result.warnings
        assert warning.startswith(f"read back, {name}: 2 (")
        company.pushed()
        assert findings(company) == ("proved", {})


def listed(company: Company) -> list[dict[str, Any]]:
    return [
        {"uniqueId": unique, "status": status, "permissionLevel": level, "deletedAt": None}
        for unique, (status, level) in sorted(company.at_sym().items())
    ]


def test_duplicates_and_ids_that_were_never_sent_are_worth_a_warning(world: World) -> None:
    company = world.company(members=3).pushed()
    found = listed(company)
    strange = {"uniqueId": "canary@older.example", "status": "ACTIVE", "permissionLevel": "ADMIN", "deletedAt": None}
    several = [*found, found[0], strange, strange]
    for body in (several, {"results": {"data": several}}):
        company.fault("list", "status", status=200, body=body)
        result = company.push()
        assert company.fired()[-1] == 1
        assert result.failure is None
        assert findings(company) == ("proved", {"duplicate": ("warn", 2), "never_sent": ("warn", 1)})


UNREADABLE: list[tuple[str, dict[str, Any]]] = [
    ("status", {"status": 503}),
    ("status", {"status": 403}),
    ("html", {}),
    ("invalid_json", {}),
    ("drop_before", {}),
    ("status", {"status": 200, "body": {"resources": [{"uniqueId": "canary@person.example"}]}}),
    ("status", {"status": 429, "retry_after": 1}),
]


def test_a_list_that_cannot_be_had_takes_nothing_back_and_is_asked_for_once(world: World) -> None:
    company = world.company(members=9).pushed()
    for kind, options in UNREADABLE:
        company.hire(1)
        looks, puts = company.lists(), company.puts()
        company.fault("list", kind, times=9, **options)
        result = company.push()
        assert company.fired() == [1]
        company.parts.vanta.clear_faults()
        assert (company.lists(), company.puts()) == (looks + 1, puts + 1)
        accepted(company, result)
        assert company.arrived()
        assert (result.proof, company.proofs()[-1]) == (None, ("unreadable", []))
        [warning] = result.warnings
        assert warning.startswith("what Vanta accepted could not be read back (")
    assert len(company.proofs()) == 1 + len(UNREADABLE)


# Only from what the budget has left.


@pytest.mark.parametrize(
    ("per_minute", "first", "second"),
    [
        # Slots taken before each question: 2 by a first push, and 1 more by its read-back; 1 by the next push.
        (9, True, True),
        (8, True, False),
        (5, True, False),
        (4, False, False),
    ],
)
def test_a_read_back_leaves_half_of_the_budget_to_pushes(
    world: World, monkeypatch: pytest.MonkeyPatch, per_minute: int, *, first: bool, second: bool
) -> None:
    monkeypatch.setenv("VANTA_RESOURCE_REQUESTS_PER_MINUTE", str(per_minute))
    company = world.company(members=3)
    for reads_back, looks_before in ((first, 1), (second, 0)):
        looks, puts, proofs = company.lists(), company.puts(), len(company.proofs())
        [result] = world.parts.run(company.slug)
        accepted(company, result)
        assert result.push is not None
        assert result.seconds["slot_wait"] == 0  # nobody waited
        assert (result.proof is not None) == reads_back
        assert company.puts() == puts + 1
        assert company.lists() == looks + looks_before + reads_back
        assert len(company.proofs()) == proofs + reads_back
        assert result.warnings == []


def test_every_request_takes_a_slot(world: World) -> None:
    def spent() -> int:
        [(count,)] = world.parts.ledger.execute(
            "SELECT cardinality(spent) FROM rate_budgets WHERE name = 'resource'"
        ).fetchall()
        return int(count)

    company = world.company(members=3).pushed()
    assert spent() == company.puts() + company.lists() == 3
    company.pushed()
    assert spent() == company.puts() + company.lists() == 5


def test_nothing_is_read_back_while_vanta_asked_for_a_pause(world: World) -> None:
    company = world.company(members=3).pushed()
    company.fault("list", "status", status=429, retry_after=600)
    assert company.push().proof is None
    assert company.fired() == [1]
    [(paused,)] = world.parts.ledger.execute(
        "SELECT paused_until > now() + interval '500 seconds' FROM rate_budgets WHERE name = 'resource'"
    ).fetchall()
    assert paused
    sync = world.cycle()
    assert sync.destination is not None
    assert not sync.destination.session(company.id).may_read_back()
