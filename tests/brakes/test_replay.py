"""Whatever happened, the ledger's history replayed from its beginning is what Vanta has, account by account.

Random histories of people and of random faults. As long as the end of a push is unknown, nobody can say what Vanta
has; the ledger has to agree with itself all the same.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from symvanta_pipeline.accounts.proof import Listed
from symvanta_pipeline.ledger import history, snapshots
from symvanta_pipeline.ledger.locks import customer_lock
from symvanta_pipeline.settling import settle
from symvanta_pipeline.sync import CustomerResult
from symvanta_pipeline.vanta.session import ATTEMPTS
from tests.brakes.world import OTP, Company, World

FIELDS = ("status", "level", "login", "mfa")


# The oracle.


def replayed(company: Company) -> dict[str, tuple[dict[str, str], datetime]]:
    """Replay every change from the first one; each has to begin where the one before it ended."""
    accounts: dict[str, tuple[dict[str, str], datetime]] = {}
    for change in history.changes(company.parts.ledger, company.id):
        values, _ = accounts.get(change.unique_id, ({}, None))
        assert values.get(change.field) == change.old, change
        accounts[change.unique_id] = (values | {change.field: change.new}, change.at)
    return accounts


def check(company: Company) -> None:
    """See that changes, states and, once the end of every push is known, Vanta say the same."""
    rows = company.parts.ledger.execute(
        "SELECT unique_id, status, level, login, mfa, since FROM account_states WHERE organization_id = %s",
        [company.id],
    ).fetchall()
    kept = {unique: (dict(zip(FIELDS, values, strict=True)), since) for unique, *values, since in rows}
    assert replayed(company) == kept
    if not snapshots.unresolved_intents(company.parts.ledger, company.id):
        told = {i: as_told(values) for i, (values, _) in kept.items() if values["status"] != "ABSENT"}
        assert told == at_vanta(company)
        pushes = history.pushes(company.parts.ledger, company.id)
        assert not pushes or (pushes[-1].users, pushes[-1].active) == (len(told), company.active_at_vanta())


# mfaEnabled and mfaMethods, as the contract has them; one-time passwords are the only factor here.
MFA: dict[str, tuple[bool, list[str]]] = {
    "sso": (False, []),
    "unknown": (False, []),
    "off": (False, ["DISABLED"]),
    "on": (True, ["OTP"]),
}


def as_told(values: dict[str, str]) -> tuple[object, ...]:
    """Return what Vanta has of an account that the ledger has these values of."""
    return values["status"], values["level"], values["login"], *MFA[values["mfa"]]


def at_vanta(company: Company) -> dict[str, tuple[object, ...]]:
    names = ("status", "permissionLevel", "authMethod", "mfaEnabled", "mfaMethods")
    accounts = company.parts.vanta.accounts(str(company.id))
    return {a["uniqueId"]: tuple(a[name] for name in names) for a in accounts if not a["deletedAt"]}


# What happens between two pushes, and during one.

Move = Callable[[Company, int], object]
MOVES: dict[str, Move] = {
    "hire": lambda company, n: company.hire(n),
    "hire admins": lambda company, n: company.hire(n, admins=True, mfa=OTP if n % 2 else []),
    "leave": lambda company, n: company.leave(n),
    "vanish": lambda company, n: company.vanish(n),
    "promote": lambda company, n: company.promote(n),
    "demote": lambda company, n: company.demote(n),
    "MFA off": lambda company, n: company.set_mfa(n, []),
    "MFA on": lambda company, n: company.set_mfa(n, OTP),
    "come back": lambda company, _: company.come_back(),
    "hours": lambda company, n: company.world.later(hours=5.0 * n),
    "nothing": lambda _company, _n: None,
}
Fault = tuple[str, dict[str, Any]]
LOST: Fault = ("drop_after", {})
# Each in the order in which it strikes: several strike one attempt after the other.
FAULTS: dict[str, list[Fault]] = {
    "reply lost": [LOST],
    "all replies lost": [("drop_after", {"times": ATTEMPTS})],
    "500 before": [("status", {"status": 500})],
    "500 each time": [("status", {"status": 500, "times": ATTEMPTS})],
    "400": [("status", {"status": 400})],
    "grant refused": [("revoke", {})],
    "reply lost, then 400": [LOST, ("status", {"status": 400})],
    "reply lost, then 404": [LOST, ("status", {"status": 404})],
    "reply lost, then grant refused": [LOST, ("revoke", {})],
    "500 before, then 400": [("status", {"status": 500}), ("status", {"status": 400})],
    "reply lost, then says no": [LOST, ("success_false", {})],
    "says no": [("success_false", {})],
    "takes some": [("rejected_some", {})],
    "says nothing": [("no_verdict", {})],
}
CRASHES = {"crash before the record": "record_accepted", "crash before the outcome": "record_outcome"}


class Killed(BaseException):
    """The process ends here."""


@contextmanager
def killed_at(name: str) -> Iterator[list[str]]:
    """End the process, as far as the sync can tell, where it would record something."""
    died: list[str] = []

    def die(*_args: object, **_kwargs: object) -> None:
        died.append(name)
        raise Killed

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(snapshots, name, die)
        yield died


def push(company: Company, trouble: str) -> CustomerResult | None:
    """Push while something goes wrong, and see that it did, unless the push was held; None for a crash."""
    if trouble in CRASHES:
        with killed_at(CRASHES[trouble]) as died:
            try:
                result = company.push()
            except Killed:
                assert died == [CRASHES[trouble]]
                return None
        assert result.failure is not None
        assert result.failure.outcome == "held"
        return result
    for kind, options in FAULTS.get(trouble, []):
        company.fault("put", kind, **options)
    result = company.push()
    outcome = result.failure.outcome if result.failure else None
    assert all((fired == 0) == (outcome == "held") for fired in company.fired())
    company.parts.vanta.clear_faults()
    if outcome == "parked":
        company.parts.connect(company.id, company.slug)
    return result


def look(company: Company) -> None:
    """Settle what is open by Vanta's own list, as an operator's look at it does."""
    parts = company.parts
    company.world.later(hours=0.1)
    listed = [
        Listed(a["uniqueId"], a["status"], a["permissionLevel"], is_deleted=bool(a["deletedAt"]))
        for a in parts.vanta.accounts(str(company.id))
    ]
    with customer_lock(parts.ledger_url, company.id):
        settle(parts.ledger, company.id, listed, token_generation=1)


def go_through(company: Company) -> None:
    """Push; approve what is held, and push again."""
    result = company.push()
    if result.failure and result.failure.change_hash:
        company.approve(result)
        result = company.push()
    assert result.failure is None, result.failure
    assert company.arrived()


Step = tuple[str, int, str, str]


def live(company: Company, steps: list[Step]) -> None:
    """Let a company's history happen, and look at the ledger after each step."""
    for move, count, trouble, after in steps:
        MOVES[move](company, count)
        result = push(company, trouble)
        if result is not None and result.failure is None:
            assert company.arrived()
        check(company)
        if after == "approve" and result and result.failure and result.failure.change_hash:
            company.approve(result)
        if after == "look":
            look(company)
            check(company)
    company.hire(1)  # nobody at all is never sent
    go_through(company)
    check(company)
    assert None not in company.parts.intents(company.id)


