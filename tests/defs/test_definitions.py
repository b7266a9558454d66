"""Everything that Dagster shows, as one readable text: a changed definition shows as a difference in it.

Where the change is meant, ``python tests/defs/test_definitions.py`` in the checkout writes the text anew.
"""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from symvanta_pipeline.definitions import defs

FILE = Path(__file__).with_name("definitions.txt")


def described(definitions: dg.Definitions) -> str:
    """Write the definitions down, a line a fact, in one order."""
    return (
        "\n".join([*_assets(definitions), *_jobs(definitions), *_schedules(definitions), *_sensors(definitions)]) + "\n"
    )


def _assets(definitions: dg.Definitions) -> Iterator[str]:
    graph = definitions.resolve_asset_graph()
    checks = definitions.resolve_asset_graph().asset_check_keys
    for key in sorted(graph.get_all_asset_keys(), key=str):
        spec = graph.get(key).to_asset_spec()
        op = definitions.resolve_assets_def(key)
        yield f"asset {key.to_user_string()}"
        yield f"  deps: {_list(dep.asset_key.to_user_string() for dep in spec.deps)}"
        yield f"  group: {spec.group_name}"
        yield f"  kinds: {_list(sorted(spec.kinds))}"
        yield f"  owners: {_list(spec.owners)}"
        yield f"  tags: {_list(sorted(tag for tag in spec.tags if not tag.startswith('dagster/kind/')))}"
        yield f"  partitions: {_partitions(spec.partitions_def)}"
        yield f"  op: {op.op.name}, can_subset {op.can_subset}"
        # How many partitions a run of it holds is a setting, read at loading.
        yield f"  backfill: {op.backfill_policy.policy_type.value if op.backfill_policy else '-'}"
        yield f"  resources: {_list(sorted(op.required_resource_keys))}"
        yield f"  description: {spec.description}"
        for check in sorted((c for c in checks if c.asset_key == key), key=str):
            check_spec = graph.get_check_spec(check)
            blocking = " blocking" if check_spec.blocking else ""
            yield f"  check {check.name}{blocking} on partitions {_partitions(check_spec.partitions_def)}"
            yield f"    description: {check_spec.description}"


def _jobs(definitions: dg.Definitions) -> Iterator[str]:
    for job in sorted(definitions.resolve_all_job_defs(), key=lambda job: job.name):
        yield f"job {job.name}"
        yield f"  assets: {_list(sorted(key.to_user_string() for key in job.asset_layer.selected_asset_keys))}"
        yield f"  partitions: {_partitions(job.partitions_def)}"
        yield f"  executor: {job.executor_def.name}"
        yield f"  description: {job.description}"


def _schedules(definitions: dg.Definitions) -> Iterator[str]:
    for schedule in definitions.schedules or []:
        assert isinstance(schedule, dg.ScheduleDefinition)
        yield f"schedule {schedule.name}"
        yield f"  job: {schedule.job_name}"
        yield f"  cron: {schedule.cron_schedule} {schedule.execution_timezone}"
        yield f"  default status: {schedule.default_status.value}"
        yield f"  resources: {_list(sorted(schedule.required_resource_keys))}"
        yield f"  description: {schedule.description}"


def _sensors(definitions: dg.Definitions) -> Iterator[str]:
    for sensor in definitions.sensors or []:
        yield f"sensor {sensor.name}"
        yield f"  job: {_list(target.job_name for target in sensor.targets)}"
        yield f"  every: {sensor.minimum_interval_seconds} s"
        yield f"  default status: {sensor.default_status.value}"
        yield f"  resources: {_list(sorted(sensor.required_resource_keys))}"
        yield f"  description: {sensor.description}"


def _partitions(partitions: dg.PartitionsDefinition | None) -> str:
    if isinstance(partitions, dg.DynamicPartitionsDefinition):
        return f"dynamic {partitions.name}"
    return type(partitions).__name__ if partitions else "-"


def _list(words: object) -> str:
    assert hasattr(words, "__iter__")
    return ", ".join(map(str, words)) or "-"


def test_the_definitions_are_those_that_were_agreed() -> None:
    assert described(defs) == FILE.read_text(), "see how to accept a meant change at the top of this file"


def test_a_changed_definition_shows() -> None:
    changed = defs.map_resolved_asset_specs(func=lambda spec: spec.replace_attributes(group_name="planted"))
    assert set(described(changed).splitlines()) - set(described(defs).splitlines()) == {"  group: planted"}


if __name__ == "__main__":
    FILE.write_text(described(defs))
