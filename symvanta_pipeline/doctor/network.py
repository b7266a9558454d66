"""The hosts that the pipeline talks to: whether they answer at all.

Belongs here: requests that carry no token and no secret, and go to no endpoint with a rate limit. Does not belong
here: what those hosts know of a customer.
"""

from typing import Final

import requests

from symvanta_pipeline.connect.login import Login, LoginUnavailable
from symvanta_pipeline.doctor.verdict import Verdict, fail, ok, warn
from symvanta_pipeline.settings import ConnectSettings, LoginSettings, VantaSettings, is_loopback, load

TIMEOUT: Final = (5.0, 8.0)  # seconds to connect, and between bytes of an answer


def ask(url: str) -> requests.Response:
    """Ask a host for the head of its first page, following no redirect.

    Raises:
        requests.RequestException: it does not answer.
    """
    return requests.head(f"{url}/", timeout=TIMEOUT, allow_redirects=False)


def vanta_api() -> Verdict:
    """Ask Vanta's API host for nothing in particular: no endpoint that has a limit, so that it takes no slot."""
    return _answers(load(VantaSettings).vanta_api_url, "VANTA_API_URL", "until then nothing is pushed")


def vanta_app() -> Verdict:
    """Ask the host of Vanta's consent page the same."""
    return _answers(load(VantaSettings).vanta_app_url, "VANTA_APP_URL", "until then nobody can connect")


def sym_login() -> Verdict:
    """Fetch the discovery document of Sym's login, as a sign-in begins."""
    login, redirect_uri = load(LoginSettings), load(ConnectSettings).redirect_uri
    secret = login.sym_oidc_client_secret.get_secret_value()
    try:
        Login(login.sym_oidc_issuer, login.sym_oidc_client_id, secret, redirect_uri).begin("/")
    except LoginUnavailable as error:
        return fail(
            str(error), "compare SYM_OIDC_ISSUER with the login's own discovery document, and look whether it is up"
        )
    return ok(f"{login.sym_oidc_issuer} publishes what a sign-in needs")


def connect_app() -> Verdict:
    """Look whether anybody but this machine could reach the connect app."""
    url = load(ConnectSettings).symvanta_public_url
    if is_loopback(url):
        return warn(
            f"{url} is this machine: no customer's admin can reach it", "set SYMVANTA_PUBLIC_URL, if the app is used"
        )
    return ok(f"browsers are led to {url}")


def _answers(url: str, variable: str, until_then: str) -> Verdict:
    look = f"look at {variable}, name resolution, the firewall and the proxy; {until_then}"
    try:
        status = ask(url).status_code
    except requests.exceptions.SSLError:
        return fail(f"{url} shows no certificate that is trusted", f"look at the certificates of this machine; {look}")
    except requests.RequestException as error:
        return fail(f"{url} does not answer ({type(error).__name__})", look)
    if status >= requests.codes.server_error:
        return warn(f"{url} answers, but with HTTP {status}", "wait, and see whether Vanta tells of an outage")
    return ok(f"{url} answers (HTTP {status})")