NUMBERS = itertools.count()
# Small and large moves, so that some are held; every second push meets some trouble.
STEPS = st.lists(
    st.tuples(
        st.sampled_from(sorted(MOVES)),
        st.sampled_from([1, 2, 6, 9]),
        st.sampled_from([*FAULTS, *CRASHES]) | st.just("none"),
        st.sampled_from(["approve", "look", "none"]),
    ),
    min_size=2,
    max_size=8,
)


@settings(max_examples=16, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=STEPS)
def test_replaying_the_ledger_gives_what_vanta_has(world: World, steps: list[Step]) -> None:
    company = world.company(f"c{next(NUMBERS)}", members=8, admins=4, mfa=OTP)
    live(company, steps)


def test_replaying_a_history_in_which_everything_goes_wrong_once(world: World) -> None:
    company = world.company(members=20, admins=10, mfa=OTP).pushed()
    moves = itertools.cycle(["leave", "promote", "hire admins", "MFA off", "vanish", "demote", "come back", "MFA on"])
    live(company, [(next(moves), 1, trouble, "none") for trouble in (*FAULTS, *CRASHES)])


@pytest.mark.parametrize("after", ["approve", "look"])
def test_replaying_a_history_of_held_and_lost_pushes(world: World, after: str) -> None:
    company = world.company(members=8, admins=4, mfa=OTP).pushed()
    live(
        company,
        [
            ("leave", 9, "none", after),
            ("nothing", 1, "all replies lost", after),
            ("hours", 2, "none", after),
            ("vanish", 6, "none", after),
            ("nothing", 1, "crash before the record", after),
            ("come back", 1, "takes some", after),
        ],
    )


