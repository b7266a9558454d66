"""The installation that is well, for the tests that make it ill one by one."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres
from tests.doctor.installation import Installation, let_daemon_live, running_installation


@pytest.fixture(scope="session")
def installation(
    postgres: EmbeddedPostgres, sym_template: str, dagster_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """One for all tests."""
    folder = tmp_path_factory.mktemp("installation")
    with running_installation(postgres, (sym_template, dagster_template), folder) as running:
        yield running


@pytest.fixture
def well(installation: Installation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Installation:
    """The same with its settings in the environment; whoever makes it ill makes it well again."""
    for name in [n for n in os.environ if n.startswith(("SYM_", "SYMVANTA_", "VANTA_", "DAGSTER_"))]:
        if name != "SYMVANTA_TEST_SESSION":
            monkeypatch.delenv(name)
    for name, value in installation.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)  # away from any .env
    let_daemon_live(installation.dagster_admin)
    return installation
