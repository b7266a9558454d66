"""The sensor as Dagster evaluates it: what a tick says, does, and never does."""

from collections.abc import Iterator

import dagster as dg
import pytest
from dagster._core.definitions.sensor_definition import SensorExecutionData
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.remote_representation.external_data import SensorExecutionErrorSnap
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._grpc.impl import get_external_sensor_execution

from tests.alerts.location import defs
from tests.alerts.receiver import Fault, Receiver
from tests.alerts.world import World

NAME = "customer_alerts"
ORIGIN = InProcessCodeLocationOrigin(
    LoadableTargetOrigin(module_name="tests.alerts.location"), location_name="symvanta_pipeline"
)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test(overrides={"telemetry": {"enabled": False}}) as opened:
        yield opened


@pytest.fixture(autouse=True)
def environment(world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMVANTA_DATABASE_URL", world.url)
    monkeypatch.setenv("SYMVANTA_ALERT_SLACK_WEBHOOK_URL", f"{receiver.url}/slack?canary")
    monkeypatch.setenv("SYMVANTA_DAGSTER_URL", "https://dagster.example")


def evaluated(instance: dg.DagsterInstance) -> object:
    """Evaluate it as the code server does."""
    return get_external_sensor_execution(
        defs.get_repository_def(),
        ORIGIN,
        instance.get_ref(),
        NAME,
        last_tick_completion_timestamp=None,
        last_run_key=None,
        cursor=None,
        log_key=None,
        last_sensor_start_timestamp=None,
    )


def tick(instance: dg.DagsterInstance) -> str:
    """Return what a tick says; it asks for no run."""
    data = evaluated(instance)
    assert isinstance(data, SensorExecutionData), data
    assert not data.run_requests
    return data.skip_message or ""


def test_it_runs_by_itself_every_minute() -> None:
    [sensor] = defs.sensors or []
    assert (sensor.name, sensor.default_status, sensor.minimum_interval_seconds) == (
        NAME,
        dg.DefaultSensorStatus.RUNNING,
        60,
    )


def test_it_says_what_it_did(
    world: World, receiver: Receiver, instance: dg.DagsterInstance, capfd: pytest.CaptureFixture[str]
) -> None:
    world.customer("acme")
    assert tick(instance) == "no customer's state changed"
    world.hold("acme")
    world.pass_time(minutes=6)
    assert tick(instance).endswith("; sent to log 1, slack 1")
    assert tick(instance) == "no customer's state changed"
    [got] = receiver.got
    assert "https://dagster.example/runs/run-of-acme" in got.text
    assert "docs/runbook.md#held" in got.text
    assert "acme since" in "".join(capfd.readouterr())


def test_the_runbook_is_a_link_where_people_can_read_it(
    world: World, receiver: Receiver, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMVANTA_RUNBOOK_URL", "https://wiki.example/runbook/")
    world.customer("acme")
    world.hold("acme")
    world.pass_time(minutes=6)
    tick(instance)
    assert "<https://wiki.example/runbook#held|Runbook>" in receiver.got[0].text


def test_a_target_that_is_down_shows_and_fails_no_tick(
    world: World, receiver: Receiver, instance: dg.DagsterInstance, capfd: pytest.CaptureFixture[str]
) -> None:
    receiver.fail("/slack", Fault(500), Fault(500))
    world.customer("acme")
    world.hold("acme")
    world.pass_time(minutes=6)
    said = tick(instance)
    assert "sent to log 1; 1 message waits for slack since" in said
    assert said.endswith("it cannot take messages now (500)")
    world.pass_time(minutes=61)
    tick(instance)
    output = "".join(capfd.readouterr())
    assert "alerts cannot be sent to slack: it cannot take messages now (500)" in output
    assert "alerts are not getting through: 1 message waits for slack since" in output
    assert "canary" not in said + output
    assert len(receiver.fired) == 2


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        (
            "SYMVANTA_ALERT_SLACK_WEBHOOK_URL",
            "http://canary.example/x",
            "SYMVANTA_ALERT_SLACK_WEBHOOK_URL is malformed",
        ),
        ("SYMVANTA_DATABASE_URL", "", "SYMVANTA_DATABASE_URL is not set"),
        ("SYMVANTA_DATABASE_URL", "postgresql://u:canary@127.0.0.1:1/x", "database cannot be reached"),
    ],
)
def test_what_no_tick_can_do_without_fails_it(
    variable: str, value: str, says: str, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    failed = evaluated(instance)
    assert isinstance(failed, SensorExecutionErrorSnap)
    assert says in str(failed)
    assert "canary" not in str(failed)
