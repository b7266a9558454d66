"""``symvanta history``: what an auditor is handed, from real pushes to what is printed."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner, Result

from symvanta_pipeline.cli import main
from symvanta_pipeline.history import History
from symvanta_pipeline.ledger import retention
from tests.support.parts import Parts

TOLD = {"status": "ACTIVE", "level": "BASE", "login": "SSO", "mfa": "sso"}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["history", *arguments], prog_name="symvanta")


def document(*arguments: str) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    content: dict[str, Any] = json.loads(result.stdout)
    return content


def test_who_had_which_access_from_when_to_when(parts: Parts) -> None:
    organization = parts.customer("acme", people=0)
    boss = parts.person(organization, type="admin", identities=[parts.sym.password(mfa_factors=["otp"])])
    gone = parts.person(organization)
    parts.run("acme")
    parts.sym.execute("UPDATE users SET type = 'member' WHERE id = %s", boss)
    parts.sym.execute("UPDATE users SET deactivated_at = now() WHERE id = %s", gone)
    parts.run("acme")
    told = document("acme")
    first, second = told["pushes"]
    assert [push["verdict"] for push in told["pushes"]] == ["accepted", "accepted"]
    assert (first["active"], second["active"], second["deactivated"]) == (2, 1, 1)
    assert first["counts"]["level"] == {"ADMIN": 1, "BASE": 1}
    assert first["source_id"] == str(organization)
    assert (first["unchanged"], second["unchanged"]) == (False, False)
    changes = [(c["at"], c["unique_id"], c["field"], c["old"], c["new"]) for c in told["changes"]]
    begun = {"status": "ACTIVE", "level": "ADMIN", "login": "PASSWORD", "mfa": "on"}
    assert set(changes) == {
        *((first["at"], str(boss), field, None, new) for field, new in begun.items()),
        *((first["at"], str(gone), field, None, new) for field, new in TOLD.items()),
        (second["at"], str(boss), "level", "ADMIN", "BASE"),
        (second["at"], str(gone), "status", "ACTIVE", "DEACTIVATED"),
    }


def test_an_idle_hour_is_a_push_without_a_change(parts: Parts) -> None:
    parts.customer("acme")
    parts.run("acme")
    before = document("acme")["changes"]
    parts.run("acme")
    told = document("acme")
    assert [push["unchanged"] for push in told["pushes"]] == [False, True]
    assert told["changes"] == before


def test_nobody_is_named_unless_it_is_asked_for(parts: Parts) -> None:
    organization = parts.customer("acme", people=0)
    person = parts.person(organization, name="Canary Person", email="canary@acme.example")
    nameless = parts.person(organization, name=None, email="canary2@acme.example")
    parts.run("acme")
    for form in ([], ["--json"], ["--csv"]):
        plain = run("acme", *form)
        assert plain.exit_code == 0
        assert "canary" not in plain.output.lower()
    rows = list(csv.DictReader(io.StringIO(run("acme", "--csv", "--names").stdout)))
    assert list(rows[0]) == ["at", "unique_id", "name", "field", "old", "new"]
    assert {row["unique_id"]: row["name"] for row in rows} == {
        str(person): "Canary Person",
        str(nameless): "canary2@acme.example",
    }


def test_since_cuts(parts: Parts) -> None:
    parts.customer("acme")
    parts.run("acme")
    tomorrow = f"{datetime.now(UTC) + timedelta(days=1):%Y-%m-%d}"
    cut = document("acme", "--since", tomorrow)
    assert (cut["pushes"], cut["changes"]) == ([], [])
    assert len(document("acme", "--since", "2026-01-01")["pushes"]) == 1
    assert "nothing was ever pushed" in run("acme", "--since", tomorrow).stdout


def rewind(parts: Parts, days: int) -> None:
    """Move what was accepted so far into the past."""
    with parts.ledger.transaction():
        parts.ledger.execute("SET LOCAL session_replication_role = replica")
        for table, column in (
            ("accepted_snapshots", "accepted_at"),
            ("account_changes", "at"),
            ("account_states", "since"),
        ):
            parts.ledger.execute(f"UPDATE {table} SET {column} = {column} - make_interval(days => {days})".encode())


def test_since_tells_who_had_what_at_that_time(parts: Parts) -> None:
    """Who had admin then is not in the changes since."""
    organization = parts.customer("acme", people=0)
    boss = parts.person(organization, type="admin", identities=[parts.sym.password(mfa_factors=["otp"])])
    gone = parts.person(organization)
    parts.run("acme")
    rewind(parts, 20)
    parts.sym.execute("DELETE FROM identities WHERE user_id = %s", gone)
    parts.sym.execute("DELETE FROM users WHERE id = %s", gone)
    parts.run("acme")
    rewind(parts, 20)
    first, second = (push["at"] for push in document("acme")["pushes"])
    parts.sym.execute("UPDATE users SET type = 'member' WHERE id = %s", boss)
    parts.run("acme")
    day = f"{datetime.now(UTC) - timedelta(days=10):%Y-%m-%d}"
    told = document("acme", "--since", day)
    begun = {"status": "ACTIVE", "level": "ADMIN", "login": "PASSWORD", "mfa": "on"}
    assert told["access_at_start"] == [
        {"unique_id": str(boss), "field": field, "value": begun[field], "since": first} for field in sorted(begun)
    ]
    assert [(c["unique_id"], c["old"], c["new"]) for c in told["changes"]] == [(str(boss), "ADMIN", "BASE")]
    # At the very time of a push, it is a change and not how things were before.
    at = document("acme", "--since", second)
    assert {row["unique_id"] for row in at["access_at_start"]} == {str(boss), str(gone)}
    rows = list(csv.DictReader(io.StringIO(run("acme", "--since", day, "--csv", "--names").stdout)))
    assert [row["field"] for row in rows] == [*sorted(begun), "level"]
    assert rows[0] == {
        "at": first, "unique_id": str(boss), "name": "Canary Person", "field": "level", "old": "", "new": "ADMIN",
    }  # fmt: skip
    assert "what Vanta knew before that" in run("acme", "--since", day).stdout


def test_who_has_access_for_longer_than_history_is_kept_is_still_in_it(parts: Parts) -> None:
    """An admin who was pushed 500 days ago, and whom nothing changed for since."""
    organization = parts.customer("acme", people=0)
    boss = parts.person(organization, type="admin")
    promoted = parts.person(organization)
    parts.run("acme")
    rewind(parts, 40)
    parts.sym.execute("UPDATE users SET type = 'admin' WHERE id = %s", promoted)
    parts.run("acme")
    rewind(parts, 460)
    parts.run("acme")
    before = document("acme")
    kept = [c for c in before["changes"] if c["new"] != "BASE"]
    assert len(kept) == len(before["changes"]) - 1  # of a level that had gone 460 days ago
    retention.prune(parts.ledger, keep_ledger=timedelta(days=400), keep_runs=timedelta(days=30))
    after = document("acme")
    assert [push["at"] for push in after["pushes"]] == [before["pushes"][-1]["at"]]
    assert after["changes"] == kept
    assert {(c["unique_id"], c["at"]) for c in kept if c["new"] == "ADMIN"} == {
        (str(boss), before["pushes"][0]["at"]),
        (str(promoted), before["pushes"][1]["at"]),
    }
    day = f"{datetime.now(UTC) - timedelta(days=10):%Y-%m-%d}"
    admins = [row for row in document("acme", "--since", day)["access_at_start"] if row["value"] == "ADMIN"]
    assert {(row["unique_id"], row["since"]) for row in admins} == {
        (str(boss), before["pushes"][0]["at"]),
        (str(promoted), before["pushes"][1]["at"]),
    }


def test_what_an_older_version_pruned_is_told_without_its_time(parts: Parts) -> None:
    organization = parts.customer("acme")
    parts.run("acme")
    with parts.ledger.transaction():
        parts.ledger.execute("SET LOCAL session_replication_role = replica")
        parts.ledger.execute("DELETE FROM account_changes WHERE organization_id = %s", [organization])
    told = document("acme")
    assert told["changes"] == []
    assert [(row["field"], row["value"], row["since"]) for row in told["access_at_start"]] == [
        (field, value, None) for field, value in sorted(TOLD.items())
    ]


def test_a_push_whose_end_is_not_known_is_told_as_that(parts: Parts) -> None:
    organization = parts.customer("acme")
    parts.vanta.fault("put", "no_verdict", tenant=str(organization))
    parts.run("acme")
    [push] = document("acme")["pushes"]
    assert push["verdict"] == "possibly applied"
    assert document("acme")["changes"] == []


def test_a_customer_that_is_gone_from_sym_has_its_history(parts: Parts) -> None:
    organization = parts.customer("acme")
    parts.run("acme")
    parts.sym.execute("UPDATE organizations SET slug = 'no-more', deleted_at = now() WHERE id = %s", organization)
    assert len(document("acme")["pushes"]) == 1
    refused = run("acme", "--names")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "is deleted in Sym's database" in refused.stderr


def test_a_name_cannot_run_in_a_spreadsheet(parts: Parts) -> None:
    """CSV injection: whoever can choose a name could otherwise run a formula at an auditor's desk."""
    organization = parts.customer("acme", people=0)
    parts.person(organization, name='=HYPERLINK("http://evil.example")')
    parts.run("acme")
    rows = list(csv.DictReader(io.StringIO(run("acme", "--csv", "--names").stdout)))
    assert {row["name"] for row in rows} == {'\'=HYPERLINK("http://evil.example")'}


def test_nothing_yet(parts: Parts) -> None:
    organization = parts.customer("acme")
    assert document("acme") == {"pushes": [], "changes": [], "access_at_start": []}
    assert History.of(parts.ledger, organization, since=None).csv() == "at,unique_id,field,old,new\r\n"


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["nobody"], 1, "no organization has the slug 'nobody'"),
        (["acme", "--json", "--csv"], 2, "choose one"),
        (["acme", "--since", "yesterday"], 2, "--since"),
        ([], 2, "SLUG"),
    ],
)
def test_what_cannot_be_done_is_said(parts: Parts, arguments: list[str], status: int, says: str) -> None:
    parts.customer("acme")
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (status, "")
    assert says in result.stderr
