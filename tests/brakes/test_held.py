"""Each brake at its limit and one over, through the real chain: a held push reaches Vanta with no request."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from symvanta_pipeline.sync import CustomerResult, Reach
from symvanta_pipeline.vanta.session import ATTEMPTS
from tests.brakes.world import OTP, Company, World, nothing_sent, rules, sentence, worker
from tests.support.parts import ago, sentences

Move = Callable[[Company], object]


def lose(count: int) -> Move:
    return lambda company: company.leave(count)


def vanish(count: int) -> Move:
    return lambda company: company.vanish(count)


def replaced(count: int) -> Move:
    """As if somebody else had always been there: nobody is left to vanish from a company that is empty."""

    def move(company: Company) -> None:
        company.vanish(count)
        company.hire(count)

    return move


def promote(count: int) -> Move:
    return lambda company: company.promote(count)


def hire(count: int) -> Move:
    return lambda company: company.hire(count)


LOST = ["lost", "lost_in_a_day"]
LOST_OF_FEW = [*LOST, "lost_in_a_week"]
NOBODY_ACTIVE = ["nobody_active"]


@dataclass(frozen=True)
class Limit:
    """A company, what may just happen to it within an hour, and what may not.

    Attributes:
        holding: the brakes that hold what may not.
    """

    name: str
    company: dict[str, int]
    passes: Move
    held: Move
    holding: list[str]


LIMITS = [
    Limit("1 lost", {"members": 1}, promote(1), lose(1), NOBODY_ACTIVE),
    Limit("3 lost", {"members": 3}, lose(2), lose(3), NOBODY_ACTIVE + LOST_OF_FEW),
    Limit("4 lost", {"members": 4}, lose(2), lose(3), LOST_OF_FEW),
    Limit("10 lost", {"members": 10}, lose(5), lose(6), LOST_OF_FEW),
    Limit("25 lost", {"members": 25}, lose(5), lose(6), LOST),
    Limit("25 all lost", {"members": 25}, lose(1), lose(25), NOBODY_ACTIVE + LOST_OF_FEW),
    Limit("1000 lost", {"members": 1000}, lose(200), lose(201), LOST),
    Limit("1 vanished", {"members": 1}, replaced(1), lose(1), NOBODY_ACTIVE),
    Limit("3 vanished", {"members": 3}, replaced(2), replaced(3), [*LOST_OF_FEW, "vanished"]),
    Limit("10 vanished", {"members": 10}, vanish(2), vanish(3), ["vanished"]),
    Limit("25 vanished", {"members": 25}, vanish(2), vanish(3), ["vanished"]),
    Limit("100 vanished", {"members": 100}, vanish(5), vanish(6), ["vanished"]),
    Limit("1000 vanished", {"members": 1000}, vanish(9), vanish(10), ["vanished"]),
    Limit("1 admin", {"members": 1}, promote(1), lambda company: company.hire(3, admins=True), ["admins"]),
    Limit("3 admins", {"members": 3}, promote(2), promote(3), ["admins"]),
    Limit("10 admins", {"members": 10}, promote(2), promote(3), ["admins"]),
    Limit("25 admins by points", {"members": 13, "admins": 12}, promote(2), promote(3), ["admins"]),
    Limit("same count, but all admins", {"members": 25, "admins": 1}, promote(1), promote(25), ["admins"]),
    Limit("1000 admins doubled", {"members": 900, "admins": 100}, promote(99), promote(100), ["admins"]),
    Limit("growth from 1", {"members": 1}, hire(9), hire(10), ["growth"]),
    Limit("growth from 25", {"members": 25}, hire(225), hire(226), ["growth"]),
]


def held_for(company: Company, holding: list[str]) -> CustomerResult:
    """Push, and see that these brakes keep Vanta from hearing anything of it."""
    with nothing_sent(company):
        held = company.push()
    assert rules(held) == holding
    assert held.failure is not None
    assert (held.failure.outcome, held.failure.kind, held.push) == ("held", holding[0], None)
    outcome = company.outcome()
    assert outcome is not None
    assert outcome[:2] == ("held", holding[0])
    return held


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.name)
def test_one_over_the_limit_is_held_and_at_the_limit_it_passes(world: World, limit: Limit) -> None:
    company = world.company(members=limit.company["members"], admins=limit.company.get("admins", 0)).pushed()
    with company.undone():
        limit.held(company)
        held_for(company, limit.holding)
    limit.passes(company)
    passed = company.push()
    assert (passed.failure, rules(passed), company.puts()) == (None, [], 2)
    assert company.arrived()


def test_the_planted_violation_one_put_is_seen(world: World) -> None:
    company = world.company(members=1)
    with pytest.raises(AssertionError), nothing_sent(company):
        company.push()
    other = world.company("other", members=1).pushed()
    accounts = other.parts.vanta.accounts(str(other.id))
    with pytest.raises(AssertionError), nothing_sent(other):
        other.put_by_somebody_else(accounts)


def test_a_held_customer_is_told_how_to_look_and_to_approve_and_is_news_once(world: World) -> None:
    company = world.company(members=25).pushed()
    company.leave(6)
    first = held_for(company, LOST)
    assert first.plan is not None
    short = first.plan.change_hash[:12]
    ids = sorted(str(i) for i in set(company.everybody()) - set(company.active()))
    assert sentence(first) == (
        f"held by lost: 6 of 25 active users would no longer be active (24 %, limit 20 % and 5): {', '.join(ids[:5])}"
        f" and 1 more; lost_in_a_day: 6 of 25 active users would be lost over 24 hours (24 %, limit 20 % and 5), and"
        f" this push takes away 6: {', '.join(ids[:5])} and 1 more. To look: symvanta plan acme."
        f" If it is true: symvanta approve acme --hash {short} --reason TEXT"
    )
    again = held_for(company, LOST)
    assert (first.is_news, again.is_news) == (True, False)
    assert sentence(again) == sentence(first)


def test_a_held_customer_disturbs_nobody_else(world: World) -> None:
    before, held, after = (world.company(slug, members=25).pushed() for slug in ("before", "held", "after"))
    for company, count in ((before, 1), (held, 6), (after, 5)):
        company.leave(count)
    with nothing_sent(held):
        told = sentences(world.run("before", "held", "after"))
    assert {slug: failure and failure[0] for slug, failure in told.items()} == {
        "before": None,
        "held": "held",
        "after": None,
    }
    assert before.arrived()
    assert after.arrived()


def test_nobody_at_all_is_held_and_cannot_be_approved(world: World) -> None:
    company = world.company(members=3).pushed()
    company.remove_everybody()
    with nothing_sent(company):
        held = company.push()
    assert held.failure is not None
    assert (held.failure.outcome, held.failure.change_hash) == ("held", None)
    assert "rule nobody" in sentence(held)


def test_mfa_off_for_everybody_warns_and_is_told_to_vanta(world: World) -> None:
    company = world.company(admins=10, mfa=OTP).pushed()
    company.set_mfa(2, [])
    assert company.push().warnings == []
    company.set_mfa(3, [])
    assert company.push().warnings == []  # the share goes up from 2 to 3 of 10 within this push
    company.set_mfa(10, [])
    warned = company.push()
    assert warned.failure is None
    [warning] = warned.warnings
    assert warning.startswith("without_mfa: People without MFA would go from 3 of 10 active users (30 %) to 10 of 10")
    assert {tuple(a["mfaMethods"]) for a in world.parts.vanta.accounts(str(company.id))} == {("DISABLED",)}


def test_growth_warns_before_it_holds(world: World) -> None:
    company = world.company(members=25).pushed()
    company.hire(50)
    assert company.push().warnings == []
    other = world.company("other", members=25).pushed()
    other.hire(51)
    warned = other.push()
    assert warned.failure is None
    assert [warning.split(":")[0] for warning in warned.warnings] == ["growth"]
    assert other.arrived()


# A first push.


def foreign(*unique_ids: str) -> list[dict[str, Any]]:
    """Return accounts that somebody else put there."""
    return [
        {
            "uniqueId": unique_id,
            "displayName": "Canary Else",
            "fullName": "Canary Else",
            "accountName": "canary@else.example",
            "email": "canary@else.example",
            "externalUrl": "https://else.example/1",
            "permissionLevel": "BASE",
            "createdTimestamp": "2026-01-01T00:00:00Z",
            "status": "ACTIVE",
            "authMethod": "SSO",
            "mfaMethods": [],
            "mfaEnabled": False,
        }
        for unique_id in unique_ids
    ]


def test_a_first_push_to_an_empty_list_goes_out(world: World) -> None:
    company = world.company(members=3)
    assert company.push().failure is None
    assert (company.lists(), company.puts()) == (2, 1)  # looked before, and read back
    assert company.arrived()


def test_a_first_push_over_our_own_ids_goes_out(world: World) -> None:
    company = world.company(members=3)
    ours = [str(unique) for unique in company.active()]
    company.put_by_somebody_else(foreign(*ours[:2]))
    assert company.push().failure is None
    assert company.arrived()


def test_a_first_push_over_somebody_elses_accounts_is_held_until_it_is_approved(world: World) -> None:
    company = world.company(members=3)
    theirs = "11111111-0000-4000-8000-000000000000"
    company.put_by_somebody_else(foreign(theirs, "canary@else.example", str(company.active()[0])))
    held = held_for(company, ["first_push"])
    assert "2 of 3 accounts that Vanta lists are not ours" in sentence(held)
    assert theirs in sentence(held)
    assert "sha256:" in sentence(held)  # of an id that is somebody's address
    company.approve(held)
    assert company.push().failure is None
    assert company.arrived()


def test_a_first_push_that_takes_much_from_the_list_is_held_though_the_ledger_is_empty(world: World) -> None:
    company = world.company(members=10)
    company.put_by_somebody_else(foreign(*map(str, company.active())))
    company.leave(6)
    held_for(company, ["lost"])


UNREADABLE: list[tuple[str, dict[str, Any]]] = [
    ("status", {"status": 503, "times": ATTEMPTS}),
    ("status", {"status": 403}),
    ("html", {"status": 403}),
    ("invalid_json", {}),
    ("no_verdict", {}),
    ("status", {"status": 200, "body": {"resources": [{"uniqueId": "canary"}]}}),
    ("status", {"status": 200, "body": {"results": {"data": [], "pageInfo": {"hasNextPage": True}}}}),
]


def test_a_first_push_is_held_while_the_list_cannot_be_had(world: World) -> None:
    company = world.company(members=3)
    for kind, options in UNREADABLE:
        company.fault("list", kind, **options)
        held = held_for(company, ["first_push"])
        assert "could not be read" in sentence(held)
        assert company.fired()[-1] == options.get("times", 1)
    assert len(company.fired()) == len(UNREADABLE)
    company.pushed()  # once the list is back, by itself

    other = world.company("other", members=3)
    other.fault("list", "invalid_json", times=2)
    other.approve(held_for(other, ["first_push"]))
    assert other.push().failure is None
    assert other.fired() == [2]
    assert other.arrived()


def test_an_upgraded_customer_whose_accounts_were_never_kept_is_compared_with_vantas_list(world: World) -> None:
    """As a push of a version that kept no accounts leaves it."""
    company = world.company(members=10).pushed()
    assert world.tamper("DELETE FROM account_states WHERE organization_id = %s", company.id) == 10
    world.tamper("DELETE FROM account_changes WHERE organization_id = %s", company.id)
    company.leave(6)
    looks = company.lists()
    held_for(company, ["lost"])
    assert company.lists() == looks + 1


# Nobody who pushes gets round a brake.


def test_a_run_by_hand_a_tick_and_its_retry_obey(world: World) -> None:
    """Each with everything anew that a run is made of; ``test_unknown`` has one of another process."""
    company = world.company(members=25).pushed()
    company.leave(6)
    tick = ago(seconds=0)
    with nothing_sent(company):
        for of in (None, tick, tick, ago(seconds=0)):
            [held] = world.parts.run("acme", tick=of)
            assert rules(held) == LOST
    company.come_back()
    assert company.push().failure is None
    assert company.arrived()


def test_a_restart_releases_nothing_and_loses_no_approval(world: World, environment: dict[str, str]) -> None:
    """Each time in a process of its own, which knows nothing but what was written down."""
    company = world.company(members=25).pushed()
    company.leave(6)
    held = held_for(company, LOST)
    with nothing_sent(company):
        pushed_by_another_process(company, environment)
    assert world.parts.outcome(company.id) == "held"
    company.approve(held)
    pushed_by_another_process(company, environment)
    assert (company.puts(), company.arrived(), world.parts.outcome(company.id)) == (2, True, "accepted")
    # The approval was for one push: the same once more is held, by whichever process.
    company.come_back()
    pushed_by_another_process(company, environment)
    assert (company.puts(), company.arrived()) == (3, True)
    company.leave(6)
    with nothing_sent(company):
        pushed_by_another_process(company, environment)


def pushed_by_another_process(company: Company, environment: dict[str, str]) -> None:
    """Push from a new process, and see that it tried."""
    before = company.outcome()
    with worker(environment, company.parts.folder, company.slug) as process:
        assert process.wait(60) == 0
    assert company.outcome() != before


def test_a_held_push_takes_the_customer_up_to_its_accounts_and_shows_the_plan(world: World) -> None:
    company = world.company(members=10).pushed()
    company.leave(6)
    held = company.push()
    look = world.parts.run("acme", reach=Reach.MAP)[0]
    for result in (held, look):
        assert result.accounts is not None
        assert result.plan is not None
        assert len(result.plan.difference.deactivated) == 6
        assert rules(result) == LOST_OF_FEW
    assert look.failure is None
    assert look.plan is not None
    assert held.plan is not None
    assert look.plan.change_hash == held.plan.change_hash
