"""The chain through a real daemon and a real webserver, asked as Dagster's UI asks."""

from collections import Counter
from datetime import datetime
from typing import Any

import pytest
from dagster import AssetKey, DagsterEventType, DagsterRunStatus, TableMetadataValue
from dagster._core.storage import tags
from dagster._core.storage.dagster_run import DagsterRun

from symvanta_pipeline.sandbox import dagster_stack
from symvanta_pipeline.sandbox.dagster_processes import REPOSITORY
from tests.support.fixtures import HELD_BACK, HOURS_DOWN, Cycle
from tests.support.stack import (
    ASSETS,
    CONNECTED,
    HELD,
    LATER,
    SCHEDULE,
    SYNC,
    Stack,
    asset_key,
    until,
)

pytestmark = [
    pytest.mark.xdist_group("stack"),
    pytest.mark.timeout(600),  # whoever comes first starts everything
]

PUSHED = sorted(slug for slug in CONNECTED if slug != HELD)
JOB = "user_account_sync_job"
SENSORS = {"newly_connected_customers", "fleet_status_after_each_cycle"}
CHECKS_BEFORE = [
    {"assetKey": {"path": ["sym", "users"]}, "name": "source_is_whole_and_fresh"},
    {"assetKey": {"path": ["sym", "users"]}, "name": "rows_keep_the_contract"},
    {"assetKey": {"path": ["vanta", "user_accounts"]}, "name": "records_are_valid"},
]
ACCEPTED: dict[str, Any] = {"assetKey": {"path": ["vanta", "user_account_sync"]}, "name": "accepted_by_vanta"}
BACKFILL = """
mutation Backfill($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) { __typename ... on LaunchBackfillSuccess { backfillId } }
}"""
BACKFILL_STATUS = """
query Status($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }
"""
LOCATION = """
query Location($repository: RepositorySelector!) {
  repositoryOrError(repositorySelector: $repository) {
    ... on Repository {
      assetNodes { assetKey { path } partitionDefinition { name type } }
      jobs { name }
      schedules { name cronSchedule executionTimezone defaultStatus }
      sensors { name defaultStatus }
    }
  }
}"""


def test_the_code_location_shows_everything(stack: Stack) -> None:
    found = stack.webserver.query(LOCATION, repository=REPOSITORY)["repositoryOrError"]
    partitions = {"/".join(node["assetKey"]["path"]): node["partitionDefinition"] for node in found["assetNodes"]}
    assert {asset for asset in partitions if partitions[asset]} == set(ASSETS)
    assert [partitions[asset] for asset in ASSETS] == [{"name": "customers", "type": "DYNAMIC"}] * 3
    assert {"sym_database/users", "vanta/access_page", "ops/fleet_status"} <= set(partitions)
    assert "user_account_sync_job" in {job["name"] for job in found["jobs"]}
    hourly = {"name": SCHEDULE, "cronSchedule": "0 * * * *", "executionTimezone": "UTC", "defaultStatus": "RUNNING"}
    assert hourly in found["schedules"]
    assert {sensor["name"] for sensor in found["sensors"]} >= SENSORS


def test_schedules_and_sensors_run_without_anybody_turning_them_on(stack: Stack) -> None:
    assert {SCHEDULE, *SENSORS} <= stack.first_seen.keys()
    assert set(stack.first_seen.values()) == {"RUNNING"}


def test_the_tags_of_a_launched_tick_are_dagsters_own() -> None:
    assert dagster_stack.RUN_KEY_TAG == tags.RUN_KEY_TAG
    assert dagster_stack.SCHEDULED_EXECUTION_TIME_TAG == tags.SCHEDULED_EXECUTION_TIME_TAG


def test_the_daemon_catches_up_with_one_tick_not_with_one_an_hour(cycle: Cycle) -> None:
    assert HOURS_DOWN > 1
    assert len(cycle.ticks) == 1


def test_another_daemon_does_not_tick_for_the_same_hour(cycle: Cycle) -> None:
    assert cycle.ticks_after_restart == cycle.ticks


def run_of_the_tick(stack: Stack, cycle: Cycle) -> DagsterRun:
    [run] = stack.runs(tags.SCHEDULED_EXECUTION_TIME_TAG, cycle.ticks[0].isoformat())
    return run


def test_a_tick_runs_every_connected_customer(stack: Stack, cycle: Cycle) -> None:
    run = run_of_the_tick(stack, cycle)
    assert run.tags[tags.SCHEDULE_NAME_TAG] == SCHEDULE
    assert run.tags[tags.ASSET_PARTITION_RANGE_START_TAG] == CONNECTED[0]
    assert run.tags[tags.ASSET_PARTITION_RANGE_END_TAG] == CONNECTED[-1]
    for asset in ASSETS:
        done = set(CONNECTED) if asset == ASSETS[0] else set(PUSHED)
        assert stack.materialized_by(run.run_id, asset) == done


def test_a_run_that_crashed_is_tried_once_more_by_itself(stack: Stack, cycle: Cycle) -> None:
    assert [fault["fired"] for fault in cycle.faults] == [1]
    crashed = stack.ended(cycle.crashed)
    [again] = stack.runs(tags.PARENT_RUN_ID_TAG, cycle.crashed)
    assert crashed.status == DagsterRunStatus.FAILURE
    assert again.tags[tags.RETRY_NUMBER_TAG] == "1"
    # The held customer fails it, as any other run, and that is no reason to try a third time.
    assert again.status == DagsterRunStatus.FAILURE
    assert stack.runs(tags.PARENT_RUN_ID_TAG, again.run_id) == []


