"""Everything that Dagster shows, as one readable text: a changed definition shows as a difference in it.

Where the change is meant, ``python tests/defs/test_definitions.py`` in the checkout writes the text anew.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.metadata.metadata_set import TableMetadataSet
from dagster._core.definitions.metadata.source_code import CodeReferencesMetadataSet
from dagster._core.storage.tags import PRIORITY_TAG

import symvanta_pipeline
from symvanta_pipeline.definitions import defs
from symvanta_pipeline.defs import assets, code, external
from symvanta_pipeline.defs.code import DECIDED_BY, PACKAGE, version_of
from symvanta_pipeline.defs.housekeeping import PRIORITY

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
        yield f"asset {key.to_user_string()}"
        yield f"  deps: {_list(dep.asset_key.to_user_string() for dep in spec.deps)}"
        yield f"  group: {spec.group_name}"
        yield f"  kinds: {_list(sorted(spec.kinds))}"
        yield f"  owners: {_list(spec.owners)}"
        yield f"  tags: {_tags({k: v for k, v in spec.tags.items() if not k.startswith('dagster/kind/')})}"
        yield f"  partitions: {_partitions(spec.partitions_def)}"
        yield f"  freshness: {_freshness(spec.freshness_policy)}"
        # What it is changes with every line of the code.
        yield f"  code version: {'of its source' if spec.code_version else '-'}"
        yield from _computed(definitions, key)
        yield f"  description: {_line(spec.description)}"
        yield f"  metadata: {_list(sorted(spec.metadata))}"
        yield f"  code: {_list(_references(spec))}"
        yield from _columns(spec)
        for check in sorted((c for c in checks if c.asset_key == key), key=str):
            check_spec = graph.get_check_spec(check)
            blocking = " blocking" if check_spec.blocking else ""
            yield f"  check {check.name}{blocking} on partitions {_partitions(check_spec.partitions_def)}"
            yield f"    description: {check_spec.description}"


def _computed(definitions: dg.Definitions, key: dg.AssetKey) -> Iterator[str]:
    """Describe what computes an asset; an external one is computed elsewhere."""
    op = definitions.resolve_assets_def(key)
    if not op.is_materializable:
        yield "  external"
        return
    yield f"  op: {op.op.name}, can_subset {op.can_subset}"
    # How many partitions a run of it holds is a setting, read at loading.
    yield f"  backfill: {op.backfill_policy.policy_type.value if op.backfill_policy else '-'}"
    yield f"  resources: {_list(sorted(op.required_resource_keys))}"


def _columns(spec: dg.AssetSpec) -> Iterator[str]:
    told = TableMetadataSet.extract(spec.metadata)
    lineage = told.column_lineage.deps_by_column if told.column_lineage else {}
    for column in told.column_schema.columns if told.column_schema else []:
        limits = [*([] if column.constraints.nullable else ["required"]), *column.constraints.other, *column.tags]
        sources = [f"{dep.asset_key.to_user_string()}.{dep.column_name}" for dep in lineage.get(column.name, [])]
        yield f"  column {column.name}: {column.type}; {_list(limits)}; from {_list(sources)}"
        yield f"    description: {column.description}"


def _references(spec: dg.AssetSpec) -> Iterator[str]:
    """Name the files and what is there; line numbers change with every line, folders with every machine."""
    references = CodeReferencesMetadataSet.extract(spec.metadata).code_references
    for reference in references.code_references if references else []:
        assert isinstance(reference, dg.LocalFileCodeReference)
        yield str(reference.label)


def _freshness(policy: object) -> str:
    if policy is None:
        return "-"
    assert isinstance(policy, assets.FRESH.__class__)
    assert policy.warn_window
    return f"warns after {policy.warn_window.to_timedelta()}, fails after {policy.fail_window.to_timedelta()}"


def _line(text: str | None) -> str:
    return (text or "-").replace("\n", " ")


def _jobs(definitions: dg.Definitions) -> Iterator[str]:
    for job in sorted(definitions.resolve_all_job_defs(), key=lambda job: job.name):
        yield f"job {job.name}"
        yield f"  assets: {_list(sorted(key.to_user_string() for key in job.asset_layer.selected_asset_keys))}"
        yield f"  partitions: {_partitions(job.partitions_def)}"
        yield f"  executor: {job.executor_def.name}"
        yield f"  tags: {_tags(job.tags)}"
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


def _tags(tags: Mapping[str, str]) -> str:
    return _list(f"{key}={value}" for key, value in sorted(tags.items()))


def _list(words: object) -> str:
    assert hasattr(words, "__iter__")
    return ", ".join(map(str, words)) or "-"


def test_the_definitions_are_those_that_were_agreed() -> None:
    assert described(defs) == FILE.read_text(), "see how to accept a meant change at the top of this file"


@pytest.mark.parametrize(
    ("attributes", "shown"),
    [
        ({"group_name": "planted"}, "  group: planted"),
        ({"owners": ["team:planted"]}, "  owners: team:planted"),
        ({"tags": {"planted": "yes"}}, "  tags: planted=yes"),
        (
            {"tags": {"contains-personal-data": "no", "system": "vanta"}},
            "  tags: contains-personal-data=no, system=vanta",
        ),
        ({"kinds": {"planted"}}, "  kinds: planted"),
        ({"freshness_policy": None}, "  freshness: -"),
        (
            {"metadata": {"planted": 1}},
            "  metadata: dagster/code_references, dagster/column_lineage, dagster/column_schema, lineage, planted",
        ),
        ({"description": "planted"}, "  description: planted"),
    ],
)
def test_a_changed_definition_shows(attributes: dict[str, Any], shown: str) -> None:
    def planted(spec: dg.AssetSpec) -> dg.AssetSpec:
        return spec.replace_attributes(**attributes) if spec.key == assets.SYNC else spec

    changed = described(defs.map_resolved_asset_specs(func=planted)).splitlines()
    block = changed[changed.index("asset vanta/user_account_sync") :]
    assert shown in block
    assert changed != described(defs).splitlines()


def test_a_changed_tag_of_a_job_shows() -> None:
    @dg.op
    def nothing() -> None:
        """Do nothing."""

    def planted(priority: str) -> dg.Definitions:
        graph = dg.GraphDefinition("planted", node_defs=[nothing])
        return dg.Definitions(jobs=[graph.to_job(tags={PRIORITY_TAG: priority})])

    for priority in ("1", "2"):
        assert f"  tags: dagster/priority={priority}" in described(planted(priority)).splitlines()
    assert f"  tags: dagster/priority={PRIORITY}" in FILE.read_text().splitlines()


SPECS = [defs.resolve_asset_graph().get(key).to_asset_spec() for key in sorted(defs.resolve_all_asset_keys(), key=str)]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.key.to_user_string())
def test_every_asset_says_what_it_is(spec: dg.AssetSpec) -> None:
    is_computed = not defs.resolve_assets_def(spec.key).is_external
    assert len(spec.description or "") > 40
    assert spec.owners == external.OWNERS
    assert spec.kinds
    assert spec.group_name in {"sym", "vanta", "ops"}
    assert {"system", "contains-personal-data"} <= set(spec.tags)
    assert bool(spec.code_version) == is_computed
    told = TableMetadataSet.extract(spec.metadata)
    assert told.column_schema
    assert all(column.description for column in told.column_schema.columns)
    assert CodeReferencesMetadataSet.extract(spec.metadata).code_references


def test_a_code_reference_leads_to_the_line_that_it_names() -> None:
    led = 0
    for spec in SPECS:
        references = CodeReferencesMetadataSet.extract(spec.metadata).code_references
        for reference in references.code_references if references else []:
            assert isinstance(reference, dg.LocalFileCodeReference)
            name, _, begins = str(reference.label).partition(": ")
            lines = (Path(symvanta_pipeline.__file__).parent / name).read_text().splitlines()
            assert reference.line_number
            assert lines[reference.line_number - 1].startswith(begins)
            assert Path(reference.file_path).samefile(PACKAGE / name)
            led += 1
    assert led > len(SPECS)


def test_nothing_of_this_machine_is_in_the_agreed_text() -> None:
    text = FILE.read_text()
    assert str(PACKAGE.parent) not in text
    assert str(Path.home()) not in text or Path.home() == Path("/")


class TestCodeVersion:
    """A hash of the source, so that nobody has to remember to raise it."""

    def test_every_pattern_matches(self) -> None:
        for patterns in DECIDED_BY.values():
            for pattern in patterns:
                assert version_of(PACKAGE, [pattern])

    def test_what_an_asset_is_computed_by_decides_about_it(self) -> None:
        """Guards against a change of brakes, of reading or of judging that left the version as it was."""
        decides = {
            "sym/users": {"sym/database.py", "sym/users.sql"},
            "vanta/user_accounts": {"planning.py", "accounts/brakes.py"},
            "vanta/user_account_sync": {"sync.py", "planning.py", "ledger/approvals.py", "vanta/session.py"},
            "ops/fleet_status": {"ledger/status.py", "ledger/alerts.py", "ledger/snapshots.py"},
        }
        for asset, files in decides.items():
            found = {file.relative_to(PACKAGE).as_posix() for file in code._files(PACKAGE, DECIDED_BY[asset])}
            assert files <= found, asset

    def test_it_changes_with_the_text_and_with_nothing_else(self, tmp_path: Path) -> None:
        (tmp_path / "some").mkdir()
        query, module = tmp_path / "some/users.sql", tmp_path / "some/module.py"
        query.write_text("SELECT 1")
        module.write_text("x = 1\n")
        first = version_of(tmp_path, ["some/users.sql", "some/*.py"])
        module.write_bytes(b"x = 1\r\n")
        module.touch()
        assert version_of(tmp_path, ["some/*.py", "some/users.sql", "some/module.py"]) == first
        versions = {first}
        for file, text in (
            (module, "x = 2\n"),
            (query, "SELECT 2"),
            (tmp_path / "some/another.py", ""),
            (query, "SELECT 1"),
        ):
            file.write_text(text)
            versions.add(version_of(tmp_path, ["some/users.sql", "some/*.py"]))
        assert len(versions) == 5

    def test_a_file_that_is_gone_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no source file matches"):
            version_of(tmp_path, ["sym/users.sql"])


if __name__ == "__main__":
    FILE.write_text(described(defs))
