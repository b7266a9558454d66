"""An approval lets exactly one held change through, once, within four hours, and resets the windows that it tripped."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from symvanta_pipeline.ledger import approvals
from symvanta_pipeline.sync import CustomerResult
from tests.brakes.test_held import foreign
from tests.brakes.world import Company, World, nothing_sent, rules, sentence
from tests.support.parts import meanwhile, until

LOST = ["lost", "lost_in_a_day"]
Move = Callable[[Company], object]


def held_company(world: World, slug: str = "acme") -> tuple[Company, CustomerResult]:
    """Make a company of 25 of whom 6 left, which is held."""
    company = world.company(slug, members=25).pushed()
    company.leave(6)
    held = company.push()
    assert rules(held) == LOST
    return company, held


def test_what_is_approved_goes_out_once_and_says_by_whom(world: World) -> None:
    company, held = held_company(world)
    puts = company.puts()
    approval = company.approve(held)
    assert company.puts() == puts  # approving pushes nothing
    passed = company.push()
    assert (passed.failure, rules(passed), company.puts()) == (None, LOST, puts + 1)
    assert passed.push is not None
    assert passed.approval == approval
    assert company.arrived()
    used = company.latest_approval()
    assert (used.used_at, used.used_by_run) == (
        passed.push.recorded.accepted_at,
        passed.push.recorded.run_id,
    )
    assert approvals.usable(world.parts.ledger, company.id, approval.hash) is None


# What moves between the look and the push.


def one_more_loss(company: Company) -> None:
    company.leave(1)


def another_loss(company: Company) -> None:
    company.come_back()
    company.parts.sym.execute("UPDATE users SET deactivated_at = now() WHERE id = ANY(%s)", company.active()[-6:])


def vanished_instead(company: Company) -> None:
    """Those who left are deleted: six of 25 are then not even deactivated."""
    gone = "SELECT id FROM users WHERE deactivated_at IS NOT NULL"
    company.parts.sym.execute(f"DELETE FROM identities WHERE user_id IN ({gone})")
    company.parts.sym.execute("DELETE FROM users WHERE deactivated_at IS NOT NULL")


def promoted_too(company: Company) -> None:
    company.promote(5)


def test_if_what_is_held_moves_the_approval_is_void_and_says_so(world: World) -> None:
    company, held = held_company(world)
    approval = company.approve(held)
    for move in (one_more_loss, another_loss, vanished_instead, promoted_too):
        with company.undone(), nothing_sent(company):
            move(company)
            void = company.push()
            assert rules(void)[:2] == LOST, move.__name__
            assert sentence(void).endswith(
                f". The approval of {approval.at:%Y-%m-%d %H:%M} UTC is void: it was for another change"
            )
    company.pushed()  # it is back to what was looked at
    assert company.latest_approval().used_at is not None


@pytest.mark.parametrize(
    ("rule", "move"),
    [
        ("vanished", lambda company: company.vanish(3)),
        ("admins", lambda company: company.promote(5)),
        ("growth", lambda company: company.hire(230)),
        ("first_push", None),
    ],
)
def test_a_loss_voids_the_approval_whichever_rule_holds(world: World, rule: str, move: Move | None) -> None:
    """Four who leave are within every limit, and would be let through unseen by an approval of something else."""
    company = world.company(members=24)
    leaving = company.active()[-4:]
    if move is None:
        ours = foreign(*map(str, company.active()))
        company.put_by_somebody_else([*ours, *foreign("11111111-0000-4000-8000-000000000000")])
    else:
        company.pushed()
        move(company)
    held = company.push()
    assert rules(held) == [rule]
    company.approve(held)
    with company.undone(), nothing_sent(company):
        company.parts.sym.execute("UPDATE users SET deactivated_at = now() WHERE id = ANY(%s)", leaving)
        void = company.push()
        assert rules(void) == [rule]
        assert sentence(void).endswith("is void: it was for another change")
    company.pushed()  # it is back to what was looked at
    assert company.latest_approval().used_at is not None


def new_hire(company: Company) -> None:
    company.hire(1)


def new_name(company: Company) -> None:
    company.parts.sym.execute("UPDATE users SET name = 'Canary Renamed' WHERE organization_id = %s", company.id)


def new_login(company: Company) -> None:
    company.parts.sym.execute("UPDATE identities SET last_login_at = now()")


def new_mfa(company: Company) -> None:
    company.promote(1)
    company.parts.sym.execute(
        "UPDATE identities SET service = 'auth0', connection = 'Username-Password-Authentication', mfa_factors = '{}'"
        " WHERE user_id = ANY(%s)",
        company.active("admin"),
    )


def test_whatever_else_moves_voids_nothing(world: World) -> None:
    company, held = held_company(world)
    company.approve(held)
    for move in (new_hire, new_name, new_login, new_mfa):
        move(company)
    world.later(hours=3.9)
    passed = company.push()
    assert passed.failure is None
    assert passed.push is not None
    assert passed.approval is not None
    assert company.puts() == 2
    assert company.arrived()
    fields = passed.plan.difference.fields if passed.plan else {}
    assert fields["login"] == fields["mfa"] == 2  # the hire, and who has a password now


def test_an_approval_that_is_too_late_is_over_and_says_so(world: World) -> None:
    company, held = held_company(world)
    company.approve(held)
    world.later(hours=4.01)
    with nothing_sent(company):
        late = company.push()
    assert "was for four hours and is over" in sentence(late)
    company.approve(late)
    company.pushed()


def test_an_approval_is_used_once_though_the_very_same_change_comes_again(world: World) -> None:
    company, held = held_company(world)
    company.approve(held)
    company.pushed()
    company.come_back()
    company.pushed()
    company.leave(6)
    with nothing_sent(company):
        again = company.push()
    assert again.failure is not None
    assert held.failure is not None
    assert again.failure.change_hash == held.failure.change_hash
    assert "approval of" not in sentence(again)  # what was used is no news


def test_approving_twice_lets_nothing_through_twice(world: World) -> None:
    company, held = held_company(world)
    company.approve(held)
    latest = company.approve(held)
    passed = company.push()
    assert passed.push is not None
    assert passed.approval is not None
    assert passed.approval.id == latest.id
    company.come_back()
    company.pushed()
    company.leave(6)
    with nothing_sent(company):
        assert rules(company.push())[0] == "lost"


def test_approving_again_while_the_push_is_under_way_lets_nothing_through_twice(world: World) -> None:
    """The second one is given when Vanta has applied the PUT and not answered yet."""
    company, held = held_company(world)
    company.approve(held)
    company.fault("put", "slow", delay=2)

    def approve_again() -> None:
        until(company.arrived, "Vanta applied it")
        company.approve(held)

    with meanwhile(approve_again):
        passed = company.push()
    assert company.fired() == [1]
    assert passed.push is not None
    assert passed.approval is not None
    again = company.latest_approval()
    assert again.id != passed.approval.id
    assert again.at < passed.push.recorded.accepted_at
    company.come_back()
    company.pushed()
    company.leave(6)
    with nothing_sent(company):
        assert sentence(company.push()).endswith("is void: a push that was under way let the same change through")
    company.approve(held)
    company.pushed()  # whoever looks now means the change of now


def test_a_later_approval_of_another_change_takes_the_place_of_the_first(world: World) -> None:
    company, held = held_company(world)
    company.approve(held)
    company.leave(1)
    company.approve(company.push())
    company.come_back()
    company.leave(6)
    with nothing_sent(company):
        assert sentence(company.push()).endswith("is void: it was for another change")


def test_an_approval_of_another_organization_lets_nothing_through(world: World) -> None:
    company, held = held_company(world)
    other, _ = held_company(world, "other")
    company.approve(held, of=other)
    with nothing_sent(company, other):
        assert rules(company.push()) == LOST
        assert "is void" in sentence(other.push())


def test_an_approval_is_not_used_up_by_a_push_that_vanta_refuses_or_that_never_arrived(world: World) -> None:
    company, held = held_company(world)
    company.approve(held)
    for kind, options, fired in (("status", {"status": 400}, 1), ("status", {"status": 503, "times": 4}, 4)):
        company.fault("put", kind, **options)
        with_fault = company.push()
        assert with_fault.failure is not None
        assert with_fault.failure.outcome != "held"
        assert company.fired()[-1] == fired
    passed = company.push()
    assert passed.push is not None
    assert passed.approval is not None
    assert company.arrived()


def test_an_approval_is_not_used_up_by_a_push_that_nothing_holds(world: World) -> None:
    company, held = held_company(world)
    company.approve(held)
    company.come_back()
    company.pushed()
    assert company.latest_approval().used_at is None


def test_an_approved_change_begins_its_windows_anew(world: World) -> None:
    """Else the next one who leaves within a day would be held for the six before, as ``test_windows`` shows."""
    company, held = held_company(world)
    company.approve(held)
    company.pushed()
    world.later(hours=1)
    company.leave(1)
    assert company.push().failure is None
    assert company.puts() == 3


def test_only_the_windows_that_were_tripped_begin_anew_and_with_the_push(world: World) -> None:
    company = world.company(members=100).pushed()
    company.leave(21)
    held = company.push()
    assert rules(held) == LOST
    company.approve(held)
    company.pushed()
    world.later(hours=1)
    company.leave(15)  # of 79
    company.pushed()
    world.later(hours=1)
    company.leave(1)
    assert rules(company.push()) == ["lost_in_a_day"]  # 16 of the 79 since the approved push
    world.later(hours=23)
    company.come_back()
    company.leave(41)
    assert "lost_in_a_week" in rules(company.push())  # 41 of the 100 since before it


def test_a_whole_company_is_let_go_by_one_approval(world: World) -> None:
    company = world.company(members=25).pushed()
    company.leave(25)
    held = company.push()
    assert rules(held) == ["nobody_active", "lost", "lost_in_a_day", "lost_in_a_week"]
    company.approve(held)
    company.pushed()
    assert company.active_at_vanta() == 0
    with nothing_sent(company):
        assert rules(company.push()) == ["nobody_active"]  # until it is disconnected, as docs/brakes.md says


@pytest.mark.parametrize("move", [lambda company: company.promote(3), lambda company: company.hire(231)])
def test_what_takes_nobody_away_can_be_approved_too(world: World, move: Move) -> None:
    company = world.company(members=23).pushed()
    move(company)
    held = company.push()
    assert rules(held) in (["admins"], ["growth"])
    company.approve(held)
    assert company.pushed().puts() == 2


def test_an_approval_lives_for_four_hours() -> None:
    assert timedelta(hours=4) == approvals.LIFETIME
