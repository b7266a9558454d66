"""The stand-in as a process: loopback only, announced, ended, and never an orphan."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
import requests
from pydantic import SecretStr, ValidationError

from symvanta_pipeline.sandbox.process import ChildFailedError
from symvanta_pipeline.sandbox.vanta.config import VantaConfig
from symvanta_pipeline.sandbox.vanta.control import VantaServer, start_vanta

MODULE = [sys.executable, "-m", "symvanta_pipeline.sandbox.vanta"]
PARENT = """
import time
from symvanta_pipeline.sandbox.vanta.control import start_vanta
running = start_vanta()
print(running.pid, running.url, flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def vanta() -> Iterator[VantaServer]:
    with start_vanta(VantaConfig(client_secret=SecretStr("not-for-ps"))) as running:
        yield running


def test_it_answers_as_soon_as_it_is_announced(vanta: VantaServer) -> None:
    assert requests.get(f"{vanta.url}/healthz", timeout=10).text == "ok"


def test_the_secret_is_not_on_the_command_line(vanta: VantaServer) -> None:
    assert not any("not-for-ps" in argument for argument in psutil.Process(vanta.pid).cmdline())


@pytest.mark.parametrize(
    ("host", "status"), [("127.0.0.1", 200), ("localhost:80", 200), ("[::1]:80", 200), ("vanta.example.com", 400)]
)
def test_only_a_loopback_host_header_is_served(vanta: VantaServer, host: str, status: int) -> None:
    assert requests.get(f"{vanta.url}/healthz", headers={"Host": host}, timeout=10).status_code == status


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "sandbox.example.com", "::"])
def test_it_refuses_to_start_on_a_network(host: str) -> None:
    with pytest.raises(ValidationError, match="loopback only"):
        VantaConfig(host=host)
    refused = subprocess.run([*MODULE, f"--host={host}"], capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 2
    assert "loopback only" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_taken_port_is_told_in_words() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(ChildFailedError, match="choose another --port"),
    ):
        start_vanta(port=taken.getsockname()[1])


def test_a_chosen_port_is_used_and_can_be_used_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    for _ in range(2):
        with start_vanta(port=port) as running:
            assert running.url == f"http://127.0.0.1:{port}"
            assert requests.get(f"{running.url}/healthz", timeout=10).status_code == 200


def test_stop_ends_it_also_while_a_request_hangs() -> None:
    running = start_vanta()
    running.fault("authorize", "slow_before", delay=600)
    with pytest.raises(requests.ReadTimeout):
        requests.get(f"{running.url}/oauth/authorize", timeout=0.2)
    running.stop()
    running.stop()
    assert not psutil.pid_exists(running.pid)


def test_it_dies_with_a_parent_that_was_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, url = parent.stdout.readline().split()
        child = psutil.Process(int(pid))
        assert requests.get(f"{url}/healthz", timeout=10).status_code == 200
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        gone, alive = psutil.wait_procs([child], timeout=20)
    assert (len(gone), alive) == (1, [])