def test_neither_the_overlapping_tick_nor_the_retry_pushes_anybody_twice(cycle: Cycle) -> None:
    """But for the customer whose push was cut off: nobody knows what became of that, so it is pushed again."""
    assert Counter(cycle.puts) == Counter([*PUSHED, HELD_BACK])


@pytest.mark.usefixtures("cycle")
def test_the_failing_customer_alone_shows_as_failed(stack: Stack) -> None:
    statuses = {asset: stack.partitions(asset) for asset in ASSETS}
    assert statuses["sym/users"]["assetPartitionStatuses"]["failedPartitions"] == []
    for asset in ASSETS[1:]:
        assert statuses[asset]["assetPartitionStatuses"]["failedPartitions"] == [HELD]
        assert set(PUSHED) <= set(statuses[asset]["assetPartitionStatuses"]["materializedPartitions"])
        assert statuses[asset]["partitionStats"]["numFailed"] == 1


def test_the_fleet_is_told_of_after_the_cycle_by_the_daemon_itself(stack: Stack, cycle: Cycle) -> None:
    [run] = until(lambda: stack.runs(tags.SENSOR_NAME_TAG, "fleet_status_after_each_cycle"), "a run of the fleet's")[:1]
    hour = run_of_the_tick(stack, cycle).tags[tags.SCHEDULED_EXECUTION_TIME_TAG]
    assert run.tags[tags.RUN_KEY_TAG] == f"{datetime.fromisoformat(hour):%Y-%m-%dT%H:%MZ}"
    assert stack.ended(run.run_id).status == DagsterRunStatus.SUCCESS
    [record] = stack.instance.get_records_for_run(run.run_id, of_type=DagsterEventType.ASSET_MATERIALIZATION).records
    told = record.event_log_entry.asset_materialization
    assert told is not None
    assert told.asset_key == AssetKey(["ops", "fleet_status"])
    table = told.metadata["customers"].value
    assert isinstance(table, TableMetadataValue)
    rows = {str(row.data["customer"]): row.data for row in table.records}
    assert set(rows) >= set(CONNECTED)
    [first] = [customer for customer in rows if rows[customer]["state"] == "held"]
    assert (first, next(iter(rows))) == (HELD, HELD), "who needs a person comes first"
    assert "email" in str(rows[HELD]["next_step"])
    assert f"[{HELD}](/assets/vanta/user_account_sync?view=partitions&partition={HELD})" in str(
        told.metadata["needs_a_person"].value
    )
    done = set(PUSHED) - {HELD_BACK}  # which is pushed by the run of an earlier hour, perhaps only after this
    assert {customer: rows[customer]["state"] for customer in done} == dict.fromkeys(done, "healthy")


@pytest.mark.usefixtures("cycle")
def test_execute_checks_and_the_two_asset_subset_send_nothing(stack: Stack) -> None:
    before = stack.latest_request()
    checks = stack.launch(jobName=JOB, assetSelection=[], assetCheckSelection=[ACCEPTED], tags={})
    subset = stack.launch(
        jobName="__ASSET_JOB",
        assetSelection=[asset_key(asset) for asset in ASSETS[:2]],
        assetCheckSelection=CHECKS_BEFORE,
        tags={tags.PARTITION_NAME_TAG: CONNECTED[0]},
    )
    assert stack.ended(subset).status == DagsterRunStatus.SUCCESS
    assert stack.materialized_by(subset, ASSETS[1]) == {CONNECTED[0]}
    # Of everybody, the held one included: that fails the run, and only its own check.
    assert stack.ended(checks).status == DagsterRunStatus.FAILURE
    checked = stack.checked_by(checks, ACCEPTED["name"])
    assert {slug: checked[slug] for slug in CONNECTED} == {slug: slug != HELD for slug in CONNECTED}
    assert stack.puts(since=before) == []


@pytest.mark.usefixtures("cycle")
def test_a_backfill_of_two_customers_runs_exactly_these_two(stack: Stack) -> None:
    before = stack.latest_request()
    chosen = [CONNECTED[1], CONNECTED[3]]
    params = {
        "tags": [],
        "assetSelection": [asset_key(asset) for asset in ASSETS],
        "partitionNames": chosen,
        "fromFailure": False,
    }
    launched = stack.webserver.query(BACKFILL, params=params)["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess"
    backfill = launched["backfillId"]

    def status() -> str:
        found = stack.webserver.query(BACKFILL_STATUS, id=backfill)
        return str(found["partitionBackfillOrError"]["status"])

    until(lambda: status() == "COMPLETED_SUCCESS", "the end of the backfill")
    assert sorted(put["slug"] for put in stack.puts(since=before)) == sorted(chosen)
    runs = stack.runs(tags.BACKFILL_ID_TAG, backfill)
    assert sorted(key for run in runs for key in stack.materialized_by(run.run_id, SYNC)) == sorted(chosen)


@pytest.mark.usefixtures("cycle")
def test_a_customer_that_connects_now_is_synced_at_once_ahead_of_the_queue(stack: Stack) -> None:
    customer = stack.connect_from_a_terminal(LATER)
    [run] = until(lambda: stack.runs(tags.PARTITION_NAME_TAG, LATER), "a run of the new customer")
    assert stack.ended(run.run_id).status == DagsterRunStatus.SUCCESS
    assert run.tags[tags.PRIORITY_TAG] == "10"
    assert run.tags[tags.SENSOR_NAME_TAG] == "newly_connected_customers"
    assert len(stack.vanta.accounts(str(customer.id))) == customer.size
