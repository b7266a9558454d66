"""The daily job: what it takes from the settings, what it tells, and how it fails."""

import dagster as dg
import pytest

from symvanta_pipeline.defs.housekeeping import daily_housekeeping, housekeeping_job
from symvanta_pipeline.defs.resources import Ledger
from symvanta_pipeline.ledger import audit
from symvanta_pipeline.settings import RetentionSettings, SettingsError, load
from tests.housekeeping.past import Past
from tests.housekeeping.test_ledger import age
from tests.support.parts import Parts

KEEP_RUNS, KEEP_LEDGER = "SYMVANTA_KEEP_RUNS_DAYS", "SYMVANTA_KEEP_LEDGER_DAYS"


def keep_house(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return housekeeping_job.execute_in_process(instance=instance, resources={"ledger": Ledger()}, raise_on_error=False)


def told(result: dg.ExecuteInProcessResult, op: str) -> dict[str, object]:
    [event] = result.filter_events(lambda e: e.is_successful_output and e.step_key == op)
    return {name: value.value for name, value in event.step_output_data.metadata.items()}


def failure(result: dg.ExecuteInProcessResult, op: str) -> str | None:
    [event] = result.filter_events(lambda e: e.is_step_failure and e.step_key == op)
    data = event.step_failure_data.user_failure_data
    return data.description if data else None


def test_both_databases_are_pruned_and_the_figures_told(
    instance: dg.DagsterInstance, past: Past, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEEP_RUNS, "10")
    monkeypatch.setenv(KEEP_LEDGER, "100")
    past.add(11)
    kept = past.add(9)
    for days in (90, 11):
        audit.record(parts.ledger, "signed_in")
        age(parts.ledger, "audit_events", days, "at")
    result = keep_house(instance)
    assert result.success
    assert set(instance.get_run_ids()) == {kept, result.run_id}
    assert told(result, "prune_dagster") == {"deleted": 2, "kept": 0, "left": 0, "logs_left": 0}
    rows = told(result, "prune_ledger")
    assert rows.pop("audit_events") == 1
    assert set(rows.values()) == {0}
    assert parts.ledger.execute("SELECT count(*) FROM audit_events").fetchone() == (1,)
    logged = "\n".join(entry.user_message for entry in instance.all_logs(result.run_id))
    assert "2 runs deleted, 0 old ones kept for what they told last, 0 left" in logged
    assert "audit_events: 1 rows deleted" in logged


def test_one_half_is_done_where_the_other_cannot(
    instance: dg.DagsterInstance, past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMVANTA_DATABASE_URL", "postgresql://nobody:canary@127.0.0.1:1/nowhere")
    kept = past.add(1)
    result = keep_house(instance)
    assert not result.success
    assert told(result, "prune_dagster")["deleted"] == 1
    assert set(instance.get_run_ids()) == {kept, result.run_id}
    sentence = failure(result, "prune_ledger")
    assert sentence is not None
    assert sentence.startswith("the pipeline's own database cannot be reached: ")


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ((KEEP_RUNS, "0"), f"{KEEP_RUNS} is malformed: it should hold a whole number of days from 1 to 36500"),
        ((KEEP_LEDGER, "89"), f"{KEEP_LEDGER} is malformed: it should hold a whole number of days from 90 to 36500"),
    ],
)
def test_a_malformed_setting_is_named_and_nothing_goes(
    instance: dg.DagsterInstance, past: Past, monkeypatch: pytest.MonkeyPatch, setting: tuple[str, str], sentence: str
) -> None:
    monkeypatch.setenv(*setting)
    kept = past.add(1)
    result = keep_house(instance)
    assert [failure(result, op) for op in ("prune_dagster", "prune_ledger")] == [sentence, sentence]
    assert set(instance.get_run_ids()) == {past.first, kept, result.run_id}


@pytest.mark.parametrize(
    ("runs", "ledger", "kept"),
    [(None, None, (30, 400)), ("", " ", (30, 400)), ("1", "90", (1, 90)), ("36500", "36500", (36500, 36500))],
)
def test_settings(
    runs: str | None, ledger: str | None, kept: tuple[int, int], monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.chdir(str(tmp_path))  # away from any .env
    for name, value in ((KEEP_RUNS, runs), (KEEP_LEDGER, ledger)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    settings = load(RetentionSettings)
    assert (settings.symvanta_keep_runs_days, settings.symvanta_keep_ledger_days) == kept


@pytest.mark.parametrize("value", ["0", "-1", "36501", "1.5", "a month"])
def test_what_is_no_such_number_of_days_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEEP_RUNS, value)
    with pytest.raises(SettingsError, match=f"^{KEEP_RUNS} is malformed"):
        load(RetentionSettings)


def test_it_is_due_once_a_day_from_the_start() -> None:
    assert daily_housekeeping.cron_schedule == "30 3 * * *"
    assert daily_housekeeping.execution_timezone == "UTC"
    assert daily_housekeeping.default_status is dg.DefaultScheduleStatus.RUNNING
    assert daily_housekeeping.job_name == housekeeping_job.name
