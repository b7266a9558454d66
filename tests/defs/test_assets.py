"""The three assets on a real instance: what is materialized, checked, sent and told, customer by customer."""

import json
import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import dagster as dg
import psycopg
import pytest
from dagster._core.storage.tags import PARENT_RUN_ID_TAG, RETRY_NUMBER_TAG, ROOT_RUN_ID_TAG
from psycopg import sql

from symvanta_pipeline import sync
from symvanta_pipeline.definitions import defs
from symvanta_pipeline.defs import assets, events
from symvanta_pipeline.defs.assets import ACCOUNTS, SYNC, USERS
from symvanta_pipeline.defs.checks import PROMISES
from symvanta_pipeline.defs.partitions import CUSTOMERS
from symvanta_pipeline.ledger.locks import customer_lock
from symvanta_pipeline.settings import SettingsError, VantaAppSettings, load
from symvanta_pipeline.sync import SENT as SENT_ASSET
from tests.support.parts import CANARY, CLIENT_SECRET, Parts, ago
from tests.support.runs import (
    ASSETS,
    CHECKS,
    Finished,
    backend,
    latest_check,
    launch,
    of_tick,
    one,
    register,
    status,
    stretch,
)

ALL = [key.to_user_string() for key in ASSETS]
TABLES = ("organizations", "users", "identities")
ROWS = {"source_is_whole_and_fresh": True, "rows_keep_the_contract": True}
RECORDS = {"records_are_valid": True}
BRAKES = dict.fromkeys((name for name, _ in PROMISES.values()), True)
# Of a first push, where nothing is sent: what Vanta lists was not looked at, which warns.
UNASKED = BRAKES | {"no_first_push_removes_accounts_of_others_unseen": False}
SENT = {"accepted_by_vanta": True, "vanta_shows_what_was_sent": True}
# What a run has no answer to warns; see test_checks.
UNSENT = dict.fromkeys(SENT, False)
PASSED = ROWS | RECORDS | BRAKES | SENT

LOAD = """
import json, sys
import psycopg

def refuse(event, arguments):
    if event in ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto"):
        raise AssertionError(event)

def connect(*arguments, **options):
    raise AssertionError("psycopg.connect")

sys.addaudithook(refuse)
psycopg.connect = psycopg.Connection.connect = connect
import symvanta_pipeline.definitions
from symvanta_pipeline.definitions import defs
print(json.dumps(sorted(key.to_user_string() for key in defs.resolve_all_asset_keys())))
print(json.dumps([job.name for job in defs.resolve_all_job_defs()]))
"""


