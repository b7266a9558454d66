"""The demo's connect app, and a login in which everybody who could try it is on a list.

Belongs here: who is on that list, and starting both. Does not belong here: the app (``connect``), the login itself
(``login``), what else the demo does (``demo``).
"""

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg
import requests

from symvanta_pipeline.sandbox.dagster_processes import DagsterError, DagsterProcess
from symvanta_pipeline.sandbox.dagster_stack import free_port, listens
from symvanta_pipeline.sandbox.login.config import LoginConfig, Person
from symvanta_pipeline.sandbox.login.control import LoginServer, start_login
from symvanta_pipeline.sandbox.vanta.control import VantaServer

PORT = 3080  # where SYMVANTA_PUBLIC_URL says by default; any other where that is taken
START_TIMEOUT = 60.0
POLL = 0.1
STRANGER = Person("auth0|000000000000000000000000", "somebody whom Sym does not know")

# Of each organization one admin who logs in to Sym, and one who did and has left.
PEOPLE = """
SELECT DISTINCT ON (o.slug, u.deactivated_at IS NOT NULL)
    i.external_id, o.name || CASE WHEN u.deactivated_at IS NULL THEN ': an admin' ELSE ': an admin who has left' END
FROM users AS u JOIN organizations AS o ON o.id = u.organization_id JOIN identities AS i ON i.user_id = u.id
WHERE u.type = 'admin' AND i.service = 'auth0'
ORDER BY o.slug, u.deactivated_at IS NOT NULL, u.id, i.id
"""


@dataclass(frozen=True)
class DemoConnect:
    """Both, running.

    Attributes:
        url: of the connect app.
    """

    url: str
    login: LoginServer
    app: DagsterProcess


def start_connect(folder: Path, running: ExitStack, *, sym_url: str, vanta: VantaServer) -> DemoConnect:
    """Start the login and the app, and let Vanta's stand-in lead to it.

    Args:
        folder: for their logs.
        running: ends both.
        sym_url: where the people are read from.
        vanta: whose marketplace gets the app's installation URL.

    Raises:
        ChildFailedError, DagsterError: one of them did not come up.
    """
    port = free_port() if listens(PORT) else PORT
    url = f"http://127.0.0.1:{port}"
    config = LoginConfig(
        redirect_uris=(f"{url}/auth/callback",), logout_uris=(f"{url}/auth/logout",), people=_people(sym_url)
    )
    login = running.enter_context(start_login(config, log=folder / "login.log"))
    env = {
        "SYMVANTA_PUBLIC_URL": url,
        "SYM_OIDC_ISSUER": login.url,
        "SYM_OIDC_CLIENT_ID": config.client_id,
        "SYM_OIDC_CLIENT_SECRET": config.client_secret.get_secret_value(),
    }
    log = folder / "connect-app.log"
    app = running.enter_context(DagsterProcess.load("the connect app", "symvanta_pipeline.cli", env=env, log=log))
    app.begin("connect-app")
    deadline = time.monotonic() + START_TIMEOUT
    while not _is_up(url):
        app.require_running()
        if time.monotonic() > deadline:
            raise DagsterError(f"the connect app does not answer; its log is {log}")
        time.sleep(POLL)
    vanta.set_installation_url(f"{url}/vanta/install")
    return DemoConnect(url, login, app)


def _people(sym_url: str) -> tuple[Person, ...]:
    with psycopg.connect(sym_url) as sym:
        found = sym.execute(PEOPLE).fetchall()
    return (*(Person(subject, label) for subject, label in found), STRANGER)


def _is_up(url: str) -> bool:
    try:
        return requests.get(f"{url}/healthz", timeout=2).ok
    except requests.RequestException:
        return False
