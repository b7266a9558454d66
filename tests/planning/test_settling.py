"""What Vanta's list tells of a push whose answer was never recorded, asked for by ``symvanta plan --against-vanta``."""

import json
from typing import Any
from uuid import UUID, uuid4

import pytest
import requests
from click.testing import CliRunner

from symvanta_pipeline.cli import main
from symvanta_pipeline.ledger import approvals, snapshots
from symvanta_pipeline.planning import WINDOWS
from tests.support.parts import CANARY, Parts

TRIES = 4  # that a session makes before it gives a PUT up


def settled(parts: Parts) -> dict[str, Any] | None:
    """Run the command and return what it says of what was possibly applied; it sends nothing."""
    puts = len(parts.vanta.journal("put"))
    result = CliRunner().invoke(main, ["plan", "acme", "--against-vanta", "--json"], prog_name="symvanta")
    assert result.exit_code == 0, result.output
    assert not CANARY.search(result.output)
    assert len(parts.vanta.journal("put")) == puts
    told: dict[str, Any] | None = json.loads(result.stdout)["against_vanta"]["possibly_applied"]
    return told


def outcome(parts: Parts) -> tuple[str, str]:
    told = settled(parts)
    assert told is not None
    return told["outcome"], told["detail"]


def pushes() -> list[dict[str, Any]]:
    result = CliRunner().invoke(main, ["history", "acme", "--json"], prog_name="symvanta")
    told: list[dict[str, Any]] = json.loads(result.stdout)["pushes"]
    return told


def company(parts: Parts, *, people: int = 6, pushed: bool = True) -> tuple[UUID, list[UUID]]:
    organization = parts.customer("acme", people=0)
    everybody = sorted((parts.person(organization) for _ in range(people)), key=str)
    if pushed:
        [result] = parts.run("acme")
        assert result.failure is None
    return organization, everybody


def deactivate(parts: Parts, *people: UUID) -> None:
    parts.sym.execute("UPDATE users SET deactivated_at = now() WHERE id = ANY(%s)", list(people))


def push_and_lose(parts: Parts, organization: UUID, *, applied: bool) -> None:
    """Push what Sym has now, and never learn what became of it."""
    if applied:
        parts.vanta.fault("put", "no_verdict", tenant=str(organization))
    else:
        parts.vanta.fault("put", "drop_before", tenant=str(organization), times=TRIES)
    before = parts.intents(organization)
    [result] = parts.run("acme")
    assert result.failure is not None
    assert parts.intents(organization) == [*before, None]


def age(parts: Parts, organization: UUID) -> None:
    """Let so much time pass that nothing is on its way any more."""
    parts.ledger.execute(
        "UPDATE intents SET created_at = created_at - interval '10 minutes' WHERE organization_id = %s", [organization]
    )


def change_at_vanta(parts: Parts, organization: UUID, **fields: str) -> None:
    """Let somebody else change the first account of Vanta's."""
    resources = json.loads(parts.vanta.body(parts.vanta.journal("put")[-1]["seq"]))["resources"]
    resources[0] |= fields
    response = requests.put(
        f"{parts.vanta.url}/v1/resources/user_account",
        json={"resourceId": parts.vanta.config.resource_id, "resources": resources},
        headers={"Authorization": f"Bearer {parts.token(organization).access_token}"},
        timeout=30,
    )
    response.raise_for_status()


def test_nothing_to_settle(parts: Parts) -> None:
    company(parts)
    assert settled(parts) is None


def test_it_was_applied(parts: Parts) -> None:
    organization, (left, *_) = company(parts)
    deactivate(parts, left)
    new = parts.person(organization)
    push_and_lose(parts, organization, applied=True)
    assert [push["verdict"] for push in pushes()] == ["accepted", "possibly applied"]
    verdict, detail = outcome(parts)
    assert (verdict, "Vanta lists what was sent at" in detail) == ("accepted", True)
    assert parts.intents(organization) == ["accepted", "accepted"]
    _, push = pushes()
    assert (push["verdict"], push["proof"], push["active"], push["deactivated"]) == ("read_back", "proved", 6, 1)
    assert push["counts"]["status"] == {"ACTIVE": 6, "DEACTIVATED": 1}
    assert push["token_generation"] == parts.token(organization).generation
    changed = parts.ledger.execute(
        "SELECT unique_id, old, new FROM account_changes WHERE field = 'status' AND old IS NOT NULL OR unique_id = %s",
        [str(new)],
    ).fetchall()
    assert (str(left), "ACTIVE", "DEACTIVATED") in changed
    assert (str(new), None, "ACTIVE") in changed
    assert parts.outcome(organization) == "accepted"
    assert settled(parts) is None
    [result] = parts.run("acme")
    assert result.failure is None
    assert pushes()[-1]["unchanged"] is True


