"""The sensor that gives a newly connected customer its first sync at once."""

from uuid import UUID

import dagster as dg
import psycopg
from dagster._core.definitions.sensor_definition import SensorExecutionData
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._grpc.impl import get_external_sensor_execution

from symvanta_pipeline.definitions import defs
from symvanta_pipeline.defs.partitions import CUSTOMERS
from symvanta_pipeline.ledger import connections
from tests.support.parts import Parts
from tests.support.runs import launch, one, register, stretch

ORIGIN = InProcessCodeLocationOrigin(
    LoadableTargetOrigin(module_name="symvanta_pipeline.definitions"), location_name="symvanta_pipeline"
)


def evaluate(instance: dg.DagsterInstance) -> SensorExecutionData:
    """Evaluate it as the code server does."""
    tick = get_external_sensor_execution(
        defs.get_repository_def(),
        ORIGIN,
        instance.get_ref(),
        "newly_connected_customers",
        last_tick_completion_timestamp=None,
        last_run_key=None,
        cursor=None,
        log_key=None,
        last_sensor_start_timestamp=None,
    )
    assert isinstance(tick, SensorExecutionData), tick
    return tick


def asked(tick: SensorExecutionData) -> dict[str, str | None]:
    """Return run keys by customer."""
    return {str(request.partition_key): request.run_key for request in tick.run_requests or []}


def consent(parts: Parts, organization: UUID) -> str:
    """Return the run key of an organization's latest consent."""
    found = connections.find(parts.ledger, organization)
    assert found is not None
    return f"{organization} {found.generation} {found.connected_at:%Y-%m-%dT%H:%M:%S.%f}Z"


def test_a_new_consent_is_asked_for_ahead_of_the_queue(parts: Parts, instance: dg.DagsterInstance) -> None:
    acme = parts.customer("acme")
    register(instance, "acme")
    for _ in range(2):  # the same run key again: the daemon asks once
        tick = evaluate(instance)
        assert asked(tick) == {"acme": consent(parts, acme)}
        [request] = tick.run_requests or []
        assert request.tags["dagster/priority"] == "10"
        assert tick.dynamic_partitions_requests == []


def test_once_tried_nothing_is_asked_until_the_next_consent(parts: Parts, instance: dg.DagsterInstance) -> None:
    acme, held = parts.customer("acme"), parts.customer("held")
    parts.person(held, email=None)
    register(instance, "acme", "held")
    assert set(asked(evaluate(instance))) == {"acme", "held"}
    launch(instance, stretch("acme", "held"))
    tick = evaluate(instance)
    assert (asked(tick), tick.skip_message) == ({}, "nobody connected since the last look")
    parts.connect(acme, "acme")
    assert asked(evaluate(instance)) == {"acme": consent(parts, acme)}


def test_who_is_parked_or_disconnected_is_not_asked_for(parts: Parts, instance: dg.DagsterInstance) -> None:
    parked, ended = parts.customer("parked"), parts.customer("ended")
    register(instance, "parked", "ended")
    connections.park(parts.ledger, parked, "refused", token_generation=1)
    parts.ledger.execute(
        "UPDATE connections SET state = 'disconnected', disconnected_at = now() WHERE organization_id = %s", [ended]
    )
    assert asked(evaluate(instance)) == {}


def test_a_lost_registration_is_repaired(parts: Parts, instance: dg.DagsterInstance) -> None:
    acme = parts.customer("acme")
    bold = parts.customer("bold")
    register(instance, "acme")
    tick = evaluate(instance)
    [repair] = tick.dynamic_partitions_requests or []
    assert isinstance(repair, dg.AddDynamicPartitionsRequest)
    assert (repair.partitions_def_name, list(repair.partition_keys)) == (CUSTOMERS, ["bold"])
    assert asked(tick) == {"acme": consent(parts, acme), "bold": consent(parts, bold)}


def test_a_lost_registration_is_repaired_also_where_nobody_waits(parts: Parts, instance: dg.DagsterInstance) -> None:
    connections.park(parts.ledger, parts.customer("acme"), "refused", token_generation=1)
    tick = evaluate(instance)
    assert (asked(tick), len(tick.dynamic_partitions_requests or [])) == ({}, 1)


def test_who_is_in_a_run_that_is_not_over_is_not_asked_for(
    parts: Parts, instance: dg.DagsterInstance, dagster_url: str
) -> None:
    everybody = ["acme", "bold", "cold", "dome"]
    for slug in everybody:
        parts.customer(slug)
    register(instance, *everybody)
    job = defs.resolve_job_def("user_account_sync_job")
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(ORIGIN, "__repository__"), job.name)
    for tags in (one("acme"), stretch("bold", "cold")):
        instance.create_run_for_job(job, tags=tags, remote_job_origin=origin)
    with psycopg.connect(dagster_url.replace("+psycopg2", ""), autocommit=True) as database:
        for status in dg.DagsterRunStatus:
            database.execute("UPDATE runs SET status = %s", [status.value])
            over = status in {*FINISHED_STATUSES, dg.DagsterRunStatus.MANAGED}
            assert sorted(asked(evaluate(instance))) == (everybody if over else ["dome"]), status


def test_a_run_from_before_the_consent_does_not_stand_in_the_way(parts: Parts, instance: dg.DagsterInstance) -> None:
    acme = parts.customer("acme")
    register(instance, "acme")
    job = defs.resolve_job_def("user_account_sync_job")
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(ORIGIN, "__repository__"), job.name)
    instance.create_run_for_job(job, tags=one("acme"), remote_job_origin=origin)
    assert asked(evaluate(instance)) == {}, "the run that is under way carries the consent so far"
    parts.connect(acme, "acme")
    assert asked(evaluate(instance)) == {"acme": consent(parts, acme)}
