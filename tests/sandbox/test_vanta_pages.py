"""The stand-in's marketplace and consent pages, also in a real browser and in several tabs."""

from collections.abc import Iterator
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
import requests
from playwright.sync_api import BrowserContext, Page
from pydantic import ValidationError

from symvanta_pipeline.sandbox.vanta.config import VantaConfig
from symvanta_pipeline.sandbox.vanta.control import VantaServer, start_vanta
from symvanta_pipeline.sandbox.vanta.oauth import SCOPES

# Something that answers has to stand at the end of the way: the stand-in itself.
END = "/healthz"


@pytest.fixture(scope="module")
def vanta() -> Iterator[VantaServer]:
    with start_vanta(VantaConfig(token_requests_per_minute=1000)) as running:
        running.name_tenant("one", "Acme & Söhne")
        running.name_tenant("two", "Globex")
        yield running


def consent_link(vanta: VantaServer, tenant: str) -> str:
    query = {
        "client_id": vanta.config.client_id,
        "scope": " ".join(SCOPES),
        "state": f"of {tenant}",
        "redirect_uri": vanta.url + END,
        "source_id": tenant,
        "response_type": "code",
    }
    return f"{vanta.url}/oauth/authorize?{urlencode(query)}"


def click(tab: Page, button: str) -> dict[str, str]:
    """What the browser is sent back with."""
    tab.get_by_role("button", name=button, exact=True).click()
    tab.wait_for_url(f"**{END}?*")
    return dict(parse_qsl(urlsplit(tab.url).query))


def test_connect_leads_where_it_was_told_to_at_the_start() -> None:
    assert VantaConfig().installation_url == "http://127.0.0.1:3080/vanta/install"
    with start_vanta(VantaConfig(installation_url="http://127.0.0.1:1/install?from=vanta&x=1")) as running:
        page = requests.get(f"{running.url}/marketplace", timeout=10)
    assert page.status_code == 200
    assert 'href="http://127.0.0.1:1/install?from=vanta&amp;x=1">Connect</a>' in page.text


@pytest.mark.parametrize("url", ["javascript:alert(1)", "/vanta/install", "https://", "ftp://127.0.0.1/"])
def test_connect_leads_to_web_pages_only(vanta: VantaServer, url: str) -> None:
    with pytest.raises(ValidationError, match="http or https"):
        VantaConfig(installation_url=url)
    refused = requests.put(f"{vanta.url}/_sandbox/installation", json={"url": url}, timeout=10)
    assert (refused.status_code, "http or https" in refused.text) == (400, True)


def test_the_marketplace_in_a_browser(vanta: VantaServer, person: BrowserContext) -> None:
    vanta.set_installation_url(f"{vanta.url}{END}?from=marketplace")
    tab = person.new_page()
    tab.goto(f"{vanta.url}/marketplace")
    tab.get_by_role("region", name="Sym").get_by_role("link", name="Connect", exact=True).click()
    assert tab.url == f"{vanta.url}{END}?from=marketplace"


def test_consent_in_a_browser_and_back_to_deny(vanta: VantaServer, person: BrowserContext) -> None:
    tab = person.new_page()
    tab.goto(consent_link(vanta, "one"))
    assert tab.get_by_role("heading", level=1).inner_text() == "Sym asks for access"
    assert tab.get_by_text("Acme & Söhne").is_visible()
    allowed = click(tab, "Allow")
    tab.go_back()
    assert click(tab, "Deny") == {"error": "access_denied", "state": "of one"}
    assert vanta.exchange("one", allowed["code"], redirect_uri=vanta.url + END).status_code == 200


def test_several_tabs_keep_their_tenants_apart(vanta: VantaServer, person: BrowserContext) -> None:
    tenants = ["one", "two", "one"]
    tabs = [person.new_page() for _ in tenants]
    for tab, tenant in zip(tabs, tenants, strict=True):
        tab.goto(consent_link(vanta, tenant))
    answers = [click(tab, "Allow") for tab in tabs]
    assert [answer["state"] for answer in answers] == ["of one", "of two", "of one"]
    for tenant, answer in zip(tenants, answers, strict=True):
        assert vanta.exchange(tenant, answer["code"], redirect_uri=vanta.url + END).status_code == 200
    tabs[0].goto(consent_link(vanta, "two"))
    crossed = click(tabs[0], "Allow")["code"]
    assert vanta.exchange("one", crossed, redirect_uri=vanta.url + END).status_code == 400