def test_what_was_applied_before_a_reconnect_is_not_its_first_sync(parts: Parts) -> None:
    organization, (left, *_) = company(parts)
    deactivate(parts, left)
    push_and_lose(parts, organization, applied=True)
    parts.connect(organization, "acme")
    assert outcome(parts)[0] == "accepted"
    record = snapshots.customer_record(parts.ledger, organization)
    assert record is not None
    assert (record.outcome, record.is_tried) == ("accepted", False)


@pytest.mark.parametrize("change", ["left", "came"])
def test_it_was_not_applied(parts: Parts, change: str) -> None:
    organization, (left, *_) = company(parts)
    if change == "left":
        deactivate(parts, left)
    else:
        parts.person(organization)
    push_and_lose(parts, organization, applied=False)
    verdict, detail = outcome(parts)
    assert (verdict, "it may still be on its way" in detail) == ("open", True)
    age(parts, organization)
    verdict, detail = outcome(parts)
    assert (verdict, "it was not applied" in detail) == ("refused", True)
    assert parts.intents(organization) == ["accepted", "refused"]
    assert [push["verdict"] for push in pushes()] == ["accepted"]
    assert parts.outcome(organization) == "failing"


@pytest.mark.parametrize(
    "fields", [{"status": "DEACTIVATED"}, {"permissionLevel": "ADMIN"}, {"uniqueId": str(uuid4())}]
)
def test_a_list_that_is_none_of_them_settles_nothing(parts: Parts, fields: dict[str, str]) -> None:
    organization, (*_, left) = company(parts)
    deactivate(parts, left)
    push_and_lose(parts, organization, applied=True)
    age(parts, organization)
    change_at_vanta(parts, organization, **fields)
    assert outcome(parts) == ("open", "Vanta lists none of the states that it may have: the next push settles it")
    assert parts.intents(organization) == ["accepted", None]


def test_what_looks_alike_settles_nothing(parts: Parts) -> None:
    """An idle hour, then somebody's MFA, which no list tells."""
    organization = parts.customer("acme", people=0)
    person = parts.person(organization, type="admin", identities=[parts.sym.password(mfa_factors=["otp"])])
    parts.run("acme")
    for _ in range(2):
        push_and_lose(parts, organization, applied=True)
        age(parts, organization)
        verdict, detail = outcome(parts)
        assert (verdict, "more than one state" in detail) == ("open", True)
        parts.sym.execute("UPDATE identities SET mfa_factors = '{}' WHERE user_id = %s", person)
    assert parts.intents(organization) == ["accepted", None, None]
    parts.run("acme")
    assert parts.intents(organization) == ["accepted", "superseded", "superseded", "accepted"]


def test_strangers_tell_nothing(parts: Parts) -> None:
    """A set of somebody else's accounts stays as it is, whatever is sent; it is a finding, and no obstacle."""
    organization, (left, *_) = company(parts)
    deactivate(parts, left)
    push_and_lose(parts, organization, applied=True)
    resources = json.loads(parts.vanta.body(parts.vanta.journal("put")[-1]["seq"]))["resources"]
    stranger = {**resources[0], "uniqueId": "canary@else.example"}
    requests.put(
        f"{parts.vanta.url}/v1/resources/user_account",
        json={"resourceId": parts.vanta.config.resource_id, "resources": [*resources, stranger]},
        headers={"Authorization": f"Bearer {parts.token(organization).access_token}"},
        timeout=30,
    ).raise_for_status()
    assert outcome(parts)[0] == "accepted"
    _, push = pushes()
    assert (push["proof"], [finding["name"] for finding in push["findings"]]) == ("proved", ["never_sent"])


class TestTwoPushes:
    def test_the_first_was_applied(self, parts: Parts) -> None:
        organization, (one, other, *_) = company(parts)
        deactivate(parts, one)
        push_and_lose(parts, organization, applied=True)
        deactivate(parts, other)
        push_and_lose(parts, organization, applied=False)
        assert outcome(parts)[0] == "open"
        age(parts, organization)
        assert outcome(parts)[0] == "accepted"
        assert parts.intents(organization) == ["accepted", "accepted", "refused"]
        assert pushes()[-1]["deactivated"] == 1

    def test_the_second_was_applied(self, parts: Parts) -> None:
        organization, (one, other, *_) = company(parts)
        deactivate(parts, one)
        push_and_lose(parts, organization, applied=False)
        deactivate(parts, other)
        push_and_lose(parts, organization, applied=True)
        assert outcome(parts)[0] == "accepted"
        assert parts.intents(organization) == ["accepted", "superseded", "accepted"]
        assert pushes()[-1]["deactivated"] == 2


