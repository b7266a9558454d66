"""``symvanta plan`` and ``symvanta approve`` as an operator meets them, with real databases and a real stand-in."""

import getpass
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import requests
from click.testing import CliRunner, Result

from symvanta_pipeline.cli import main
from symvanta_pipeline.ledger import approvals, connections, snapshots
from symvanta_pipeline.ledger.locks import customer_lock
from symvanta_pipeline.planning import UNSEEN
from tests.support.parts import CANARY, Parts, until

SYMVANTA = Path(sys.executable).with_name("symvanta")
KEYS = ["customer", "hash", "added", "reactivated", "deactivated", "vanished", "changed", "unchanged", "brakes"]
NOWHERE = "postgresql://u:canary@127.0.0.1:1/nowhere"
REASON = "They left with the site in Bonn"


def run(*arguments: str) -> Result:
    """Run a command; whatever it says names nobody and no secret."""
    result = CliRunner().invoke(main, arguments, prog_name="symvanta")
    assert not CANARY.search(result.output), result.output
    return result


def plan(slug: str, *options: str) -> str:
    result = run("plan", slug, *options)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


def document(slug: str, *options: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(plan(slug, *options, "--json"))
    return content


def approve(slug: str, *options: str) -> str:
    result = run("approve", slug, "--reason", REASON, *options)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


def refused(result: Result, says: str) -> None:
    """One line on stderr, nothing on stdout, status 1."""
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    assert re.fullmatch(r"symvanta: [^\n]+\n", result.stderr), result.stderr
    assert says in result.stderr, result.stderr
    assert "unexpected" not in result.stderr


def deactivate(parts: Parts, people: Iterable[UUID]) -> None:
    parts.sym.execute("UPDATE users SET deactivated_at = now() WHERE id = ANY(%s)", list(people))


def come_back(parts: Parts, people: Iterable[UUID]) -> None:
    parts.sym.execute("UPDATE users SET deactivated_at = NULL WHERE id = ANY(%s)", list(people))


def remove(parts: Parts, people: Iterable[UUID]) -> None:
    parts.sym.execute("DELETE FROM identities WHERE user_id = ANY(%s)", list(people))
    parts.sym.execute("DELETE FROM users WHERE id = ANY(%s)", list(people))


def company(parts: Parts, slug: str = "acme", people: int = 6) -> tuple[UUID, list[UUID]]:
    """Connect an organization and push it once; returns its people in the order of their ids."""
    organization = parts.customer(slug, people=0)
    everybody = sorted((parts.person(organization) for _ in range(people)), key=str)
    [result] = parts.run(slug)
    assert result.failure is None
    return organization, everybody


def holding(parts: Parts, slug: str = "acme") -> tuple[UUID, list[UUID]]:
    """The same, and four of six have left since: held."""
    organization, everybody = company(parts, slug)
    deactivate(parts, everybody[:4])
    return organization, everybody


def requests_of(parts: Parts, organization: UUID) -> list[tuple[str, int]]:
    """List what arrived at the stand-in with this organization's credential, its consent left out."""
    return [
        (entry["endpoint"], entry["status"])
        for entry in parts.vanta.journal()
        if entry["tenant"] == str(organization) and entry["endpoint"] in ("put", "list", "suspend")
    ] + [("token", entry["status"]) for entry in parts.journal(organization, "token")]


def put_at_vanta(parts: Parts, organization: UUID, resources: Sequence[dict[str, Any]]) -> None:
    """Let somebody else change what Vanta has."""
    response = requests.put(
        f"{parts.vanta.url}/v1/resources/user_account",
        json={"resourceId": parts.vanta.config.resource_id, "resources": list(resources)},
        headers={"Authorization": f"Bearer {parts.token(organization).access_token}"},
        timeout=30,
    )
    response.raise_for_status()


def account(unique_id: str) -> dict[str, Any]:
    return {
        "uniqueId": unique_id,
        "displayName": "Canary",
        "fullName": "Canary",
        "accountName": "canary@else.example",
        "email": "canary@else.example",
        "externalUrl": "https://else.example/1",
        "permissionLevel": "BASE",
        "createdTimestamp": "2026-01-01T00:00:00Z",
        "status": "ACTIVE",
        "mfaEnabled": False,
        "mfaMethods": [],
        "authMethod": "SSO",
    }


def approvals_of(parts: Parts, organization: UUID) -> list[tuple[str, str, str, bool]]:
    """List who approved which hash why, oldest first, and whether it was used."""
    return parts.ledger.execute(
        "SELECT approved_by, hash, reason, used_at IS NOT NULL FROM approvals WHERE organization_id = %s ORDER BY id",
        [organization],
    ).fetchall()


class TestPlan:
    def test_a_first_push(self, parts: Parts) -> None:
        organization = parts.customer("acme", people=3)
        told = document("acme")
        assert told == {
            "customer": "acme",
            "hash": "",
            "added": 3,
            "reactivated": 0,
            "deactivated": 0,
            "vanished": 0,
            "changed": 0,
            "unchanged": 0,
            "brakes": [{"rule": "first_push", "detail": UNSEEN}],
        }
        assert list(told) == KEYS
        shown = plan("acme")
        assert "warning first_push: nothing was ever accepted" in shown
        assert "No brake holds it" not in shown
        assert requests_of(parts, organization) == []

    def test_before_the_first_connection(self, parts: Parts) -> None:
        parts.customer("acme", people=2, connected=False)
        assert document("acme")["added"] == 2
        assert "It is not connected yet: no push follows before: symvanta connect acme" in plan("acme")

    def test_every_group_in_numbers_and_by_id(self, parts: Parts) -> None:
        organization, (back, left, gone, promoted, *rest) = company(parts, people=12)
        deactivate(parts, [back])
        parts.run("acme")
        come_back(parts, [back])
        deactivate(parts, [left])
        remove(parts, [gone])
        parts.sym.execute("UPDATE users SET type = 'admin' WHERE id = ANY(%s)", [promoted, back])
        new = parts.person(organization)
        expected = {
            "added": [new],
            "reactivated": [back],
            "deactivated": [left],
            "vanished": [gone],
            "changed": [promoted],
            "unchanged": rest,
        }
        by_id = document("acme", "--ids")
        assert list(by_id) == KEYS
        assert {group: by_id[group] for group in expected} == {
            group: sorted(map(str, ids)) for group, ids in expected.items()
        }
        counts = document("acme")
        assert {group: counts[group] for group in expected} == {group: len(ids) for group, ids in expected.items()}
        shown = plan("acme")
        for group, ids in expected.items():
            assert re.search(rf"^  {group} +{len(ids)}\b", shown, re.MULTILINE), shown
        for group in ("reactivated", "changed"):
            assert re.search(rf"^  {group} +1  \(level BASE to ADMIN: 1\)$", shown, re.MULTILINE), shown
        assert "No brake holds it." in shown
        assert not re.search("[0-9a-f]{8}-", shown)
        listed = plan("acme", "--ids")
        for one in (new, back, left, gone, promoted):
            assert re.search(rf"^    {one}$", listed, re.MULTILINE), listed
        assert not any(str(one) in listed for one in rest)

    def test_what_holds_with_numbers_hash_and_the_next_command(self, parts: Parts) -> None:
        organization, _ = holding(parts)
        told = document("acme")
        assert [brake["rule"] for brake in told["brakes"]] == ["lost", "lost_in_a_day", "lost_in_a_week"]
        assert told["brakes"][0]["detail"].startswith("4 of 6 active users would no longer be active (66.7 %")
        shown = plan("acme")
        assert f"held by lost: {told['brakes'][0]['detail']}\n" in shown
        assert f"hash {told['hash']}\n" in shown
        assert f"If it is true: symvanta approve acme --hash {told['hash'][:12]} --reason TEXT" in shown
        before = requests_of(parts, organization)
        [result] = parts.run("acme")
        assert result.failure is not None
        assert (result.failure.outcome, result.failure.change_hash) == ("held", told["hash"])
        assert requests_of(parts, organization) == before

    def test_a_warning_holds_nothing(self, parts: Parts) -> None:
        organization = parts.customer("acme", people=0)
        people = [parts.person(organization, identities=[parts.sym.password(mfa_factors=["otp"])]) for _ in range(4)]
        parts.run("acme")
        parts.sym.execute("UPDATE identities SET mfa_factors = '{}' WHERE user_id = ANY(%s)", people[:2])
        assert (document("acme")["brakes"], document("acme")["hash"]) == ([], "")
        shown = plan("acme")
        assert "warning without_mfa: " in shown
        assert "changed          2  (mfa on to off: 2)" in shown

    def test_the_key_is_the_customers_name_for_ever(self, parts: Parts) -> None:
        organization, _ = company(parts)
        parts.sym.execute("UPDATE organizations SET slug = 'renamed' WHERE id = %s", organization)
        assert document("acme")["customer"] == document("renamed")["customer"] == "acme"

    def test_a_push_that_was_possibly_applied_is_told(self, parts: Parts) -> None:
        organization, everybody = company(parts)
        deactivate(parts, everybody[:1])
        parts.vanta.fault("put", "no_verdict", tenant=str(organization))
        parts.run("acme")
        assert parts.intents(organization)[-1] is None
        assert "was possibly applied" in plan("acme")
        assert "symvanta plan acme --against-vanta" in plan("acme")
        parts.run("acme")
        assert "possibly" not in plan("acme")


class TestNames:
    def test_only_on_a_terminal(self, parts: Parts) -> None:
        parts.customer("acme")
        for options in ([], ["--json"], ["--ids"]):
            result = run("plan", "acme", "--names", *options)
            assert (result.exit_code, result.stdout) == (2, "")
            assert "--names is for a terminal alone" in result.stderr

    def on_a_terminal(self, *arguments: str) -> tuple[int, str]:
        ours, theirs = pty.openpty()
        with subprocess.Popen([str(SYMVANTA), *arguments], stdout=theirs, stderr=subprocess.PIPE) as process:
            os.close(theirs)
            shown = b""
            try:
                while chunk := os.read(ours, 65_536):
                    shown += chunk
            except OSError:  # Linux says so once the other side is closed
                pass
            finally:
                os.close(ours)
        return process.returncode, shown.decode()

    def test_there_they_stand_beside_the_ids(self, parts: Parts) -> None:
        organization, everybody = company(parts)
        remove(parts, everybody[:1])
        named = parts.person(organization, name="Łukasz Canary")
        nameless = parts.person(organization, name=None, email="canary@acme.example")
        hostile = parts.person(organization, name="Canary\x1b]0;owned\x07\nCanary")
        status, shown = self.on_a_terminal("plan", "acme", "--names")
        assert status == 0
        assert f"{named}  Łukasz Canary\r\n" in shown
        assert f"{nameless}  canary@acme.example\r\n" in shown
        assert f"{hostile}  Canary?]0;owned??Canary\r\n" in shown
        assert f"{everybody[0]}  (not in Sym any more)\r\n" in shown
        assert self.on_a_terminal("plan", "acme", "--names", "--json") == (2, "")
        status, shown = self.on_a_terminal("plan", "acme", "--ids")
        assert status == 0
        assert not CANARY.search(shown)


class TestAgainstVanta:
    def test_one_request_and_nothing_else(self, parts: Parts) -> None:
        organization, _ = holding(parts)
        before = requests_of(parts, organization)
        for options in ([], ["--ids"], ["--json"]):
            plan("acme", *options)
            assert requests_of(parts, organization) == before
        told = document("acme", "--against-vanta")
        assert requests_of(parts, organization) == [*before, ("list", 200)]
        assert list(told) == [*KEYS, "against_vanta"]
        assert told["against_vanta"] == {"listed": 6, "verdict": "proved", "findings": [], "possibly_applied": None}
        assert told["deactivated"] == 4
        assert "Vanta lists 6 accounts, as it accepted them last: proved." in plan("acme", "--against-vanta")

    def test_a_token_that_is_due_is_refreshed(self, parts: Parts) -> None:
        organization, _ = company(parts)
        parts.age_token(organization)
        generation = parts.token(organization).generation
        assert document("acme", "--against-vanta")["against_vanta"]["verdict"] == "proved"
        assert parts.token(organization).generation == generation + 1

    def test_each_difference_is_a_finding(self, parts: Parts) -> None:
        organization, everybody = company(parts)
        sent = {one["uniqueId"]: one for one in parts.body(organization)["resources"]}
        missing, status, level = map(str, everybody[:3])
        stranger = str(uuid4())
        sent.pop(missing)
        sent[status]["status"] = "DEACTIVATED"
        sent[level]["permissionLevel"] = "ADMIN"
        put_at_vanta(parts, organization, [*sent.values(), account(stranger), account("canary@else.example")])
        told = document("acme", "--against-vanta")["against_vanta"]
        assert (told["listed"], told["verdict"]) == (7, "contradicted")
        found = {finding["name"]: finding for finding in told["findings"]}
        assert {name: (f["severity"], f["count"]) for name, f in found.items()} == {
            "missing": ("error", 1),
            "status": ("error", 1),
            "level": ("error", 1),
            "never_sent": ("warn", 2),
        }
        assert [found[name]["unique_ids"] for name in ("missing", "status", "level")] == [[missing], [status], [level]]
        hashed, plain = sorted(found["never_sent"]["unique_ids"], key=len)
        assert (plain, hashed[:7]) == (stranger, "sha256:")
        shown = plan("acme", "--against-vanta")
        assert "Vanta lists 7 accounts, not as it accepted them last: contradicted." in shown
        assert f"  error missing: 1 ({missing})\n" in shown

    def test_a_list_that_cannot_be_had(self, parts: Parts) -> None:
        organization, _ = company(parts)
        parts.vanta.fault("list", "invalid_json", tenant=str(organization))
        refused(run("plan", "acme", "--against-vanta"), "Vanta's list of accounts is no JSON")
        parts.vanta.fault("list", "status", tenant=str(organization), status=503)
        refused(run("plan", "acme", "--against-vanta"), "503")
        until(lambda: not parts.is_locked(organization), "the lock is free")
        plan("acme", "--against-vanta")

    def test_a_customer_that_is_worked_on(self, parts: Parts) -> None:
        organization, _ = company(parts)
        before = requests_of(parts, organization)
        with customer_lock(parts.ledger_url, organization):
            refused(
                run("plan", "acme", "--against-vanta"), "a run is working on acme right now: look again in a minute"
            )
            plan("acme")
        assert requests_of(parts, organization) == before
        plan("acme", "--against-vanta")

    def test_a_customer_that_vanta_cannot_be_asked_for(self, parts: Parts) -> None:
        parts.customer("new", connected=False)
        refused(run("plan", "new", "--against-vanta"), "new was never connected: Vanta cannot be asked")
        organization, _ = company(parts)
        connections.mark_disconnected(parts.ledger, organization)
        refused(run("plan", "acme", "--against-vanta"), "acme is disconnected: Vanta cannot be asked; to connect it")
        assert document("acme")["unchanged"] == 6


def customers() -> list[dict[str, Any]]:
    result = run("customers", "--json")
    assert result.exit_code == 0, result.output
    listed: list[dict[str, Any]] = json.loads(result.stdout)
    return listed


class TestFirstPush:
    def test_held_then_approved(self, parts: Parts) -> None:
        """A run alone compares a first push with Vanta's list; what it held is what is approved."""
        organization = parts.customer("acme", people=3)
        put_at_vanta(parts, organization, [account(str(uuid4())), account("canary@else.example")])
        refused(run("approve", "acme", "--reason", REASON), "nothing of acme is held by a brake now")
        [unseen] = document("acme")["brakes"]
        assert (document("acme")["hash"], unseen["rule"]) == ("", "first_push")
        assert "it was not looked at" in unseen["detail"]
        told = document("acme", "--against-vanta")
        assert told["against_vanta"] == {"listed": 2, "verdict": None, "findings": [], "possibly_applied": None}
        assert [brake["rule"] for brake in told["brakes"]] == ["first_push"]
        shown = plan("acme", "--against-vanta")
        assert "It can be approved once a run was held by it." in shown
        assert "nothing that they could be compared with was ever accepted" in shown
        [result] = parts.run("acme")
        assert result.failure is not None
        assert result.failure.change_hash == told["hash"]
        [brake] = document("acme")["brakes"]
        assert (document("acme")["hash"], brake["rule"]) == (told["hash"], "first_push")
        assert brake["detail"].startswith("held by first_push: 2 of 2 accounts that Vanta lists are not ours")
        assert [each["customer"] for each in customers() if each["state"] == "held"] == ["acme"]
        shown = plan("acme")
        assert "The last attempt was held by first_push: 2 of 2 accounts" in shown
        assert f"symvanta approve acme --hash {told['hash'][:12]} --reason TEXT" in shown
        approve("acme", "--hash", told["hash"])
        assert "lets it through" in plan("acme")
        [result] = parts.run("acme")
        assert result.failure is None
        assert len(parts.at_vanta(organization)) == 3
        assert approvals_of(parts, organization) == [(f"terminal:{getpass.getuser()}", told["hash"], REASON, True)]

    def test_an_empty_list_holds_nothing(self, parts: Parts) -> None:
        parts.customer("acme", people=3)
        assert document("acme", "--against-vanta")["brakes"] == []
        shown = plan("acme", "--against-vanta")
        assert "first_push" not in shown
        assert "No brake holds it." in shown


class TestApprove:
    def test_exactly_the_held_change_once(self, parts: Parts) -> None:
        organization, everybody = holding(parts)
        change = document("acme")["hash"]
        before = requests_of(parts, organization)
        said = approve("acme", "--hash", change[:8].upper(), "--by", "Grace of Operations")
        assert requests_of(parts, organization) == before
        assert f"acme: change {change[:12]}, held by lost, lost_in_a_day, lost_in_a_week, is approved once." in said
        assert re.search(rf"By Grace of Operations, until \d{{4}}-\d\d-\d\d \d\d:\d\d UTC: {REASON}\n", said)
        assert "Nothing was sent. The next hourly run uses it" in said
        shown = plan("acme")
        assert "by Grace of Operations lets it through" in shown
        assert "symvanta approve" not in shown
        [result] = parts.run("acme")
        assert result.failure is None
        assert parts.at_vanta(organization) == parts.at_sym(organization)
        assert approvals_of(parts, organization) == [("Grace of Operations", change, REASON, True)]
        [first, second] = json.loads(run("history", "acme", "--json").stdout)["pushes"]
        assert (first["approved_by"], second["approved_by"]) == (None, "Grace of Operations")
        # The same loss once more is the same hash, and another change.
        come_back(parts, everybody[:4])
        [result] = parts.run("acme")
        assert result.failure is None
        deactivate(parts, everybody[:4])
        assert document("acme")["hash"] == change
        assert "approval of" not in plan("acme")
        [result] = parts.run("acme")
        assert result.failure is not None
        assert result.failure.outcome == "held"

    def test_it_stands_in_the_audit_log(self, parts: Parts) -> None:
        organization, _ = holding(parts)
        approve("acme")
        [event] = parts.ledger.execute(
            "SELECT actor, detail FROM audit_events WHERE event = 'approved' AND organization_id = %s", [organization]
        ).fetchall()
        change = document("acme")["hash"]
        assert event == (f"terminal:{getpass.getuser()}", f"lost, lost_in_a_day, lost_in_a_week; change {change}")

    def test_what_is_held_by_no_run_yet_can_be_approved(self, parts: Parts) -> None:
        """A planned offboarding should not have to fail first."""
        organization, _ = holding(parts)
        assert parts.outcome(organization) == "accepted"
        approve("acme")
        [result] = parts.run("acme")
        assert result.failure is None

    def test_another_loss_makes_it_another_change(self, parts: Parts) -> None:
        organization, everybody = holding(parts)
        looked_at = document("acme")["hash"]
        approve("acme")
        deactivate(parts, everybody[4:5])
        shown = plan("acme")
        assert "is void: it was for another change." in shown
        assert "If it is true: symvanta approve acme" in shown
        refused(
            run("approve", "acme", "--reason", REASON, "--hash", looked_at),
            f"what is held of acme is another change now than {looked_at[:12]}: look again: symvanta plan acme",
        )
        [result] = parts.run("acme")
        assert result.failure is not None
        assert (result.failure.outcome, "is void" in result.failure.sentence) == ("held", True)
        approve("acme", "--hash", document("acme")["hash"][:12])
        [result] = parts.run("acme")
        assert result.failure is None
        assert [used for *_, used in approvals_of(parts, organization)] == [False, True]

    def test_a_new_hire_leaves_it_the_same_change(self, parts: Parts) -> None:
        organization, _ = holding(parts)
        looked_at = document("acme")["hash"]
        parts.person(organization)
        approve("acme", "--hash", looked_at)
        parts.person(organization)
        [result] = parts.run("acme")
        assert result.failure is None

    def test_too_late(self, parts: Parts) -> None:
        organization, _ = holding(parts)
        change = document("acme")["hash"]
        approvals.approve(
            parts.ledger,
            organization,
            change,
            rules=["lost"],
            reason=REASON,
            by="Grace",
            lifetime=timedelta(milliseconds=1),
        )
        shown = plan("acme")
        assert "is over." in shown
        assert "If it is true: symvanta approve acme" in shown
        [result] = parts.run("acme")
        assert result.failure is not None
        assert result.failure.outcome == "held"

    def test_twice_lets_nothing_through_twice(self, parts: Parts) -> None:
        organization, everybody = holding(parts)
        approve("acme", "--by", "Ada")
        approve("acme", "--by", "Grace")
        assert "by Grace lets it through" in plan("acme")
        [result] = parts.run("acme")
        assert result.failure is None
        assert [(by, used) for by, _, _, used in approvals_of(parts, organization)] == [("Ada", False), ("Grace", True)]
        come_back(parts, everybody[:4])
        parts.run("acme")
        deactivate(parts, everybody[:4])
        [result] = parts.run("acme")
        assert result.failure is not None

    def test_nothing_is_held(self, parts: Parts) -> None:
        organization, everybody = company(parts)
        refused(run("approve", "acme", "--reason", REASON), "nothing of acme is held by a brake now")
        deactivate(parts, everybody[:1])
        refused(run("approve", "acme", "--reason", REASON), "nothing of acme is held by a brake now")
        assert approvals_of(parts, organization) == []

    def test_what_is_refused(self, parts: Parts) -> None:
        organization, _ = holding(parts)
        digits = "8 to 64 hexadecimal digits"
        for options, status, says in (
            ([], 2, "--reason"),
            (["--reason", " "], 1, "the reason is blank"),
            (["--reason", "x" * 501], 1, "the reason has 501 characters"),
            (["--reason", "x", "--by", ""], 1, "the name of who approves is blank"),
            (["--reason", "x", "--hash", "abc1234"], 2, digits),
            (["--reason", "x", "--hash", ""], 2, digits),
            (["--reason", "x", "--hash", "nonsense"], 2, digits),
            (["--reason", "x", "--hash", "0" * 65], 2, digits),
            (["--reason", "x", "--hash", "00000000"], 1, "is another change now than 00000000"),
        ):
            result = run("approve", "acme", *options)
            assert (result.exit_code, result.stdout, says in result.stderr) == (status, "", True), result.output
        assert approvals_of(parts, organization) == []

    def test_no_push_would_follow(self, parts: Parts) -> None:
        parts.customer("new", connected=False)
        refused(run("approve", "new", "--reason", REASON), "new was never connected: no push would follow")
        organization, _ = holding(parts)
        parked, _ = holding(parts, "bolt")
        connections.mark_disconnected(parts.ledger, organization)
        assert connections.park(parts.ledger, parked, "revoked", token_generation=parts.token(parked).generation)
        shown = plan("acme")
        assert "It is disconnected: no push follows before: symvanta connect acme" in shown
        assert "symvanta approve" not in shown
        refused(run("approve", "acme", "--reason", REASON), "acme is disconnected: no push would follow")
        refused(run("approve", "bolt", "--reason", REASON), "bolt is parked: no push would follow")
        assert approvals_of(parts, organization) == approvals_of(parts, parked) == []

    def test_what_an_operator_types_is_no_instruction(self, parts: Parts) -> None:
        holding(parts)
        said = run("approve", "acme", "--reason", "left\x1b[2J", "--by", "a\nb").stdout
        assert "By a?b, until" in said
        assert ": left?[2J\n" in said
        assert "by a?b lets it through" in plan("acme")


class TestSource:
    """What is the matter with the source cannot be looked at, nor approved."""

    @pytest.mark.parametrize("command", [["plan", "--json"], ["approve", "--reason", REASON]])
    def test_each_trouble_is_one_line(self, parts: Parts, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        organization, everybody = company(parts)
        parts.sym.execute("UPDATE users SET email = 'canary' WHERE id = %s", everybody[0])
        refused(
            run(*command, "acme"), "acme cannot be sent as it is, which no approval changes; correct it in Sym: rule"
        )
        remove(parts, everybody)
        refused(run(*command, "acme"), "rule nobody")
        [result] = parts.run("acme")
        assert result.failure is not None
        refused(run(*command, "acme"), "rule nobody")
        parts.sym.execute("UPDATE organizations SET deleted_at = now() WHERE id = %s", organization)
        refused(run(*command, "acme"), "is deleted in Sym's database")
        parts.sym.execute("DELETE FROM organizations WHERE id = %s", organization)
        refused(run(*command, "acme"), "has no organization")
        refused(run(*command, "nobody"), "no organization has the slug 'nobody'")
        monkeypatch.setenv("SYM_DATABASE_URL", NOWHERE)
        refused(run(*command, "acme"), "cannot connect to Sym's database")
        monkeypatch.delenv("SYM_DATABASE_URL")
        refused(run(*command, "acme"), "SYM_DATABASE_URL is not set")
        monkeypatch.setenv("SYMVANTA_DATABASE_URL", NOWHERE)
        monkeypatch.setenv("SYM_DATABASE_URL", NOWHERE)
        refused(run(*command, "acme"), "the pipeline's own database cannot be reached")
        assert approvals_of(parts, organization) == []

    def test_vantas_settings_are_needed_by_those_alone_who_ask_it(
        self, parts: Parts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        holding(parts)
        for variable in ("VANTA_CLIENT_ID", "VANTA_CLIENT_SECRET", "VANTA_RESOURCE_ID", "SYMVANTA_TOKEN_KEYS"):
            monkeypatch.delenv(variable)
        plan("acme")
        approve("acme")
        refused(run("plan", "acme", "--against-vanta"), "VANTA_CLIENT_ID is not set")


def test_the_offboarding_of_a_whole_company(parts: Parts) -> None:
    """The steps of docs/brakes.md, one after the other."""
    organization, everybody = company(parts)
    deactivate(parts, everybody)
    looked = document("acme", "--ids")
    assert (looked["deactivated"], looked["vanished"]) == ([str(one) for one in everybody], [])
    assert {"nobody_active", "lost"} < {brake["rule"] for brake in looked["brakes"]}
    approve("acme", "--hash", looked["hash"][:12])
    [result] = parts.run("acme")
    assert result.failure is None
    assert set(parts.at_vanta(organization).values()) == {"DEACTIVATED"}
    *_, push = json.loads(run("history", "acme", "--json").stdout)["pushes"]
    assert (push["active"], push["deactivated"], push["reason"]) == (0, 6, REASON)
    [result] = parts.run("acme")
    assert result.failure is not None
    assert result.failure.kind == "nobody_active"
    assert run("disconnect", "acme").exit_code == 0
    assert parts.state(organization) == "disconnected"
    assert len(json.loads(run("history", "acme", "--json").stdout)["pushes"]) == 2


def test_an_offboarding_in_the_wrong_order_is_seen(parts: Parts) -> None:
    """People whose rows are gone would be missing for the auditor, not offboarded."""
    _, everybody = company(parts)
    remove(parts, everybody[1:])
    looked = document("acme", "--ids")
    assert (looked["deactivated"], looked["vanished"]) == ([], [str(one) for one in everybody[1:]])
    assert "vanished" in {brake["rule"] for brake in looked["brakes"]}


def test_who_left_long_ago_may_be_forgotten(parts: Parts) -> None:
    _, (left, *_) = company(parts)
    deactivate(parts, [left])
    parts.run("acme")
    remove(parts, [left])
    shown = plan("acme")
    assert "  1 more were sent as deactivated and are not in Sym any more\n" in shown
    assert re.search(r"^  vanished +0$", shown, re.MULTILINE)


def test_the_whole_ledger_is_as_it_was_after_a_plan(parts: Parts) -> None:
    """Looking writes nothing down; the oracle sees an approval."""

    def rows() -> dict[str, list[Any]]:
        tables = ("outcomes", "intents", "accepted_snapshots", "account_states", "account_changes", "approvals")
        return {
            table: parts.ledger.execute(
                psycopg.sql.SQL("SELECT * FROM {}").format(psycopg.sql.Identifier(table))
            ).fetchall()
            for table in (*tables, "proofs", "audit_events")
        }

    organization, _ = holding(parts)
    before = rows()
    for options in ([], ["--ids"], ["--json"], ["--against-vanta"]):
        plan("acme", *options)
    assert rows() == before
    approve("acme")
    after = rows()
    assert {table for table in after if after[table] != before[table]} == {"approvals", "audit_events"}
    record = snapshots.customer_record(parts.ledger, organization)
    assert record is not None
    assert record.outcome == "accepted"
