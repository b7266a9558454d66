"""The watch over secrets and people: it finds what is planted, and finds nothing after a whole run in Dagster.

The catalogue's cases all run under the same watch (``conftest``).
"""

import base64
import dataclasses
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode
from uuid import UUID

import dagster as dg
import pandas as pd
import pytest
from dagster._core.code_pointer import CodePointer
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._grpc.types import ExecuteRunArgs

from symvanta_pipeline.definitions import defs
from symvanta_pipeline.sandbox.vanta.journal import fingerprint
from symvanta_pipeline.sym.source import UsersSnapshot
from symvanta_pipeline.vanta.oauth import QUIET_LOGGERS
from symvanta_pipeline.vanta.session import ATTEMPTS
from tests.support import leaks
from tests.support.leaks import Canaries, Place
from tests.support.parts import Parts, sentences
from tests.support.runs import register, stretch

ROOT = Path(__file__).parents[2]
VALUE = 'PLANTED 7é "quoted" & more'
PLANTED = Canaries({"planted": [VALUE]})


# The scanner itself.


ENCODED: dict[str, Callable[[str], str | bytes]] = {
    "plain": lambda value: f"before {value} after",
    "plain, in another case": lambda value: value.replace("PLANTED", "planted"),
    "plain, as bytes": lambda value: b"\x00\xff" + value.encode() + b"\xfe",
    "JSON-escaped": lambda value: json.dumps({"key": value}),
    "percent-encoded": lambda value: f"https://example.com/?code={quote(value, safe='')}&x=1",
    "percent-encoded, as a form": lambda value: urlencode({"a": value, "b": "1"}),
    "bytes-escaped": lambda value: repr(value.encode() + b"!"),
    "base64": lambda value: base64.b64encode(value.encode()),
    "base64, one byte on": lambda value: base64.b64encode(b"x" + value.encode() + b"yz"),
    "base64, two bytes on": lambda value: base64.urlsafe_b64encode(b"xy" + value.encode() + b"z"),
    "hex": lambda value: "\\x" + value.encode().hex(),
}


@pytest.mark.parametrize("form", ENCODED)
def test_a_value_is_found_in_whatever_form_it_takes(form: str) -> None:
    content = ENCODED[form](VALUE)
    [leak] = leaks.find_leaks(PLANTED, [Place("here", "nothing"), Place("there", content)])
    kind, _, rest = leak.partition(" in there, at byte ")
    assert kind == f"planted ({form.partition(',')[0]})"
    at = int(rest)
    raw = content if isinstance(content, bytes) else content.encode()
    assert leaks.find_leaks(PLANTED, [Place("cut off there", raw[:at])]) == []


def test_what_was_not_planted_is_not_found_and_nothing_planted_is_a_mistake() -> None:
    assert leaks.find_leaks(PLANTED, [Place("here", VALUE[:-1]), Place("there", VALUE[1:])]) == []
    with pytest.raises(ValueError, match="nothing was planted"):
        Canaries({"name": []})


def test_a_report_of_a_leak_is_no_leak() -> None:
    [leak] = leaks.find_leaks(PLANTED, [Place(f"logger x, message '{VALUE}'", VALUE)])
    assert leak == "planted (plain) in logger x, message '<planted>', at byte 0"


def in_a_message(_: Parts) -> None:
    logging.getLogger("symvanta_pipeline.sync").debug("a %s b", VALUE)


def by_a_logger_of_its_own(_: Parts) -> None:
    logging.getLogger("tests.new").info("x", extra={"more": VALUE})


def with_an_exception(_: Parts) -> None:
    logging.getLogger("psycopg").error("it failed", exc_info=ValueError(VALUE))


def on_standard_output(_: Parts) -> None:
    os.write(1, VALUE.encode())


def by_a_child(_: Parts) -> None:
    subprocess.run([sys.executable, "-c", f"import sys; sys.stderr.write({VALUE!a})"], check=True)


