"""The sign-in page of the stand-in for Sym's login, in a real browser."""

from collections.abc import Iterator
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from playwright.sync_api import BrowserContext, Page

from symvanta_pipeline.sandbox.login.config import LoginConfig
from symvanta_pipeline.sandbox.login.control import LoginServer, start_login

# Something that answers has to stand at the end of the way: the stand-in itself, on whichever port it got.
END = "/healthz"


@pytest.fixture(scope="module")
def login() -> Iterator[LoginServer]:
    registered = (f"http://127.0.0.1:1{END}",)
    config = LoginConfig(
        redirect_uris=registered,
        logout_uris=registered,
        any_loopback_redirect=True,
        people=[("auth0|ada", "Ada Admin"), ("auth0|bob", "Bob Boss")],
    )
    with start_login(config) as running:
        yield running


def link(login: LoginServer, state: str, **extra: str) -> str:
    query = {
        "client_id": login.config.client_id,
        "redirect_uri": login.url + END,
        "response_type": "code",
        "scope": "openid",
        "state": state,
        "nonce": "n",
        "code_challenge": "c" * 43,
        "code_challenge_method": "S256",
    }
    return f"{login.url}/authorize?{urlencode(query | extra)}"


def sign_in(tab: Page, who: str) -> None:
    tab.get_by_role("group", name="Sign in as").get_by_role("radio", name=who).check()
    tab.get_by_role("button", name="Sign in").click()
    tab.wait_for_url(f"**{END}?*")


def came_back(tab: Page) -> dict[str, str]:
    assert urlsplit(tab.url).path == END
    return dict(parse_qsl(urlsplit(tab.url).query))


def test_a_person_signs_in_comes_again_and_signs_out(login: LoginServer, person: BrowserContext) -> None:
    login.clear_journal()
    tab = person.new_page()
    tab.goto(link(login, "first"))
    assert tab.get_by_role("heading", level=1).inner_text() == "Sign in to Sym"
    sign_in(tab, "Ada Admin")
    assert came_back(tab)["state"] == "first"
    tab.goto(link(login, "second"))
    assert came_back(tab)["state"] == "second"
    tab.goto(link(login, "third", prompt="login"))
    sign_in(tab, "Bob Boss")
    assert came_back(tab)["state"] == "third"
    out = {"client_id": login.config.client_id, "post_logout_redirect_uri": login.url + END}
    tab.goto(f"{login.url}/logout?{urlencode(out)}")
    assert came_back(tab) == {}
    tab.goto(link(login, "fourth"))
    assert tab.get_by_role("radio").count() == 2
    granted = [entry["subject"] for entry in login.journal("authorize") if entry["subject"]]
    assert granted == ["auth0|ada", "auth0|ada", "auth0|bob"]


def test_the_keyboard_is_enough(login: LoginServer, person: BrowserContext) -> None:
    tab = person.new_page()
    tab.goto(link(login, "keys"))
    for key in ("Tab", "Space", "ArrowDown", "Enter"):
        tab.keyboard.press(key)
    tab.wait_for_url(f"**{END}?*")
    assert login.journal("authorize")[-1]["subject"] == "auth0|bob"


def test_nobody_chosen_stays_and_cancel_leaves(login: LoginServer, person: BrowserContext) -> None:
    tab = person.new_page()
    tab.goto(link(login, "none"))
    tab.get_by_role("button", name="Sign in").click()
    assert tab.get_by_role("heading", level=1).inner_text() == "Sign in to Sym"
    tab.get_by_role("button", name="Cancel").click()
    tab.wait_for_url(f"**{END}?*")
    assert came_back(tab) == {"error": "access_denied", "state": "none"}
