"""nginx with the sample of deploy/, in front of an app that answers and of one that does not: no code in any log."""

import http.server
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.docs import CHECKOUT

NAME = "connect.sym.example"
CODE = "canarycode"
CALLBACKS = [f"/vanta/callback?code={CODE}&state={CODE}", f"/auth/callback?code={CODE}&state={CODE}"]

pytestmark = pytest.mark.skipif(not shutil.which("nginx"), reason="there is no nginx")


@dataclass
class Proxy:
    """A running nginx and the app behind it."""

    https: int
    http: int
    folder: Path
    hosts: list[str] = field(default_factory=list)

    def get(self, path: str, *, port: int | None = None) -> int:
        scheme, port = ("https", self.https) if port is None else ("http", port)
        return requests.get(
            f"{scheme}://127.0.0.1:{port}{path}",
            headers={"Host": NAME, "Referer": f"https://{NAME}{path}"},
            verify=False,
            allow_redirects=False,
            timeout=10,
        ).status_code

    def logs(self) -> dict[str, str]:
        return {file.name: file.read_text() for file in self.folder.glob("*.log")}


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port: int = probe.getsockname()[1]
        return port


def certificate(folder: Path) -> None:
    """Write a certificate that nobody trusts, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    (folder / "fullchain.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


@contextmanager
def proxy(folder: Path, *, sample: str) -> Iterator[Proxy]:
    """Run nginx with the sample, in a folder and on ports of its own."""
    certificate(folder)
    running = Proxy(free_port(), free_port(), folder)

    class App(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            running.hosts.append(self.headers["Host"])
            if "timeout" in self.path:
                self.close_connection = True  # an app that dies before it has answered
                return
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), App) as app:
        threading.Thread(target=app.serve_forever, daemon=True).start()
        for before, after in {
            "listen 80;": f"listen 127.0.0.1:{running.http};",
            "listen 443 ssl;": f"listen 127.0.0.1:{running.https} ssl;",
            "127.0.0.1:3080": f"127.0.0.1:{app.server_address[1]}",
            "/etc/ssl/symvanta": str(folder),
            "/var/log/nginx": str(folder),
        }.items():
            assert before in sample
            sample = sample.replace(before, after)
        temporary = "".join(
            f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        whole = (
            f"daemon off; pid {folder}/pid; error_log {folder}/main.log; events {{}} http {{ {temporary} {sample} }}"
        )
        (folder / "nginx.conf").write_text(whole)
        command = ["nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder), "-e", str(folder / "main.log")]
        with subprocess.Popen(command) as process:
            try:
                _wait(running)
                yield running
            finally:
                process.terminate()
                process.wait(10)
                app.shutdown()


def _wait(running: Proxy) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", running.https), 1).close()
        except OSError:
            assert time.monotonic() < deadline, running.logs()
            time.sleep(0.05)
        else:
            return


SAMPLE = (CHECKOUT / "deploy" / "nginx.conf").read_text()


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
class TestProxy:
    def test_no_code_stands_in_any_log_whatever_the_app_does(self, tmp_path: Path) -> None:
        with proxy(tmp_path, sample=SAMPLE) as running:
            assert [running.get(path) for path in CALLBACKS] == [200, 200]
            assert [running.get(f"{path}&timeout=1") for path in CALLBACKS] == [502, 502]
            assert running.get(CALLBACKS[0], port=running.http) == 301
        logs = running.logs()
        assert logs["symvanta.log"].count('"GET /vanta/callback"') == 3
        assert {name for name, text in logs.items() if CODE in text} == set()

    @pytest.mark.parametrize(
        ("text", "instead"),
        [("$request_method $uri", "$request"), ("error.log crit", "error.log error"), ("$status", "$http_referer")],
    )
    def test_one_that_writes_codes_is_found(self, tmp_path: Path, text: str, instead: str) -> None:
        with proxy(tmp_path, sample=SAMPLE.replace(text, instead)) as running:
            running.get(f"{CALLBACKS[0]}&timeout=1")
        assert any(CODE in log for log in running.logs().values())

    def test_the_app_sees_its_own_name_and_no_large_body(self, tmp_path: Path) -> None:
        with proxy(tmp_path, sample=SAMPLE) as running:
            running.get("/healthz")
            too_large = requests.post(
                f"https://127.0.0.1:{running.https}/x",
                data=b"x" * 17_000,
                headers={"Host": NAME},
                verify=False,
                timeout=10,
            )
        assert (running.hosts, too_large.status_code) == ([NAME], 413)


def test_it_waits_as_long_as_the_page_says() -> None:
    assert re.findall(r"proxy_read_timeout (\d+)s", SAMPLE) == ["510"]
