"""Dagster's own commands on the checkout."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from symvanta_pipeline.sandbox.dagster_processes import Webserver
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres
from tests.support.stack import ASSETS, CHECKOUT, own_databases, until

BINARIES = Path(sys.executable).parent
OURS = ("SYM", "VANTA_", "DAGSTER_")
LOADED = """
{
  workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError { __typename } } } }
  assetNodes { assetKey { path } }
}"""


def without_settings(added: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(OURS)} | dict(added)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["dg", "check", "defs"], ["loaded successfully"]),
        (["dagster", "asset", "list", "-m", "symvanta_pipeline.definitions"], ASSETS),
        (["dagster", "job", "list", "-m", "symvanta_pipeline.definitions"], ["Job: user_account_sync_job"]),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else "",
)
def test_it_works_without_any_setting_or_server(command: list[str], says: list[str], tmp_path: Path) -> None:
    """Loading needs nothing; the instance is an empty one, since the checkout's wants its PostgreSQL."""
    done = subprocess.run(
        [BINARIES / command[0], *command[1:]],
        cwd=CHECKOUT,
        env=without_settings({"DAGSTER_HOME": str(tmp_path)}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for text in says:
        assert text in done.stdout + done.stderr


@pytest.fixture
def settings(
    postgres: EmbeddedPostgres, sym_template: str, symvanta_template: str, dagster_template: str, tmp_path: Path
) -> Iterator[dict[str, str]]:
    templates = {
        "SYM_DATABASE_URL": sym_template,
        "SYMVANTA_DATABASE_URL": symvanta_template,
        "DAGSTER_POSTGRES_URL": dagster_template,
    }
    shutil.copyfile(CHECKOUT / "dagster.yaml", tmp_path / "dagster.yaml")
    with own_databases(postgres, templates) as urls:
        yield {**urls, "DAGSTER_HOME": str(tmp_path), "VANTA_API_URL": "http://127.0.0.1:9"}


def test_dagster_dev_serves_the_definitions_and_leaves_no_process(settings: dict[str, str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    webserver = Webserver(f"http://127.0.0.1:{port}")
    with (tmp_path / "dev.log").open("wb") as log:
        dev = subprocess.Popen(
            [BINARIES / "dagster", "dev", "-h", "127.0.0.1", "-p", str(port)],
            cwd=CHECKOUT,
            env=without_settings(settings),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    started: list[psutil.Process] = []
    try:
        until(lambda: dev.poll() is not None or webserver.is_up(), "the UI of dagster dev")
        loaded = webserver.query(LOADED)
        started = psutil.Process(dev.pid).children(recursive=True)
    finally:
        dev.send_signal(signal.SIGINT)
        dev.wait(60)
        _, alive = psutil.wait_procs(started, 20)
    [entry] = loaded["workspaceOrError"]["locationEntries"]
    assert entry["locationOrLoadError"]["__typename"] == "RepositoryLocation"
    assert {"/".join(node["assetKey"]["path"]) for node in loaded["assetNodes"]} >= set(ASSETS)
    assert len(started) >= 3  # code server, webserver, daemon
    assert alive == []
