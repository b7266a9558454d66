"""The stand-in for Sym's login as a process: loopback only, announced, ended, never an orphan, and discreet."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests
from pydantic import SecretStr

from symvanta_pipeline.sandbox.login.config import CONFIG_VARIABLE, LoginConfig
from symvanta_pipeline.sandbox.login.control import LoginServer, start_login
from symvanta_pipeline.sandbox.process import ChildFailedError

MODULE = [sys.executable, "-m", "symvanta_pipeline.sandbox.login"]
PARENT = """
import time
from symvanta_pipeline.sandbox.login.control import start_login
running = start_login()
print(running.pid, running.url, flush=True)
time.sleep(600)
"""
CONFIG = LoginConfig(client_secret=SecretStr("not-for-ps-at-all"), people=[("auth0|ada", "Ada Not-For-Ps")])


@pytest.fixture(scope="module")
def login(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoginServer]:
    with start_login(CONFIG, log=tmp_path_factory.mktemp("login") / "log") as running:
        yield running


def test_it_answers_as_soon_as_it_is_announced(login: LoginServer) -> None:
    assert requests.get(f"{login.url}/healthz", timeout=10).text == "ok"


def test_neither_secret_nor_people_are_on_the_command_line(login: LoginServer) -> None:
    command_line = " ".join(psutil.Process(login.pid).cmdline())
    assert "symvanta_pipeline.sandbox.login" in command_line
    assert "not-for-ps" not in command_line.lower()


@pytest.mark.parametrize(("host", "status"), [("localhost:80", 200), ("login.example.com", 400)])
def test_only_a_loopback_host_header_is_served(login: LoginServer, host: str, status: int) -> None:
    url = f"{login.url}/.well-known/openid-configuration"
    response = requests.get(url, headers={"Host": host}, timeout=10)
    assert response.status_code == status
    assert status != 200 or response.json()["issuer"] == login.url  # whatever name it came in under


def test_each_start_has_a_key_of_its_own(login: LoginServer) -> None:
    with start_login() as other:
        keys = [requests.get(f"{url}/jwks", timeout=10).json()["keys"] for url in (login.url, other.url)]
    assert len(keys[0]) == len(keys[1]) == 1
    assert keys[0][0]["n"] != keys[1][0]["n"]
    assert set(keys[0][0]) == {"kty", "n", "e", "kid", "use", "alg"}  # nothing of the private half


def test_a_taken_port_is_told_in_words() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(ChildFailedError, match="choose another port"),
    ):
        start_login(port=taken.getsockname()[1])


def test_wrong_settings_are_told_without_quoting_them() -> None:
    settings = '{"client_secret": "quoted-by-nobody", "port": -1}'
    refused = subprocess.run(
        MODULE,
        env={**os.environ, CONFIG_VARIABLE: settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode == 2
    assert f"{CONFIG_VARIABLE}: port" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert "quoted-by-nobody" not in refused.stderr


def test_stop_ends_it_also_while_a_request_hangs() -> None:
    running = start_login()
    running.fault("slow", on="jwks", delay=600)
    with pytest.raises(requests.ReadTimeout):
        requests.get(f"{running.url}/jwks", timeout=0.2)
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


def test_what_a_browser_brings_along_stands_in_no_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with start_login(CONFIG, log=log) as running:
        requests.get(f"{running.url}/authorize?state=canary-state&nonce=canary-nonce", timeout=10)
        requests.post(f"{running.url}/token", {"code": "canary-code"}, timeout=10)
        noted = str(running.journal())
    assert "canary" not in log.read_text()
    assert "'authorize'" in noted
    assert "canary" not in noted
