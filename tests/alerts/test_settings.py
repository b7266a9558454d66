"""Where alerts go: what is taken, what is refused, and that a webhook's URL shows nowhere."""

from pathlib import Path

import pytest

from symvanta_pipeline.settings import AlertSettings, SettingsError, load

CANARY = "canary"
WEBHOOKS = ["SYMVANTA_ALERT_SLACK_WEBHOOK_URL", "SYMVANTA_ALERT_WEBHOOK_URL"]
LINKS = ["SYMVANTA_DAGSTER_URL", "SYMVANTA_RUNBOOK_URL"]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in WEBHOOKS + LINKS:
        monkeypatch.delenv(name, raising=False)


def value_of(variable: str) -> object:
    value = getattr(load(AlertSettings), variable.lower())
    return value.get_secret_value() if variable in WEBHOOKS and value else value


def test_nothing_is_switched_on_by_itself() -> None:
    assert [value_of(name) for name in WEBHOOKS + LINKS] == [None, None, "http://127.0.0.1:3000", None]


@pytest.mark.parametrize(
    ("variables", "text", "value"),
    [
        (WEBHOOKS, "https://hooks.example/services/T0/B0/x", "https://hooks.example/services/T0/B0/x"),
        (WEBHOOKS, "https://hooks.example/in/?token=a@b", "https://hooks.example/in/?token=a@b"),
        (WEBHOOKS, " https://hooks.example/x/\n", "https://hooks.example/x/"),
        (WEBHOOKS, "http://127.0.0.1:4000/x", "http://127.0.0.1:4000/x"),
        (WEBHOOKS, "  ", None),
        (LINKS, "https://dagster.example/base/", "https://dagster.example/base"),
        (LINKS, "http://dagster.internal:3000", "http://dagster.internal:3000"),
    ],
)
def test_what_is_taken(variables: list[str], text: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in variables:
        monkeypatch.setenv(variable, text)
        assert value_of(variable) == value


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        (WEBHOOKS + LINKS, CANARY),
        (WEBHOOKS, f"http://hooks.example/{CANARY}"),
        (WEBHOOKS + LINKS, f"ftp://hooks.example/{CANARY}"),
        (WEBHOOKS + LINKS, f"https://u:{CANARY}@hooks.example/"),
        (WEBHOOKS + LINKS, f"https://hooks.example/#{CANARY}"),
        (WEBHOOKS + LINKS, f"https://hooks.example/{CANARY} x"),
        (WEBHOOKS, f"https://hooks.example/?a={CANARY} x"),
        (WEBHOOKS + LINKS, f"https:///{CANARY}"),
        (LINKS, f"https://dagster.example/?{CANARY}"),
        (LINKS, f"https://dagster.example/{CANARY}|x"),
        (LINKS, f"https://dagster.example/<{CANARY}>"),
    ],
)
def test_what_is_refused_is_named_without_its_value(
    variables: list[str], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in variables:
        with monkeypatch.context() as patch:
            patch.setenv(variable, text)
            with pytest.raises(SettingsError) as caught:
                load(AlertSettings)
            description = AlertSettings.model_fields[variable.lower()].description
            assert str(caught.value) == f"{variable} is malformed: it should hold {description}"


def test_a_webhook_is_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in WEBHOOKS:
        monkeypatch.setenv(variable, f"https://hooks.example/{CANARY}")
    assert CANARY not in repr(load(AlertSettings))