class TestFirstPush:
    def test_it_was_applied(self, parts: Parts) -> None:
        organization, _ = company(parts, pushed=False)
        push_and_lose(parts, organization, applied=True)
        assert outcome(parts)[0] == "accepted"
        assert parts.intents(organization) == ["accepted"]

    def test_it_was_not_applied(self, parts: Parts) -> None:
        organization, _ = company(parts, pushed=False)
        push_and_lose(parts, organization, applied=False)
        age(parts, organization)
        assert outcome(parts)[0] == "refused"
        assert parts.intents(organization) == ["refused"]

    def test_somebody_of_ours_is_there_all_the_same(self, parts: Parts) -> None:
        organization, everybody = company(parts, pushed=False)
        push_and_lose(parts, organization, applied=True)
        age(parts, organization)
        change_at_vanta(parts, organization, uniqueId=str(uuid4()))
        assert len(parts.at_vanta(organization).keys() & set(map(str, everybody))) == 5
        assert outcome(parts)[0] == "open"


class TestApproval:
    """The approval that let a push through is used by it, whoever learns of that."""

    def approve(self) -> None:
        result = CliRunner().invoke(main, ["approve", "acme", "--reason", "The site closed"], prog_name="symvanta")
        assert result.exit_code == 0, result.output

    def test_it_is_used_up(self, parts: Parts) -> None:
        organization, everybody = company(parts)
        deactivate(parts, *everybody[:4])
        self.approve()
        push_and_lose(parts, organization, applied=True)
        assert outcome(parts)[0] == "accepted"
        assert pushes()[-1]["approved_by"] is not None
        # So the windows begin anew: an ordinary departure is not held for what was approved.
        assert all(approvals.window_reset(parts.ledger, organization, rule) for rule in WINDOWS)
        deactivate(parts, everybody[4])
        [result] = parts.run("acme")
        assert result.failure is None

    def test_it_is_used_up_though_the_same_was_approved_again_since(self, parts: Parts) -> None:
        """As somebody does who does not know that it was applied: the first one let it through."""
        organization, everybody = company(parts)
        deactivate(parts, *everybody[:4])
        self.approve()
        push_and_lose(parts, organization, applied=True)
        self.approve()
        assert outcome(parts)[0] == "accepted"
        used = "SELECT used_at IS NOT NULL FROM approvals WHERE organization_id = %s ORDER BY id"
        assert parts.ledger.execute(used, [organization]).fetchall() == [(True,), (False,)]
        assert all(approvals.window_reset(parts.ledger, organization, rule) for rule in WINDOWS)
        # Nor is the second one good for the same departure another time.
        parts.sym.execute("UPDATE users SET deactivated_at = NULL WHERE id = ANY(%s)", everybody)
        [back] = parts.run("acme")
        assert back.failure is None
        deactivate(parts, *everybody[:4])
        [again] = parts.run("acme")
        assert again.failure is not None
        assert "a push that was under way let the same change through" in again.failure.sentence

    def test_a_push_that_needed_none_uses_none(self, parts: Parts) -> None:
        organization, everybody = company(parts)
        deactivate(parts, *everybody[:4])
        self.approve()
        parts.sym.execute("UPDATE users SET deactivated_at = NULL WHERE id = ANY(%s)", everybody[1:])
        push_and_lose(parts, organization, applied=True)
        assert outcome(parts)[0] == "accepted"
        assert pushes()[-1]["approved_by"] is None

    def test_one_that_came_later_is_not_its_own(self, parts: Parts) -> None:
        organization, everybody = company(parts)
        deactivate(parts, *everybody[:4])
        self.approve()
        push_and_lose(parts, organization, applied=True)
        age(parts, organization)
        assert outcome(parts)[0] == "accepted"
        assert pushes()[-1]["approved_by"] is None


def test_an_older_version_that_wrote_down_nobody(parts: Parts) -> None:
    organization, (left, *_) = company(parts)
    deactivate(parts, left)
    push_and_lose(parts, organization, applied=True)
    parts.ledger.execute("UPDATE intents SET states = NULL WHERE organization_id = %s", [organization])
    verdict, detail = outcome(parts)
    assert (verdict, "an older version" in detail) == ("open", True)


def test_a_person_is_told(parts: Parts) -> None:
    organization, (left, *_) = company(parts)
    deactivate(parts, left)
    push_and_lose(parts, organization, applied=True)
    shown = CliRunner().invoke(main, ["plan", "acme", "--against-vanta"], prog_name="symvanta").stdout
    assert "A push was possibly applied. Vanta lists what was sent at" in shown
    assert "as it accepted them last: proved." in shown
    assert "unchanged        6" in shown