def in_a_column(parts: Parts) -> None:
    parts.ledger.execute("CREATE TABLE planted (id int, at timestamptz DEFAULT now(), held jsonb)")
    parts.ledger.execute("INSERT INTO planted (held) VALUES (%s), (%s)", ["{}", json.dumps({"deep": [VALUE]})])


def in_bytes_of_a_column(parts: Parts) -> None:
    parts.ledger.execute("CREATE TABLE planted (held bytea)")
    parts.ledger.execute("INSERT INTO planted VALUES (%s)", [b"\x00" + VALUE.encode()])


def beside_a_token(parts: Parts) -> None:
    parts.customer("acme")
    parts.ledger.execute("UPDATE tokens SET key_id = %s", [VALUE])


def in_a_file(parts: Parts) -> None:
    (parts.folder / "deep").mkdir()
    (parts.folder / "deep/file").write_bytes(b"0123456789" + VALUE.encode())


def in_the_name_of_a_file(parts: Parts) -> None:
    (parts.folder / VALUE).touch()


def in_a_result(parts: Parts) -> None:
    parts.run(VALUE)


def befalling_a_customer(parts: Parts) -> None:
    """Its text is shown nowhere; an error tracker would have it, though, and what led to it."""
    parts.customer("acme")

    def read(_: str) -> UsersSnapshot:
        error = KeyError("hidden")
        error.__context__, error.__suppress_context__ = RuntimeError(VALUE), True
        raise error

    with parts.sync() as built:
        list(dataclasses.replace(built, read_users=read).results(["acme"]))


