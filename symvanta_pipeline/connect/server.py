"""Serving the connect app: one process, as many of them as wanted.

Belongs here: putting the app together from the settings, and how it listens and ends. Does not belong here: what it
answers (``app``).
"""

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import uvicorn
from starlette.types import ASGIApp

from symvanta_pipeline.connect.app import ConnectApp, build_app
from symvanta_pipeline.connect.cookies import Cookies
from symvanta_pipeline.connect.guard import MOST_HEADER_BYTES
from symvanta_pipeline.connect.login import Login
from symvanta_pipeline.connect.office import open_office
from symvanta_pipeline.settings import ConnectSettings, LoginSettings, load

LOGIN_CALLBACK = "/auth/callback"
MOST_CONNECTIONS = 100
KEEP_ALIVE_SECONDS = 5
# More than a consent takes at worst: three calls of Vanta, each with its wait for a slot and its time-outs; storing.
GRACE_SECONDS = 480


class CannotListen(Exception):
    """The address cannot be used; the text says which and what to do."""


@contextmanager
def connect_app() -> Iterator[ASGIApp]:
    """Check every setting, the tables and the keys, and build the app.

    Raises:
        SettingsError, LedgerError, InstanceUnavailable: something is missing; the text says what to do.
    """
    public, login = load(ConnectSettings), load(LoginSettings)
    with open_office() as office:
        yield build_app(
            ConnectApp(
                office=office,
                login=Login(
                    login.sym_oidc_issuer,
                    login.sym_oidc_client_id,
                    login.sym_oidc_client_secret.get_secret_value(),
                    public.symvanta_public_url + LOGIN_CALLBACK,
                ),
                cookies=Cookies(office.keyring, secure=public.symvanta_public_url.startswith("https://")),
                public_url=public.symvanta_public_url,
            )
        )


def listen(host: str, port: int) -> socket.socket:
    """Open the listening socket.

    Raises:
        CannotListen: the address is taken, or is not this machine's.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        refused = CannotListen(
            f"cannot listen on {host} port {port} ({os.strerror(error.errno or 0)}): choose --host or --port"
        )
    raise refused


def serve(app: ASGIApp, listener: socket.socket) -> None:
    """Answer requests until SIGTERM or Ctrl-C; those under way are finished."""
    log_to_stderr()
    config = uvicorn.Config(
        app,
        http="h11",
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,  # its lines hold codes and states
        server_header=False,
        h11_max_incomplete_event_size=MOST_HEADER_BYTES,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    # uvicorn finishes what is under way, then raises the signal once more.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])


def log_to_stderr() -> None:
    """Log this project's own lines, the audit log's included, and others' warnings."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in ("symvanta_pipeline", "symvanta.audit"):
        logging.getLogger(name).setLevel(logging.INFO)