def test_definitions_load_without_settings_and_without_network(tmp_path: Path) -> None:
    """The settings that are read at loading are malformed here: a tick or a run tells, loading must not fail."""
    path = os.pathsep.join(filter(None, sys.path))
    environment = {"SYMVANTA_CUSTOMERS_PER_RUN": "many", "VANTA_APP_URL": "no url", "PYTHONPATH": path}
    loaded = subprocess.run(
        [sys.executable, "-c", LOAD], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert loaded.returncode == 0, loaded.stderr
    keys, jobs = map(json.loads, loaded.stdout.splitlines())
    assert keys == sorted(
        [*ALL, "ops/fleet_status", "vanta/access_page", *(f"sym_database/{table}" for table in TABLES)]
    )
    assert "user_account_sync_job" in jobs
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("setting", "customers"), [("", 25), ("7", 7), ("many", 25), ("0", 25)])
def test_customers_per_run_of_a_backfill(
    setting: str, customers: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # away from any .env
    monkeypatch.setenv("SYMVANTA_CUSTOMERS_PER_RUN", setting)
    assert assets._customers_per_run() == customers


def four_customers(parts: Parts, instance: dg.DagsterInstance) -> dict[str, UUID]:
    """Connect a healthy one, one that is held, one that is refused, and a healthy one."""
    made = {slug: parts.customer(slug, people=2) for slug in ("acme", "held", "refused", "zeta")}
    parts.person(made["held"], email=None)
    parts.vanta.fault("put", "status", tenant=str(made["refused"]), status=403)
    register(instance, *made)
    return made


def test_a_range_tells_the_truth_for_each_customer(parts: Parts, instance: dg.DagsterInstance) -> None:
    organizations = four_customers(parts, instance)
    finished = launch(instance, stretch("acme", "zeta"))

    assert finished.materialized() == {"acme": ALL, "held": ALL[:1], "refused": ALL[:2], "zeta": ALL}
    assert status(instance, USERS) == ({"acme", "held", "refused", "zeta"}, set())
    assert status(instance, ACCOUNTS) == ({"acme", "refused", "zeta"}, {"held"})
    assert status(instance, SYNC) == ({"acme", "zeta"}, {"held", "refused"})

    expected = {
        "acme": PASSED,
        "held": ROWS | dict.fromkeys(["rows_keep_the_contract", *RECORDS], False) | BRAKES | UNSENT,
        "refused": ROWS | RECORDS | BRAKES | UNSENT,
        "zeta": PASSED,
    }
    assert finished.checked() == expected
    for customer, checks in expected.items():
        assert {c.name: latest_check(instance, c, customer) for c in CHECKS} == checks

    assert not finished.success
    [broken] = parts.sym.connection.execute("SELECT id::text FROM users WHERE email IS NULL").fetchall()[0]
    assert finished.failure == (
        "2 of 4 customers did not get through; the others are done.\n"
        f"held: rule email (email) broken by 1: {broken}\n"
        "refused: Vanta refused the request (403): wrong scope or application type: "
        "compare the application's settings at Vanta with docs/vanta.md"
    )
    for slug in ("acme", "zeta"):
        assert parts.at_vanta(organizations[slug]) == parts.at_sym(organizations[slug]) != {}
    assert parts.puts(organizations["held"]) == []


def test_what_the_ui_says_of_a_check_is_of_the_latest_materialization(
    parts: Parts, instance: dg.DagsterInstance
) -> None:
    """Without that, the UI calls every check missing, and every one that a failed run left out broken."""
    four_customers(parts, instance)
    for _ in range(2):
        finished = launch(instance, stretch("acme", "zeta"))
    planned = instance.all_logs(finished.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED)
    assert planned, "a launched run plans its checks"
    infos = instance.event_log_storage.get_asset_check_partition_info(list(CHECKS))
    assert {(info.check_key, info.partition_key) for info in infos} == {
        (check, customer) for check in CHECKS for customer in ("acme", "held", "refused", "zeta")
    }
    assert all(info.is_current for info in infos)
    assert {info.latest_execution_status.value for info in infos} == {"SUCCEEDED", "FAILED"}


def test_a_run_keeps_its_connection_to_dagsters_database(parts: Parts, instance: dg.DagsterInstance) -> None:
    """A connection a query is most of what a customer would cost."""
    parts.customer("acme")
    register(instance, "acme")
    assert launch(instance, one("acme")).success
    assert backend(instance) == backend(instance)


def test_a_customer_that_failed_and_then_gets_through_is_no_longer_failed(
    parts: Parts, instance: dg.DagsterInstance
) -> None:
    acme = parts.customer("acme")
    register(instance, "acme")
    parts.vanta.fault("put", "success_false", tenant=str(acme))
    assert not launch(instance, one("acme")).success
    assert status(instance, SYNC) == (set(), {"acme"})
    again = launch(instance, one("acme"))
    assert again.success
    assert again.materialized() == {"acme": ALL}
    assert status(instance, SYNC) == ({"acme"}, set())


def test_our_own_secret_refused_is_said_once(
    parts: Parts, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    for slug in ("acme", "bold", "cold"):
        parts.customer(slug, due=True)
    register(instance, "acme", "bold", "cold")
    monkeypatch.setenv("VANTA_CLIENT_SECRET", "vcs_canary_another")
    finished = launch(instance, stretch("acme", "cold"))
    cause = "Vanta refused our own application (invalid_client): check VANTA_CLIENT_ID and VANTA_CLIENT_SECRET"
    assert finished.failure == (f"3 of 3 customers did not get through.\nacme: {cause}\nbold, cold: not tried: {cause}")


# What is selected decides how far it goes; nothing is sent unless the third asset is selected.


def test_a_subset_sends_nothing(parts: Parts, instance: dg.DagsterInstance) -> None:
    organizations = [parts.customer(slug, due=True) for slug in ("acme", "bold")]
    register(instance, "acme", "bold")
    for selected in (1, 2):
        finished = launch(instance, stretch("acme", "bold"), assets=ASSETS[:selected])
        assert finished.success
        assert finished.materialized() == {"acme": ALL[:selected], "bold": ALL[:selected]}
        checks = ROWS if selected == 1 else ROWS | RECORDS | UNASKED
        assert finished.checked() == dict.fromkeys(("acme", "bold"), checks)
        sent_nothing(parts, organizations)


def test_whatever_includes_the_third_does_all_and_emits_what_is_selected(
    parts: Parts, instance: dg.DagsterInstance
) -> None:
    acme = parts.customer("acme")
    register(instance, "acme")
    for pushes, chosen in enumerate(([SYNC], [USERS, SYNC]), start=1):
        finished = launch(instance, one("acme"), assets=chosen)
        assert finished.materialized() == {"acme": [key.to_user_string() for key in chosen]}
        assert len(parts.accepted(acme)) == pushes
    assert parts.at_vanta(acme) == parts.at_sym(acme)


def test_a_click_on_execute_checks_sends_nothing(parts: Parts, instance: dg.DagsterInstance) -> None:
    organizations = [parts.customer(slug, due=True) for slug in ("acme", "bold", "cold")]
    register(instance, "acme", "bold", "cold")
    looked_at: list[tuple[dict[str, str], list[str]]] = [
        ({}, ["acme", "bold", "cold"]),
        (one("acme"), ["acme"]),
        (stretch("acme", "bold"), ["acme", "bold"]),
    ]
    for tags, customers in looked_at:
        finished = launch(instance, tags, assets=(), checks=CHECKS)
        assert finished.success
        # Nothing was pushed yet, so that there is nothing to say about the latest push.
        assert finished.checked() == dict.fromkeys(customers, ROWS | RECORDS | UNASKED | UNSENT)
        assert finished.materialized() == {}
        sent_nothing(parts, organizations)


def test_the_last_check_tells_of_the_latest_push_even_where_rows_have_broken_since(
    parts: Parts, instance: dg.DagsterInstance
) -> None:
    acme, bold = parts.customer("acme"), parts.customer("bold")
    register(instance, "acme", "bold")
    parts.vanta.fault("put", "success_false", tenant=str(bold))
    launch(instance, stretch("acme", "bold"))
    parts.person(acme, email="canary")
    before = parts.puts(acme), parts.puts(bold)
    finished = launch(instance, {}, assets=(), checks=CHECKS)
    assert finished.checked() == {
        "acme": ROWS | dict.fromkeys(["rows_keep_the_contract", *RECORDS], False) | BRAKES | SENT,
        "bold": ROWS | RECORDS | UNASKED | UNSENT,
    }
    assert not finished.success
    assert (parts.puts(acme), parts.puts(bold)) == before


def test_one_check_alone_says_only_what_it_looked_at(parts: Parts, instance: dg.DagsterInstance) -> None:
    acme = parts.customer("acme")
    register(instance, "acme")
    launch(instance, one("acme"))
    one_brake = "no_customer_loses_more_than_a_fifth_of_its_active_users_unseen"
    for check in [c for c in CHECKS if c.name in {**ROWS, **RECORDS, one_brake: True, "accepted_by_vanta": True}]:
        assert launch(instance, one("acme"), assets=(), checks=[check]).checked() == {"acme": {check.name: True}}
    assert len(parts.puts(acme)) == 1


def sent_nothing(parts: Parts, organizations: list[UUID]) -> None:
    for organization in organizations:
        assert [parts.journal(organization, endpoint) for endpoint in ("put", "token", "list")] == [[], [], []]
        assert parts.outcome(organization) is None
        assert parts.token(organization).generation == 1


# Runs that hold no customer.


def test_a_run_without_a_partition_fails_in_words(parts: Parts, instance: dg.DagsterInstance) -> None:
    acme = parts.customer("acme")
    register(instance, "acme")
    finished = launch(instance, {})
    assert finished.failure == "no customer was chosen: launch the run for one partition or for several"
    sent_nothing(parts, [acme])


def test_a_range_that_holds_nobody_any_more_is_not_green(parts: Parts, instance: dg.DagsterInstance) -> None:
    """A partition that was removed and added again has moved behind the end of its range."""
    organizations = [parts.customer(slug) for slug in ("acme", "bold")]
    register(instance, "acme", "bold")
    instance.delete_dynamic_partition(CUSTOMERS, "acme")
    register(instance, "acme")
    finished = launch(instance, stretch("acme", "bold"))
    assert not finished.success
    assert finished.failure == "this run's range of partitions holds no customer any more"
    sent_nothing(parts, organizations)


# The hour that a run stands for.


def test_a_retry_of_the_daemons_leaves_out_who_is_done_and_a_persons_does_not(
    parts: Parts, instance: dg.DagsterInstance
) -> None:
    acme = parts.customer("acme")
    register(instance, "acme")
    tick = of_tick(ago(minutes=5))
    first = launch(instance, one("acme") | tick)
    parents = {PARENT_RUN_ID_TAG: first.run_id, ROOT_RUN_ID_TAG: first.run_id}
    pushes = []
    for tags in (tick, tick | parents | {RETRY_NUMBER_TAG: "1"}, tick | parents, {}, parents):
        finished = launch(instance, one("acme") | tags)
        assert finished.success
        assert finished.materialized() == {"acme": ALL}
        assert finished.checked() == {"acme": PASSED}
        pushes.append(len(parts.puts(acme)))
    assert pushes == [1, 1, 2, 3, 4]
    assert status(instance, SYNC) == ({"acme"}, set())


@pytest.mark.parametrize("read_back", [True, False])
def test_a_customer_left_alone_has_every_figure_and_link_of_the_push_that_stands(
    parts: Parts, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, read_back: bool
) -> None:
    """Guards against a latest materialization that is nearly empty after a run that was tried again."""
    acme = parts.customer("acme", people=3)
    register(instance, "acme")
    launch(instance, one("acme"))
    leaves = min(parts.at_sym(acme))  # somebody whom Vanta knows
    parts.person(acme)
    parts.sym.execute("UPDATE users SET deactivated_at = %s WHERE id = %s", ago(minutes=30), leaves)
    if not read_back:  # nothing to spare beside the push
        monkeypatch.setenv("VANTA_RESOURCE_REQUESTS_PER_MINUTE", "5")
    pushed = launch(instance, one("acme"))
    before = {key: (told(instance, key), figures(instance, key)) for key in ASSETS}
    assert before[SYNC][1]["read_back"] == read_back
    launch(instance, one("acme") | of_tick(ago(minutes=5)))
    assert len(parts.puts(acme)) == 2
    for key in ASSETS:
        metadata, plotted = before[key]
        after = figures(instance, key)
        assert after.keys() == plotted.keys()
        same = {name for name in after if not name.endswith("_seconds") and not name.startswith(("read_back", "find"))}
        assert {name: after[name] for name in same} == {name: plotted[name] for name in same}
        again = told(instance, key)
        assert again["pushed_by_run"].value == again["run_before"].value == pushed.run_id
        assert again["vanta"] == metadata["vanta"]
        assert again["code_version"] == metadata["code_version"]
    sent = figures(instance, SYNC)
    assert (sent["dagster/row_count"], sent["departures"], sent["change deactivated"]) == (4, 1, 1)
    assert (sent["read_back"], sent["push_seconds"]) == (0, 0)
    assert version(Finished(instance, instance.get_run_ids(limit=1)[0])) == version(pushed)


# What is shown.


def version(finished: Finished) -> str:
    """Return the data version of what the run sent."""
    for entry in finished.instance.all_logs(finished.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION):
        assert entry.asset_materialization is not None
        if entry.asset_materialization.asset_key == SYNC:
            assert entry.asset_materialization.tags is not None
            return entry.asset_materialization.tags["dagster/data_version"]
    raise AssertionError("nothing was sent")


def test_equal_bodies_have_equal_data_versions(parts: Parts, instance: dg.DagsterInstance) -> None:
    acme = parts.customer("acme")
    register(instance, "acme")
    versions = [version(launch(instance, one("acme"))) for _ in range(2)]
    parts.person(acme)
    versions.append(version(launch(instance, one("acme"))))
    assert versions == [put["sha256"] for put in parts.puts(acme)]
    assert versions[0] == versions[1] != versions[2]


def told(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, dg.MetadataValue[Any]]:
    """Return the metadata of an asset's latest materialization."""
    event = instance.get_latest_materialization_event(key)
    assert event is not None
    assert event.asset_materialization is not None
    return dict(event.asset_materialization.metadata)


def figures(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, float]:
    """Return what Dagster plots of it, times aside."""
    plotted = (dg.IntMetadataValue, dg.FloatMetadataValue)
    return {name: v.value for name, v in told(instance, key).items() if isinstance(v, plotted) and v.value is not None}


OF_ACCOUNTS = {
    "dagster/row_count": 4,
    "type admin": 1,
    "type member": 2,
    "type guest": 1,
    "status ACTIVE": 3,
    "status DEACTIVATED": 1,
    "level ADMIN": 1,
    "level BASE": 3,
    "login PASSWORD": 1,
    "login SSO": 3,
    "mfa on": 1,
    "mfa off": 0,
    "mfa unknown": 0,
    "mfa sso": 3,
}


def test_figures_of_each_asset(parts: Parts, instance: dg.DagsterInstance) -> None:
    acme = parts.customer("acme", people=2)
    parts.person(acme, type="admin", identities=[parts.sym.password(mfa_factors=["otp"]), parts.sym.slack()])
    parts.person(acme, type="guest", deactivated_at=datetime(2026, 2, 3, tzinfo=UTC))
    register(instance, "acme")
    first = launch(instance, one("acme"))

    users, accounts, sent = (figures(instance, key) for key in ASSETS)
    assert {name: users[name] for name in users if not name.endswith("_seconds")} == {
        "dagster/row_count": 4,
        "type admin": 1,
        "type member": 2,
        "type guest": 1,
        "status ACTIVE": 3,
        "status DEACTIVATED": 1,
        "identity auth0": 1,
        "identity slack": 4,
    }
    assert OF_ACCOUNTS.items() <= accounts.items()
    assert OF_ACCOUNTS.items() <= sent.items()
    assert (accounts["change added"], sent["change added"], sent["change of status"]) == (4, 4, 0)
    [put] = parts.puts(acme)
    assert sent["body_bytes"] == len(parts.vanta.body(put["seq"]))
    assert {name for name in sent if name.endswith("_seconds")} == {
        "read_seconds",
        "map_seconds",
        "push_seconds",
        "read_back_seconds",
        "data_age_seconds",
        "slot_wait_seconds",
        "lock_seconds",
        "compare_seconds",
        "record_seconds",
        "write_seconds",
    }
    assert all(sent[f"{step}_seconds"] > 0 for step in events.STEPS[SENT_ASSET] if step != "slot_wait")
    assert 0 < sent["read_seconds"] <= sent["data_age_seconds"]
    assert (sent["departures"], sent["departure_minutes_longest"], sent["departure_minutes_median"]) == (0, 0, 0)

    metadata = told(instance, SYNC)
    assert metadata["body_sha256"].value == put["sha256"]
    assert metadata["sym"].value == "https://app.symops.com/orgs/acme"
    assert metadata["vanta"].value == parts.vanta.url
    assert metadata["code_version"].value == defs.resolve_asset_graph().get(SYNC).code_version
    assert told(instance, USERS)["file"].value == str(parts.folder / f"data/sym/users/{acme}.parquet")
    assert "run_before" not in metadata

    # The next hour: the same keys, so that no plot has a hole.
    parts.person(acme)
    launch(instance, one("acme"))
    for key, before in zip(ASSETS, (users, accounts, sent), strict=True):
        assert figures(instance, key).keys() == before.keys()
        assert told(instance, key)["run_before"].value == first.run_id


def test_who_is_held_has_the_run_before_and_the_seconds_of_what_was_done(
    parts: Parts, instance: dg.DagsterInstance
) -> None:
    acme = parts.customer("acme", people=8)
    register(instance, "acme")
    first = launch(instance, one("acme"))
    parts.sym.execute("UPDATE users SET deactivated_at = now() WHERE organization_id = %s", acme)
    held = launch(instance, one("acme"))
    assert not held.success
    for key in (USERS, ACCOUNTS):
        assert told(instance, key)["run_before"].value == first.run_id
    assert figures(instance, ACCOUNTS)["compare_seconds"] > 0
    launch(instance, one("acme"))
    assert told(instance, ACCOUNTS)["run_before"].value == held.run_id


# How long each step took.

SLOW = 0.4  # seconds that the stand-in takes; what is asserted are lower bounds, and a sum that no clock can exceed


def timed(parts: Parts) -> tuple[dict[str, float], float]:
    """Push acme; return the seconds of each step, and of everything."""
    started = time.monotonic()
    [result] = parts.run("acme")
    assert result.push, result.failure
    return result.seconds, time.monotonic() - started


def test_what_vanta_takes_is_in_its_step_and_in_no_other(parts: Parts) -> None:
    acme = parts.customer("acme")
    parts.vanta.clear_faults()
    for on in ("list", "put"):
        parts.vanta.fault(on, "slow", tenant=str(acme), delay=SLOW)
    seconds, total = timed(parts)
    assert [fault["fired"] for fault in parts.vanta.faults()] == [1, 1]
    assert seconds["compare"] >= SLOW, "a first push is compared with Vanta's list"
    assert seconds["push"] >= SLOW
    parts.vanta.clear_faults()
    parts.vanta.fault("list", "slow", tenant=str(acme), delay=SLOW)
    again, _ = timed(parts)
    assert again["read_back"] >= SLOW
    assert seconds.keys() == again.keys() == set(events.STEPS[SENT_ASSET])
    assert sum(seconds.values()) <= total


def test_a_lock_that_another_run_holds_is_waited_for_in_seconds_of_its_own(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = parts.customer("acme")
    monkeypatch.setattr(sync, "BUSY_PAUSE", SLOW)
    looked = []

    def pause(seconds: float) -> None:
        looked.append(seconds)
        time.sleep(seconds)
        other_run.close()

    monkeypatch.setattr(sync, "time", SimpleNamespace(sleep=pause, monotonic=time.monotonic))
    with ExitStack() as other_run:
        other_run.enter_context(customer_lock(parts.ledger_url, acme))
        seconds, total = timed(parts)
    assert looked == [SLOW]
    assert seconds["lock"] >= SLOW
    assert sum(seconds.values()) <= total


def test_a_push_behind_a_spent_budget_says_how_long_it_waited(
    parts: Parts, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts.customer("acme", known=True)
    register(instance, "acme")
    monkeypatch.setenv("VANTA_RESOURCE_REQUESTS_PER_MINUTE", "1")
    # The one request of this minute was let go almost a minute ago.
    parts.ledger.execute(
        "INSERT INTO rate_budgets (name, slots, spent) SELECT 'resource', ARRAY[at], ARRAY[at]"
        " FROM (SELECT clock_timestamp() - interval '58 seconds' AS at) AS spent"
    )
    assert launch(instance, one("acme")).success
    sent = figures(instance, SYNC)
    assert sent["slot_wait_seconds"] > 0
    assert sent["read_back"] == 0, "the budget has nothing to spare"


def test_a_wait_in_the_middle_of_a_push_is_counted_once(parts: Parts) -> None:
    """Guards against seconds of a push that hold the wait for the rate budget a second time."""
    acme = parts.customer("acme", known=True)
    parts.vanta.clear_faults()
    parts.vanta.fault("put", "status", tenant=str(acme), status=429, retry_after=1)
    seconds, total = timed(parts)
    assert [fault["fired"] for fault in parts.vanta.faults()] == [1]
    assert seconds["slot_wait"] >= 0.5
    assert sum(seconds.values()) <= total
    assert sum(seconds.values()) + seconds["slot_wait"] > total, "what counting it twice would come to"


def test_a_preview_names_nobody_and_is_short(parts: Parts, instance: dg.DagsterInstance) -> None:
    acme = parts.customer("acme", people=12)
    register(instance, "acme")
    launch(instance, one("acme"))
    first = sorted(parts.at_sym(acme))[:10]
    for key, rest in ((USERS, "member | ACTIVE | slack"), (ACCOUNTS, "ACTIVE | BASE | SSO | sso")):
        preview = told(instance, key)["preview"]
        assert isinstance(preview, dg.MarkdownMetadataValue)
        assert preview.value.splitlines()[2:] == [f"| {user} | {rest} |" for user in first]
        assert len(preview.value) < 1000, "the UI shows so much without a click"
    assert told(instance, SYNC)["preview"] == told(instance, ACCOUNTS)["preview"]


def test_how_long_departures_took(parts: Parts, instance: dg.DagsterInstance) -> None:
    acme = parts.customer("acme", people=5)
    # Who had left before the first push is no departure that anybody could have told of in time.
    parts.person(acme, deactivated_at=ago(days=300))
    register(instance, "acme")
    launch(instance, one("acme"))
    assert figures(instance, SYNC)["departures"] == 0
    active = sorted(user for user, state in parts.at_sym(acme).items() if state == "ACTIVE")
    for user, minutes in zip(active, (60, 20), strict=False):
        parts.sym.execute("UPDATE users SET deactivated_at = %s WHERE id = %s", ago(minutes=minutes), user)
    launch(instance, one("acme"))
    sent = figures(instance, SYNC)
    assert (sent["change deactivated"], sent["departures"]) == (2, 2)
    assert 60 <= sent["departure_minutes_longest"] < 65
    assert 40 <= sent["departure_minutes_median"] < 45
    [(seconds,)] = parts.ledger.execute(
        "SELECT departure_seconds FROM accepted_snapshots ORDER BY id DESC LIMIT 1"
    ).fetchall()
    assert sent["departure_minutes_longest"] == round(max(seconds) / 60, 3)
    launch(instance, one("acme"))
    assert figures(instance, SYNC)["departures"] == 0, "a departure is told of once"


# Settings, and what may be seen.


def test_a_missing_setting_is_named(
    parts: Parts, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = parts.customer("acme")
    register(instance, "acme")
    needed = (
        "SYM_DATABASE_URL",
        "SYMVANTA_DATABASE_URL",
        "SYMVANTA_TOKEN_KEYS",
        "VANTA_CLIENT_ID",
        "VANTA_RESOURCE_ID",
    )
    for name in needed:
        with monkeypatch.context() as without:
            without.delenv(name)
            with pytest.raises(SettingsError, match=f"^{name} is not set: it should hold"):
                parts.run("acme")
    monkeypatch.delenv("VANTA_CLIENT_SECRET")
    assert launch(instance, one("acme")).failure == (
        "VANTA_CLIENT_SECRET is not set: it should hold the client secret of Sym's OAuth application at Vanta"
    )
    sent_nothing(parts, [acme])


def test_a_link_that_is_malformed_keeps_nobody_from_being_pushed(
    parts: Parts, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a link that only decorates: malformed, it failed every run before the first customer."""
    acme = parts.customer("acme")
    register(instance, "acme")
    monkeypatch.setenv("VANTA_APP_URL", "app.vanta.com")
    with pytest.raises(SettingsError, match=r"^VANTA_APP_URL is malformed"):
        load(VantaAppSettings)
    assert launch(instance, one("acme")).success
    assert parts.at_vanta(acme) == parts.at_sym(acme) != {}
    assert told(instance, SYNC)["vanta"].value == "https://app.vanta.com"


def test_no_event_table_or_log_names_a_person_or_a_secret(
    parts: Parts, instance: dg.DagsterInstance, dagster_url: str, environment: dict[str, str]
) -> None:
    organizations = four_customers(parts, instance)
    # What is no type at all may be anything, so it must not be counted by its name.
    parts.person(organizations["zeta"], type="canary-type", name="Canary Other", email="canary.other@zeta.example")
    for slug in ("due", "bad", "gone", "away"):
        organizations[slug] = parts.customer(slug, people=2, due=slug == "due")
        register(instance, slug)
    bad, gone, away = (str(organizations[slug]) for slug in ("bad", "gone", "away"))
    parts.vanta.fault(
        "put", "status", tenant=bad, status=400, body={"error": "resources[0].email: canary0@bad.example"}
    )
    parts.vanta.fault("put", "revoke", tenant=gone)
    parts.vanta.fault("put", "status", tenant=away, status=503, body="canary0@away.example", times=9)
    first = launch(instance, stretch("acme", "away"))
    second = launch(instance, one("acme"))
    assert (first.success, second.success) == (False, True)
    assert set(first.materialized()) == {"acme", "held", "refused", "zeta", "due", "bad", "gone", "away"}

    password = environment["SYM_DATABASE_URL"].split(":")[2].partition("@")[0]
    seen = {
        **tables(dagster_url.replace("+psycopg2", "")),
        **{name: text for name, text in tables(parts.ledger_url).items() if name != "tokens"},
        **{str(file): file.read_text(errors="replace") for file in files(parts.folder / "dagster")},
    }
    assert {"event_logs", "runs", "run_tags", "asset_keys", "intents", "outcomes", "accepted_snapshots"} <= set(seen)
    assert any(name.endswith(".err") for name in seen)
    assert sum(map(len, seen.values())) > 50_000
    for name, text in seen.items():
        for secret in (CANARY, re.compile(re.escape(password)), re.compile(re.escape(CLIENT_SECRET))):
            assert not secret.search(text), name
    # The search finds what is there: the tokens' own table would be hit if it were not encrypted, Sym's is.
    assert CANARY.search(tables(environment["SYM_DATABASE_URL"])["users"])
    assert not CANARY.search(tables(parts.ledger_url)["tokens"])


def tables(url: str) -> dict[str, str]:
    """Return the text of everything in every table."""
    with psycopg.connect(url) as connection:
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        return {
            name: "\n".join(
                row
                for (row,) in connection.execute(sql.SQL("SELECT t::text FROM {} AS t").format(sql.Identifier(name)))
            )
            for (name,) in names
        }


def files(folder: Path) -> list[Path]:
    """List everything that Dagster wrote; dagster.yaml is the test's own."""
    return [file for file in folder.rglob("*") if file.is_file() and file.name != "dagster.yaml"]