# What the oracle must catch.


TAMPERED: dict[str, str] = {
    "a change is gone": """
        DELETE FROM account_changes WHERE id = (SELECT max(id) FROM account_changes WHERE field = 'status')
    """,
    "the first of two changes is gone": """
        DELETE FROM account_changes WHERE id = (
            SELECT min(id) FROM account_changes JOIN account_states USING (unique_id)
            WHERE status = 'DEACTIVATED' AND field = 'status'
        )
    """,
    "a change is another one": """
        UPDATE account_changes SET new = 'ADMIN'
        WHERE id = (SELECT max(id) FROM account_changes WHERE field = 'level' AND new = 'BASE')
    """,
    "a change was at another time": """
        UPDATE account_changes SET at = at - interval '1 s' WHERE id = (SELECT max(id) FROM account_changes)
    """,
    "a state is another one": """
        UPDATE account_states SET status = 'DEACTIVATED'
        WHERE unique_id = (SELECT min(unique_id) FROM account_states WHERE status = 'ACTIVE')
    """,
    "an MFA is another one, in states and changes alike": """
        WITH planted AS (
            UPDATE account_states SET mfa = 'off'
            WHERE unique_id = (SELECT min(unique_id) FROM account_states WHERE mfa = 'on') RETURNING unique_id
        )
        UPDATE account_changes AS told SET new = 'off' FROM planted
        WHERE told.unique_id = planted.unique_id AND field = 'mfa'
    """,
    "a login is another one, in states and changes alike": """
        WITH planted AS (
            UPDATE account_states SET login = 'SSO'
            WHERE unique_id = (SELECT min(unique_id) FROM account_states WHERE login = 'PASSWORD') RETURNING unique_id
        )
        UPDATE account_changes AS told SET new = 'SSO' FROM planted
        WHERE told.unique_id = planted.unique_id AND field = 'login'
    """,
    "a state is gone": """
        DELETE FROM account_states WHERE unique_id = (SELECT min(unique_id) FROM account_states)
    """,
}


def another(**values: object) -> Callable[[Company], None]:
    """Change fields of one account at Vanta."""

    def plant(company: Company) -> None:
        accounts = company.parts.vanta.accounts(str(company.id))
        planted = next(n for n, a in enumerate(accounts) if a != a | values and a["status"] == "ACTIVE")
        company.put_by_somebody_else(a | values if n == planted else a for n, a in enumerate(accounts))

    plant.__name__ = f"another {', '.join(values)}"
    return plant


def one_less(company: Company) -> None:
    company.put_by_somebody_else(company.parts.vanta.accounts(str(company.id))[1:])


def ignored_by_vanta(company: Company) -> None:
    company.leave(1)
    company.fault("put", "ignored")
    assert company.push().failure is None
    assert company.fired() == [1]


def test_the_replay_catches_what_is_planted_in_the_ledger_and_at_vanta(world: World) -> None:
    company = world.company(members=3, admins=2, mfa=OTP).pushed()
    company.leave(1)
    company.pushed()
    check(company)
    for name, statement in TAMPERED.items():
        with world.parts.ledger.transaction(force_rollback=True):
            assert world.tamper(statement) == 1, name
            caught(company, name)
    others = (
        another(permissionLevel="EDITOR"),
        another(authMethod="TOKEN"),
        another(mfaEnabled=False),
        another(mfaMethods=["SMS"]),
    )
    for plant in (*others, one_less, ignored_by_vanta):
        check(company)
        plant(company)
        caught(company, plant.__name__)
        company.pushed()


def caught(company: Company, what: str) -> None:
    try:
        check(company)
    except AssertionError:
        return
    pytest.fail(f"nobody saw: {what}")


def test_what_was_not_recorded_is_caught_only_once_it_is_settled(world: World) -> None:
    """An intent that is open says that nobody knows; one that is wrongly resolved does not."""
    company = world.company(members=5).pushed()
    company.leave(1)
    push(company, "all replies lost")
    check(company)
    [intent] = snapshots.unresolved_intents(world.parts.ledger, company.id)
    snapshots.resolve_intent(world.parts.ledger, intent.id, "refused")
    with pytest.raises(AssertionError):
        check(company)