@pytest.mark.parametrize(
    ("plant", "where"),
    [
        (in_a_message, "logger symvanta_pipeline.sync, level DEBUG, message 'a %s b', at byte 2"),
        (by_a_logger_of_its_own, "logger tests.new, level INFO, message 'x', at byte "),
        (with_an_exception, "logger psycopg, level ERROR, message 'it failed', at byte "),
        (on_standard_output, "standard output, at byte 0"),
        (by_a_child, "standard error, at byte "),
        (in_a_column, "table planted, column held, row (0,2), at byte "),
        (in_bytes_of_a_column, "table planted, column held, row (0,1), at byte 1"),
        (beside_a_token, "table tokens, column key_id, row ("),
        (in_a_file, "deep/file, at byte 10"),
        (in_the_name_of_a_file, "the name of a file, at byte "),
        (in_a_result, "the result of a customer, at byte "),
        (befalling_a_customer, "exception RuntimeError, at byte 0"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_test_that_leaks_fails_and_names_the_place(
    parts: Parts, capfd: pytest.CaptureFixture[str], plant: Callable[[Parts], None], where: str
) -> None:
    try:
        with (
            pytest.raises(AssertionError, match="a secret or a person was found") as caught,
            leaks.watched(parts, capfd, lambda _: PLANTED),
        ):
            plant(parts)
    finally:
        parts.ledger.execute("DROP TABLE IF EXISTS planted")
    assert where in str(caught.value)
    assert list(PLANTED.in_content(str(caught.value))) == []


@pytest.mark.parametrize("kind", ["cause", "context", "group", "note"])
def test_what_led_to_an_exception_is_searched_as_well(kind: str) -> None:
    secret, error = ValueError(VALUE), RuntimeError("harmless")
    error.__cause__ = secret if kind == "cause" else None
    error.__context__ = secret if kind == "context" else None
    error.__suppress_context__ = True
    if kind == "note":
        error.add_note(VALUE)
    shown = ExceptionGroup("several", [secret]) if kind == "group" else error
    found = leaks.find_leaks(PLANTED, leaks.exceptions([shown]))
    assert any(f"exception {'RuntimeError' if kind == 'note' else 'ValueError'}, " in leak for leak in found)


def test_where_tokens_and_people_belong_nobody_looks(parts: Parts, capfd: pytest.CaptureFixture[str]) -> None:
    parts.customer("acme")
    parts.ledger.execute("UPDATE tokens SET access_token = %s, refresh_token = %s", [VALUE.encode()] * 2)
    (parts.folder / "data").mkdir()
    (parts.folder / "data/file").write_text(VALUE)
    with leaks.watched(parts, capfd, lambda _: PLANTED):
        pass


def test_the_libraries_that_would_tell_tokens_are_kept_quiet_and_would_be_found(
    parts: Parts, capfd: pytest.CaptureFixture[str], leaks_on_purpose: None
) -> None:
    del leaks_on_purpose
    parts.customer("acme", due=True)
    with leaks.watched(parts, capfd):
        assert [logging.getLogger(name).level for name in QUIET_LOGGERS] == [logging.INFO] * len(QUIET_LOGGERS)
        assert logging.getLogger("urllib3").level == logging.DEBUG
        assert sentences(parts.run("acme")) == {"acme": None}
    parts.customer("loud", due=True)
    with pytest.raises(AssertionError, match="was found") as caught, leaks.watched(parts, capfd):
        loudly(lambda: parts.run("loud"))
    assert "token or code (plain) in logger requests_oauthlib.oauth2_session" in str(caught.value)


def loudly(act: Callable[[], object]) -> None:
    """Act while a logger that should be quiet is not."""
    logger = logging.getLogger("requests_oauthlib.oauth2_session")
    logger.setLevel(logging.DEBUG)
    try:
        act()
    finally:
        logger.setLevel(logging.INFO)


# A whole run.

NOISY_WORKER = """
import logging
import symvanta_pipeline.definitions
from dagster._cli import main
from tests.support import leaks
leaks.at_debug(logging.StreamHandler())
main()
"""
EVERY_LOGGER_TO_THE_EVENTS = """
python_logs:
  python_log_level: DEBUG
  managed_python_loggers: [root]
"""
ANOTHER_SECRET = "vcs_canary_unknown_4d1a"
TELLING_NAME = 'Łucja "Canary" O\'Neill & Söhne'


# What each customer's attempt ends as.
ENDS = {
    "accepted": "accepted",
    "refused": "refused",
    "parked": "parked",
    "forbidden": "refused",
    "lost-reply": "accepted",
    "no-token": "accepted",
    "narrowed": "refused",
    "limited": "accepted",
    "away": "failing",
    "failing": "failing",
    "held": "held",
}


def plant_customers(parts: Parts) -> dict[str, UUID]:
    """Connect customers with whatever may happen to one; the refusals quote people, as Vanta's do."""
    quoting = {"error": f"resources[0].fullName: {TELLING_NAME}"}
    happens: dict[str, tuple[str, str, dict[str, Any]]] = {
        "accepted": ("put", "status", {"status": 401}),
        "refused": ("put", "status", {"status": 400, "body": {"error": "resources[0].email: telling@refused.example"}}),
        "parked": ("token", "revoke", {}),
        "forbidden": ("put", "html", {"status": 403}),
        "lost-reply": ("token", "drop_after", {}),
        "no-token": ("token", "no_access_token", {}),
        "narrowed": ("token", "scope", {}),
        "limited": ("put", "status", {"status": 429, "retry_after": 1, "body": quoting}),
        "away": ("put", "status", {"status": 503, "times": ATTEMPTS, "body": quoting}),
    }
    planted = {}
    for slug, (on, kind, options) in happens.items():
        planted[slug] = parts.customer(slug, due=True)
        parts.person(planted[slug], name=TELLING_NAME, email=f"telling@{slug}.example")
        parts.vanta.fault(on, kind, tenant=str(planted[slug]), **options)
    planted["failing"] = parts.customer("failing")
    swap = "UPDATE tokens SET access_token = refresh_token, refresh_token = access_token WHERE organization_id = %s"
    parts.ledger.execute(swap.encode(), [planted["failing"]])
    planted["held"] = parts.customer("held")
    parts.person(planted["held"], name=TELLING_NAME, email=None)
    return planted


def test_a_run_in_dagster_with_everything_logged_leaks_nothing(
    parts: Parts, dagster_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = parts.folder / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text() + EVERY_LOGGER_TO_THE_EVENTS)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", dagster_url)
    organizations = plant_customers(parts)

    with dg.DagsterInstance.from_config(str(home)) as instance:
        register(instance, *organizations)
        assert run_by_a_worker(parts, instance, organizations) is dg.DagsterRunStatus.FAILURE
        done = instance.get_materialized_partitions(dg.AssetKey(["vanta", "user_account_sync"]))
        assert done == {slug for slug, end in ENDS.items() if end == "accepted"}
        everything_was_in_play(parts, organizations)
        # Once more, with a secret of ours that Vanta does not know.
        parts.age_token(organizations["accepted"])
        monkeypatch.setenv("VANTA_CLIENT_SECRET", ANOTHER_SECRET)
        assert run_by_a_worker(parts, instance, organizations) is dg.DagsterRunStatus.FAILURE

    # The watch over this test looks at the ledger, the compute logs and every other file; it does not know of these.
    canaries = leaks.canaries_of(parts, {"another client secret": [ANOTHER_SECRET]})
    events, written = (
        list(leaks.tables(dagster_url)),
        list(leaks.files(parts.folder, apart_from=[parts.folder / "data"])),
    )
    assert leaks.find_leaks(canaries, [*events, *written, *leaks.tables(parts.ledger_url)]) == []
    looked_at(events, "table event_logs", "POST /oauth/token", "connection attempt: host", "403", "invalid_client")
    computed = [place for place in written if place.where.endswith(".err")]
    looked_at(computed, "file", "POST /oauth/token", "refused the body because of record", 'HTTP/1.1" 503', "429")


def run_by_a_worker(
    parts: Parts, instance: dg.DagsterInstance, organizations: Mapping[str, UUID]
) -> dg.DagsterRunStatus:
    """Run the job for everybody as a launcher does, in a process that logs everything; tell how it ended."""
    slugs = list(organizations)
    job = defs.resolve_job_def("user_account_sync_job")
    repository = RepositoryPythonOrigin(
        sys.executable, CodePointer.from_module("symvanta_pipeline.definitions", "defs", str(ROOT))
    )
    origin = JobPythonOrigin(job.name, repository)
    run = instance.create_run_for_job(job, tags=stretch(slugs[0], slugs[-1]), job_code_origin=origin)
    worker = ExecuteRunArgs(origin, run.run_id, instance.get_ref())
    with (parts.folder / "worker.log").open("a") as log:
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", NOISY_WORKER, *worker.get_command_args()[-3:]],
            cwd=ROOT,
            stdout=log,
            stderr=log,
            check=True,
        )
    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None
    return ended.status


def everything_was_in_play(parts: Parts, organizations: Mapping[str, UUID]) -> None:
    """Check that what must not leak was really there to be leaked."""
    outcomes = {slug: parts.outcome(organization) for slug, organization in organizations.items()}
    assert outcomes == ENDS
    marker = parts.vanta.config.secret_marker
    token = parts.token(organizations["accepted"])
    assert marker in token.access_token
    assert marker in token.refresh_token
    assert marker in parts.vanta.consent(str(organizations["accepted"]))
    latest = parts.puts(organizations["accepted"])[-1]
    assert (latest["status"], latest["token_fingerprint"]) == (200, fingerprint(token.access_token))
    tenants = {str(organization) for organization in organizations.values()}
    assert all(fault["fired"] for fault in parts.vanta.faults() if str(fault.get("tenant")) in tenants)
    sent = pd.read_parquet(parts.folder / f"data/vanta/user_account_sync/{organizations['accepted']}.parquet")
    assert {TELLING_NAME, "Canary Person"} <= set(sent["fullName"])
    assert "telling@accepted.example" in set(sent["email"])
    read = pd.read_parquet(parts.folder / f"data/sym/users/{organizations['held']}.parquet")
    assert TELLING_NAME in set(read["name"])
    assert TELLING_NAME in {account["fullName"] for account in parts.body(organizations["accepted"])["resources"]}


def looked_at(places: list[Place], where: str, *words: str) -> None:
    """Check that a place was not empty: it holds what is known to have been said there."""
    contents = "\n".join(str(place.content) for place in places if place.where.startswith(where))
    for word in words:
        assert word in contents, f"{where} does not hold {word!r}"
