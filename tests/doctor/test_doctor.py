"""`symvanta doctor` as a whole: what it prints, how it ends, that it changes nothing and does not hang."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner, Result
from psycopg import sql

from symvanta_pipeline.cli import main
from symvanta_pipeline.doctor import examination
from symvanta_pipeline.doctor.examination import CHECKS, Check, NotWell, content, examine, lines, require_well
from symvanta_pipeline.doctor.verdict import Verdict, fail, ok, skipped, warn
from symvanta_pipeline.sym.source import SourceUnavailable
from tests.doctor.installation import Installation
from tests.support.stack import SYMVANTA

NOWHERE = "postgresql://u:canary@127.0.0.1:1/nowhere"


def doctor(*arguments: str, **changes: str) -> Result:
    """Run the command in this process: importing Dagster in another one costs more than the command itself."""
    return CliRunner().invoke(main, ["doctor", *arguments], prog_name="symvanta", env=changes)


def everything_of(well: Installation) -> Mapping[str, object]:
    """Return all that could have changed: each row of each table, and each file with its time."""
    urls = {"sym": well.sym_admin, "own": well.own_admin, "dagster": well.dagster_admin}
    tables = {f"{name} {table}": rows for name, url in urls.items() for table, rows in _rows_of(url).items()}
    files = {str(path): path.stat().st_mtime_ns for path in well.home.parent.rglob("*")}
    return tables | files


def _rows_of(url: str) -> dict[str, list[str]]:
    with psycopg.connect(url) as connection:
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        query = sql.SQL("SELECT t::text FROM {} AS t ORDER BY 1")
        return {
            name: [row for (row,) in connection.execute(query.format(sql.Identifier(name))).fetchall()]
            for (name,) in names
        }


def test_all_is_well_and_nothing_has_changed(well: Installation) -> None:
    well.vanta.clear_journal()
    logins = len(well.login.journal())
    before = everything_of(well)

    done = subprocess.run([str(SYMVANTA), "doctor", "--json"], capture_output=True, text=True, timeout=120, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert [each["check"] for each in told] == [check.name for check in CHECKS]
    assert all(set(each) == {"check", "state", "detail", "do"} for each in told)
    assert [each for each in told if each["state"] != "ok"] == []
    assert everything_of(well) == before
    # Nothing that has a limit, carries a token or could refresh one.
    assert well.vanta.journal() == []
    assert [entry["endpoint"] for entry in well.login.journal()[logins:]] == ["discovery"]
    assert _advisory_locks(well) == 0


def _advisory_locks(well: Installation) -> int:
    with psycopg.connect(well.own_admin) as connection:
        [(count,)] = connection.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchall()
    return int(count)


def test_the_oracle_of_the_test_above_sees_a_change(well: Installation) -> None:
    before = everything_of(well)
    with psycopg.connect(well.own_admin) as connection:
        connection.execute("INSERT INTO rate_budgets (name) VALUES ('canary')")
    assert everything_of(well) != before
    with psycopg.connect(well.own_admin) as connection:
        connection.execute("DELETE FROM rate_budgets")
    assert everything_of(well) == before


@pytest.mark.usefixtures("well")
def test_says_all_that_is_ill_at_once_and_ends_with_1() -> None:
    done = doctor(SYM_DATABASE_URL=NOWHERE, VANTA_CLIENT_ID="", SYMVANTA_PUBLIC_URL="http://127.0.0.1:3080")

    assert done.exit_code == 1
    assert re.fullmatch(r"symvanta: 2 of 28 checks failed, [^\n]*: settings, sym database\n", done.stderr)
    told = dict(re.findall(r"^(?:ok|warn|fail|skipped) +(\S+(?: \S+)*?)  +(\S.*)$", done.stdout, re.MULTILINE))
    assert list(told) == [check.name for check in CHECKS]
    assert "VANTA_CLIENT_ID is not set" in told["settings"]
    assert told["sym role"] == "needs what is not well: sym database"
    assert told["vanta api"] == "needs settings: VANTA_CLIENT_ID is not set"
    assert "-> set SYMVANTA_PUBLIC_URL" in told["connect app"]
    assert told["own role"].endswith("owns the tables")
    assert "canary" not in done.stdout + done.stderr


@pytest.mark.usefixtures("well")
def test_warnings_alone_end_with_0() -> None:
    done = doctor("--json", SYMVANTA_PUBLIC_URL="http://127.0.0.1:3080")
    assert (done.exit_code, done.stderr) == (0, "")
    assert [each["check"] for each in json.loads(done.stdout) if each["state"] == "warn"] == ["connect app"]


@pytest.mark.usefixtures("well")
def test_with_nothing_set_it_names_every_variable(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in installation.env:
        monkeypatch.delenv(name)
    done = doctor("--json")
    told = {each["check"]: each for each in json.loads(done.stdout)}
    assert done.exit_code == 1
    assert set(re.findall(r"([A-Z_]+) is not set", told["settings"]["detail"])) == {
        "SYM_DATABASE_URL",
        "SYMVANTA_DATABASE_URL",
        "DAGSTER_POSTGRES_URL",
        "SYMVANTA_TOKEN_KEYS",
        "VANTA_CLIENT_ID",
        "VANTA_CLIENT_SECRET",
        "VANTA_RESOURCE_ID",
    }
    assert told["clock"]["state"] == "skipped"
    assert list(tmp_path.iterdir()) == []


HANGING = """
from symvanta_pipeline.doctor.examination import examine, lines
print("\\n".join(lines(examine(within=2))))
"""


@pytest.mark.usefixtures("well")
def test_hosts_that_hang_hold_up_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        changes = {
            "SYM_DATABASE_URL": f"postgresql://u:canary@{host}/sym",
            "SYMVANTA_DATABASE_URL": f"postgresql://u:canary@{host}/own",
            "DAGSTER_POSTGRES_URL": f"postgresql+psycopg2://u:canary@{host}/dagster",
            "VANTA_API_URL": f"http://{host}",
            "VANTA_APP_URL": f"http://{host}",
            "SYM_OIDC_ISSUER": f"http://{host}",
        }
        # That it ends at all is the proof: its threads are still waiting then.
        done = subprocess.run(
            [sys.executable, "-c", HANGING],
            env={**os.environ, **changes},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    hung = re.findall(r"^fail +(.*?) +did not end within 2 s -> ", done.stdout, re.MULTILINE)
    databases = ["sym database", "own database", "dagster database"]
    assert hung == [*databases, "vanta api", "vanta consent page", "sym login", "clock"]
    assert re.search(r"^skipped +sym role +needs what did not end in time: sym database$", done.stdout, re.MULTILINE)
    assert re.search(r"^ok +settings ", done.stdout, re.MULTILINE)
    assert "canary" not in done.stdout + done.stderr


# The examination, with checks of the test's own.


def test_one_checks_trouble_is_its_own_and_quotes_nothing() -> None:
    def breaks() -> Verdict:
        raise RuntimeError("canary")

    verdicts = examine([Check("broken", breaks), Check("after", lambda: ok("fine"), ("broken",)), Check("b", _fine)])

    assert verdicts["broken"].state == "fail"
    assert re.fullmatch(r"unexpected RuntimeError at test_doctor.py:\d+", verdicts["broken"].detail)
    assert "canary" not in str(verdicts)
    assert verdicts["after"] == skipped("needs what is not well: broken")
    assert verdicts["b"] == _fine()


def test_what_this_project_says_itself_is_told() -> None:
    def breaks() -> Verdict:
        raise SourceUnavailable("the read of Sym's database\nbroke off")

    assert examine([Check("broken", breaks)])["broken"] == fail(
        "the read of Sym's database broke off", "try again: it was there a moment ago"
    )


def test_a_warning_stops_nothing_and_a_skipped_check_stops_what_needs_it() -> None:
    checks = [
        Check("last", _fine, ("middle",)),
        Check("middle", lambda: skipped("not here"), ("first",)),
        Check("first", lambda: warn("hm", "look")),
    ]
    assert [verdict.state for verdict in examine(checks).values()] == ["skipped", "skipped", "warn"]


def test_what_hangs_is_told_after_the_time_and_in_its_place() -> None:
    release = threading.Event()
    checks = [Check("hangs", lambda: ok(str(release.wait()))), Check("waits", _fine, ("hangs",)), Check("fine", _fine)]
    verdicts = examine(checks, within=0.3)
    release.set()
    assert list(verdicts) == ["hangs", "waits", "fine"]
    assert [verdict.state for verdict in verdicts.values()] == ["fail", "skipped", "ok"]


def test_every_need_is_a_check() -> None:
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)
    assert {need for check in CHECKS for need in check.needs} <= set(names)


def test_only_a_failure_is_not_well() -> None:
    require_well({"a": ok("fine"), "b": warn("hm", "look"), "c": skipped("no")})
    with pytest.raises(NotWell, match=r"^1 of 2 checks failed, .*: b$"):
        require_well({"a": ok("fine"), "b": fail("broken", "mend it")})


def test_forms() -> None:
    verdicts = {"a": ok("fine"), "long name": fail("broken", "mend it")}
    assert lines(verdicts) == ["ok       a          fine", "fail     long name  broken -> mend it"]
    assert content(verdicts)[1] == {"check": "long name", "state": "fail", "detail": "broken", "do": "mend it"}
    assert lines({}) == []


def _fine() -> Verdict:
    return ok("fine")


def test_skipped_for_settings_keeps_to_the_names() -> None:
    found = examination._PROBLEM.findall(  # the sentences that `settings` makes, cut
        "SYMVANTA_TOKEN_KEYS is malformed: it should hold id:key pairs; the first encrypts; A_B is not set: x"
    )
    assert found == ["SYMVANTA_TOKEN_KEYS is malformed", "A_B is not set"]
