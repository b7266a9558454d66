"""The table of settings is the settings, no more and no less, with their defaults."""

import re
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped] # its stubs are no dependency for two tests

from symvanta_pipeline import settings
from tests.support.docs import CHECKOUT, PRODUCTION, rows, section

NAME = re.compile(r"`([A-Z][A-Z_]+)`")


def defaults() -> dict[str, str]:
    """Return every variable with its default as the table writes it; blank where there is none."""
    groups = [group for group in vars(settings).values() if isinstance(group, type)]
    found = {}
    for group in groups:
        for name, field in getattr(group, "model_fields", {}).items():
            shown = "" if field.is_required() or field.default is None else f"`{field.default}`"
            found[name.upper()] = shown
    return found


def told(page: str) -> dict[str, str]:
    """Return every variable of the table with what stands beside it, without words about limits."""
    return {
        name: default.partition(",")[0].strip()
        for names, default, _ in rows(section(page, "Settings"))
        for name in NAME.findall(names)
    }


def test_every_setting_is_told_with_its_default() -> None:
    assert told(PRODUCTION.read_text()) == defaults()


@pytest.mark.parametrize(
    ("text", "instead"),
    [("`VANTA_RESOURCE_ID`", "`VANTA_RESOURCE`"), ("| `25` |", "| `50` |"), ("| `SYM_OIDC_ISSUER` |", "| issuer |")],
)
def test_one_that_is_missing_stale_or_wrong_is_found(text: str, instead: str) -> None:
    page = PRODUCTION.read_text()
    assert text in page
    assert told(page.replace(text, instead)) != defaults()


def test_every_key_of_dagster_yaml_is_explained() -> None:
    content = yaml.safe_load((CHECKOUT / "dagster.yaml").read_text())
    explained = {
        name.partition(".")[0]
        for names, is_, *_ in rows(section(PRODUCTION.read_text(), "dagster.yaml"))
        for name in re.findall(r"`([a-z_.]+)`", names)
        if not is_.startswith("not there")
    }
    assert explained == set(content)


def test_a_key_without_a_reason_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PRODUCTION.read_text().replace("| `run_retries` |", "| retries |"))
    assert "`run_retries`" not in section(page.read_text(), "dagster.yaml")
