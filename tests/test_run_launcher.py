"""Which runs count as dead: those whose code server is certainly gone. ``tests/docs`` has one that answers."""

import json
import socket
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.launcher import WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG

from symvanta_pipeline import run_launcher
from symvanta_pipeline.run_launcher import WatchedRunLauncher
from symvanta_pipeline.sandbox.dagster_stack import free_port
from tests.support.docs import CHECKOUT


def health(server: dict[str, object] | None) -> WorkerStatus:
    """Return what is said of a run that such a server started."""
    launcher = {"module": run_launcher.__name__, "class": WatchedRunLauncher.__name__}
    with dg.instance_for_test(overrides={"run_launcher": launcher}) as instance:
        assert isinstance(instance.run_launcher, WatchedRunLauncher)
        assert instance.run_launcher.supports_check_run_worker_health
        tags = {GRPC_INFO_TAG: json.dumps({"host": "localhost"} | server)} if server else {}
        run = dg.DagsterRun(job_name="any", status=dg.DagsterRunStatus.STARTED, tags=tags)
        instance.add_run(run)
        return instance.run_launcher.check_run_worker_health(run).status


def test_a_socket_that_is_gone_or_that_nobody_listens_on_is_dead(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    assert health({"socket": path}) is WorkerStatus.NOT_FOUND
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(path)
    assert health({"socket": path}) is WorkerStatus.NOT_FOUND


def test_a_server_that_does_not_answer_may_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_launcher, "TIMEOUT", 1)
    assert health({"port": free_port()}) is WorkerStatus.RUNNING, "it may be restarting"
    with socket.socket(socket.AF_UNIX) as hangs:
        hangs.bind(str(tmp_path / "socket"))
        hangs.listen()
        assert health({"socket": str(tmp_path / "socket")}) is WorkerStatus.RUNNING, "it may be busy"


def test_a_run_that_nobody_launched_yet_is_not_judged() -> None:
    assert health(None) is WorkerStatus.RUNNING


def test_the_projects_instance_is_watched() -> None:
    assert run_launcher.__name__ in (CHECKOUT / "dagster.yaml").read_text()
