"""A person's way through the connect app in a real browser, up to the first sync of a Dagster that runs.

Between the stand-ins for Vanta and for Sym's login; what the pages say is compared with the ledger, with what Vanta's
stand-in was asked for, and with Sym's own rows. No window may report an error, or ask anybody else for anything.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped] # ships no types
from playwright.sync_api import Locator, Page, expect

from symvanta_pipeline.connect.pages import REFUSALS
from symvanta_pipeline.ledger import connections, snapshots
from symvanta_pipeline.ledger.snapshots import AttemptOutcome
from symvanta_pipeline.ledger.vault import KeyRing, Token
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres
from tests.support.browsing import Window, keep
from tests.support.site import Site, running_dagster, running_site
from tests.support.stack import Stack

pytestmark = pytest.mark.timeout(600)  # whoever comes first starts everything

RUNNING = "Connected: first sync is running"
ACCEPTED = "Connected: first sync accepted"
HELD = "Connected: the sync is on hold"
CONSENT = "Sym asks for access"
NARROW = 320  # pixels: what WCAG's criterion 1.4.10 asks for
LOOKS: list[tuple[int, Literal["light", "dark"]]] = [(1000, "light"), (NARROW, "dark")]
HOUR = 3600
HELD_BACK = "Slate Works"  # has a user without an e-mail address
ESTABLISHED = ("Willow Bank", "Cedar Clinic", HELD_BACK)
LONG_NAME = "Donaudampfschifffahrtsgesellschaftskapitänswitwen"  # without a place to break it


@dataclass(frozen=True)
class Live:
    """A connect app whose customers are really synced.

    Attributes:
        established: customers that connected before any test began; their first syncs go on meanwhile.
    """

    site: Site
    stack: Stack
    established: dict[str, "Customer"] = field(default_factory=dict)

    def establish(self, name: str) -> None:
        """Make and connect a customer without a browser."""
        self.established[name] = self.customer(name)
        if name == HELD_BACK:
            self.site.sym.user(self.established[name].id, email=None)
        self.site.connected(self.established[name].slug, self.established[name].admin)

    def customer(self, name: str, *, slug: str | None = None, admin: str | None = None) -> "Customer":
        """Make an organization with five users: an admin who logs in, two members, a guest and one who left."""
        site, slug = self.site, slug or name.lower().replace(" ", "-")
        organization, _ = site.organization(slug, name=name)
        site.vanta.name_tenant(str(organization), name)
        if admin is None:
            admin = site.admin(organization)
        else:
            site.sym.user(organization, type="admin", identities=[site.sym.password(external_id=admin)])
        for kind, left in (("member", None), ("member", None), ("guest", None), ("member", "2026-03-01")):
            site.sym.user(organization, type=kind, deactivated_at=left)
        return Customer(site, organization, slug, name, admin)


@dataclass(frozen=True, eq=False)
class Customer:
    """An organization, and how things stand behind its page.

    Attributes:
        admin: the subject of an admin's login.
    """

    site: Site
    id: UUID
    slug: str
    name: str
    admin: str

    @property
    def url(self) -> str:
        return f"{self.site.url}/orgs/{self.slug}/vanta"

    @property
    def state(self) -> tuple[str, int] | None:
        """State and generation of the connection."""
        connection = self.site.connection(self.id)
        return (connection.state, connection.generation) if connection else None

    @property
    def users(self) -> set[str]:
        rows = self.site.sym.connection.execute("SELECT id FROM users WHERE organization_id = %s", [self.id])
        return {str(user) for (user,) in rows}

    @property
    def reachable(self) -> set[str]:
        rows = self.site.sym.connection.execute(
            "SELECT id FROM users WHERE organization_id = %s AND email IS NOT NULL", [self.id]
        )
        return {str(user) for (user,) in rows}

    @property
    def puts(self) -> list[int]:
        """How many accounts each accepted PUT held."""
        entries = [entry for entry in self.site.vanta.journal("put") if entry["tenant"] == str(self.id)]
        return [entry["count"] for entry in entries if entry["status"] == 200]

    def accounts(self) -> dict[str, str]:
        """Status by unique id of all that Vanta's stand-in has; nobody of it may be soft-deleted."""
        stored = self.site.vanta.accounts(str(self.id))
        assert {account["deletedAt"] for account in stored} <= {None}
        return {account["uniqueId"]: account["status"] for account in stored}

    def written(self, asset: str, column: str) -> set[str]:
        """One column of an asset's Parquet file."""
        file = Path(self.site.env["SYMVANTA_DATA_URL"]) / asset / f"{self.id}.parquet"
        return set(pd.read_parquet(file)[column].astype(str))


@pytest.fixture(scope="module")
def live(
    postgres: EmbeddedPostgres,
    sym_template: str,
    symvanta_template: str,
    dagster_template: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Live]:
    templates = {
        "SYM_DATABASE_URL": sym_template,
        "SYMVANTA_DATABASE_URL": symvanta_template,
        "DAGSTER_POSTGRES_URL": dagster_template,
    }
    folder = tmp_path_factory.mktemp("live")
    with (
        running_site(postgres, templates, folder, SYMVANTA_DATA_URL=str(folder / "data")) as site,
        running_dagster(site) as stack,
    ):
        live = Live(site, stack)
        for name in ESTABLISHED:
            live.establish(name)
        yield live


@pytest.fixture(scope="module")
def running(live: Live) -> Customer:
    """A customer whose first sync does not end: Vanta takes its time for the PUT."""
    customer = live.customer(LONG_NAME, slug="running")
    live.site.vanta.fault("put", "slow", tenant=str(customer.id), delay=HOUR)
    live.site.connected(customer.slug, customer.admin)
    return customer


@pytest.fixture
def browse(live: Live, window: Callable[..., Window]) -> Iterator[Callable[..., Window]]:
    """Opens windows that may report nothing, and ask only the app, Vanta and Sym's login."""
    opened: list[Window] = []

    def browse(**options: Any) -> Window:
        opened.append(window(**options))
        return opened[-1]

    yield browse
    for each in opened:
        assert each.errors == []
        assert each.origins <= {live.site.url, live.site.vanta.url, live.site.login.url}


def sign_in(tab: Page, subject: str) -> None:
    tab.get_by_role("radio", name=subject, exact=True).check()
    tab.get_by_role("button", name="Sign in").click()


def come_as_admin(window: Window, customer: Customer) -> Page:
    """Open the customer's page in a new tab and sign in on the way."""
    tab = window.tab()
    tab.goto(customer.url)
    sign_in(tab, customer.admin)
    expect(heading(tab, f"{customer.name} and Vanta")).to_be_visible()
    return tab


def heading(tab: Page, title: str) -> Locator:
    return tab.get_by_role("heading", name=title, exact=True)


def button(tab: Page, name: str) -> Locator:
    return tab.get_by_role("button", name=name, exact=True)


def shows(tab: Page, title: str) -> None:
    expect(heading(tab, title)).to_be_visible()


def at_consent(tab: Page, customer: Customer) -> None:
    shows(tab, CONSENT)
    expect(tab.get_by_role("strong")).to_have_text(customer.name)


class TestConnecting:
    def test_from_vantas_marketplace_to_the_first_sync(self, live: Live, browse: Callable[..., Window]) -> None:
        """With JavaScript and without it, side by side."""
        windows = {
            live.customer("Maple Dental"): browse(),
            live.customer("Plain Paper"): browse(java_script_enabled=False),
        }
        for customer, window in windows.items():
            tab = window.tab()
            tab.goto(f"{live.site.vanta.url}/marketplace")
            tab.get_by_role("link", name="Connect").click()
            sign_in(tab, customer.admin)
            at_consent(tab, customer)
            button(tab, "Allow").click()
            shows(tab, RUNNING)
            assert customer.state == ("connected", 1)
            if customer.name == "Maple Dental":
                keep(tab, "connect-running")
        for customer, window in windows.items():
            [tab] = window.context.pages
            shows(tab, ACCEPTED)  # the page got there by itself
            assert tab.url == customer.url
            facts = tab.get_by_role("definition")
            expect(facts.filter(has_text="by you")).to_be_visible()
            expect(facts.filter(has_text="4 active, 1 deactivated")).to_be_visible()
            assert customer.puts == [5]
            assert set(customer.accounts()) == customer.users
            assert sorted(customer.accounts().values()) == ["ACTIVE"] * 4 + ["DEACTIVATED"]
            assert customer.written("sym/users", "user_id") == customer.users
            assert customer.written("vanta/user_accounts", "uniqueId") == customer.users
            if customer.name == "Maple Dental":
                keep(tab, "connect-status")

    def test_vanta_may_send_people_to_a_login_of_its_own_first(self, live: Live, window: Callable[..., Window]) -> None:
        """Chromium holds a form's whole chain of redirects to form-action, and blocks it without a word on the page."""
        customer = live.customer("Far Away Login")
        tab = come_as_admin(window(), customer)
        elsewhere = "https://127.0.0.1:8443/login"
        live.site.vanta.fault("authorize", "redirect", tenant=str(customer.id), location=elsewhere, status=302)
        with tab.expect_event("requestfailed", lambda request: request.url == elsewhere) as failed:
            button(tab, "Connect Vanta").click()
        assert failed.value.failure is not None
        assert "CONNECTION_REFUSED" in failed.value.failure  # nobody is there; the browser was let go

    def test_several_organizations_and_one_is_chosen(self, live: Live, browse: Callable[..., Window]) -> None:
        first = live.customer("Birch Legal")
        second = live.customer("Birch Holdings", admin=first.admin)
        tab = browse().tab()
        tab.goto(f"{live.site.url}/vanta/install")
        sign_in(tab, first.admin)
        shows(tab, "Which organization do you want to connect?")
        keep(tab, "connect-choose")
        button(tab, "Connect Birch Holdings").click()
        at_consent(tab, second)
        button(tab, "Allow").click()
        shows(tab, RUNNING)
        assert (first.state, second.state) == (None, ("connected", 1))
        spare_the_sync(second)

    def test_what_is_held_back_is_told_and_goes_on_once_it_is_corrected(
        self, live: Live, browse: Callable[..., Window]
    ) -> None:
        customer = live.established[HELD_BACK]
        tab = come_as_admin(browse(), customer)
        shows(tab, HELD)
        keep(tab, "connect-held")
        [nobody] = customer.users - customer.reachable
        expect(tab.get_by_role("status")).to_contain_text("rule email")
        expect(tab.get_by_role("status")).to_contain_text(nobody)
        assert customer.puts == []
        assert customer.accounts() == {}
        live.site.sym.execute("UPDATE users SET email = 'found@customer.example' WHERE id = %s", nobody)
        tags = {"dagster/partition": customer.slug}
        assert live.stack.ended(live.stack.launch(jobName="user_account_sync_job", tags=tags)).is_success
        tab.reload()
        shows(tab, ACCEPTED)
        assert set(customer.accounts()) == customer.users

    def test_denial_connects_nothing(self, live: Live, browse: Callable[..., Window]) -> None:
        customer = live.customer("Second Thoughts")
        tab = come_as_admin(browse(), customer)
        button(tab, "Connect Vanta").click()
        button(tab, "Deny").click()
        shows(tab, "You did not allow it")
        tab.get_by_role("link", name="Back to the connection").click()
        shows(tab, "Not connected")
        assert customer.state is None
        assert live.site.codes_used(customer.id) == 0

    def test_a_consent_that_took_too_long_is_begun_again(self, live: Live, browse: Callable[..., Window]) -> None:
        customer = live.customer("Long Lunch")
        window = browse()
        tab = come_as_admin(window, customer)
        button(tab, "Connect Vanta").click()
        at_consent(tab, customer)
        expired = live.site.ledger.execute(
            "UPDATE consent_requests SET expires_at = now() WHERE organization_id = %s", [customer.id]
        )
        assert expired.rowcount == 1
        button(tab, "Allow").click()
        shows(tab, "This answer is too old, or belongs to another browser")
        assert (window.status(), customer.state) == (400, None)
        tab.get_by_role("link", name="Start again").click()
        at_consent(tab, customer)
        button(tab, "Allow").click()
        shows(tab, RUNNING)
        assert live.site.codes_used(customer.id) == 1
        spare_the_sync(customer)


class TestTheWrongPerson:
    @pytest.mark.parametrize("case", ["other_organization", "deactivated", "unknown_person"])
    def test_is_refused_and_the_right_one_can_sign_in(
        self, live: Live, browse: Callable[..., Window], case: str
    ) -> None:
        customer = live.customer(f"Right Place {case[:5]}")
        site = live.site
        wrong = {
            "other_organization": lambda: live.customer("Elsewhere").admin,
            "deactivated": lambda: site.admin(customer.id, deactivated_at="2026-02-01"),
            "unknown_person": site.stranger,
        }[case]()
        window = browse()
        tab = window.tab()
        tab.goto(customer.url)
        sign_in(tab, wrong)
        shows(tab, REFUSALS[case][0])
        assert window.status() == 403
        if case == "other_organization":
            keep(tab, "connect-refused")
        if case == "deactivated":  # one who goes the longer way round
            button(tab, "Sign out").click()
            shows(tab, "You are signed out")
        tab.get_by_role("link", name="Sign in as somebody else").click()
        sign_in(tab, customer.admin)
        if case != "deactivated":  # back to where the wrong one was refused
            assert tab.url == customer.url
            button(tab, "Connect Vanta").click()
        at_consent(tab, customer)
        assert customer.state is None
        if case == "other_organization":  # one who goes on is enough
            button(tab, "Allow").click()
            shows(tab, RUNNING)
            assert customer.state == ("connected", 1)
            spare_the_sync(customer)


class TestMovesThatPeopleMake:
    def test_back_to_the_consent_and_allowing_again_changes_nothing(
        self, running: Customer, browse: Callable[..., Window]
    ) -> None:
        tab = come_as_admin(browse(), running)
        button(tab, "Reconnect Vanta").click()
        button(tab, "Allow").click()
        with tab.expect_navigation():  # having loaded itself again, the page still is one step of the way back
            shows(tab, RUNNING)
        before = running.state, running.site.codes_used(running.id), running.site.token(running.id)
        tab.go_back()
        at_consent(tab, running)
        button(tab, "Allow").click()
        shows(tab, RUNNING)
        assert tab.url == running.url
        assert (running.state, running.site.codes_used(running.id), running.site.token(running.id)) == before
        tab.go_back()
        tab.go_back()
        shows(tab, RUNNING)

    def test_double_clicks_connect_once(self, live: Live, browse: Callable[..., Window]) -> None:
        customer = live.customer("Twice Quick")
        tab = come_as_admin(browse(), customer)
        count_submissions(tab)
        button(tab, "Connect Vanta").dblclick()
        at_consent(tab, customer)
        count_submissions(tab)
        button(tab, "Allow").dblclick()
        shows(tab, RUNNING)
        assert submissions(tab) == 2
        tab.goto(f"{live.site.vanta.url}/marketplace")
        assert submissions(tab) == 2
        assert customer.state == ("connected", 1)
        assert live.site.codes_used(customer.id) == 1
        spare_the_sync(customer)

    def test_two_tabs_at_once_both_end_well(self, live: Live, browse: Callable[..., Window]) -> None:
        customer = live.customer("Two Tabs")
        window = browse()
        tabs = window.tab(), window.tab()
        for tab in tabs:
            tab.goto(customer.url)
        for tab in tabs:  # each with a sign-in of its own under way
            sign_in(tab, customer.admin)
            shows(tab, "Not connected")
        older, newer = tabs
        button(older, "Connect Vanta").click()
        shows(older, "This form is too old")  # each sign-in begins a new session
        older.get_by_role("link", name="Open the page again").click()
        for tab in (older, newer):
            button(tab, "Connect Vanta").click()
            at_consent(tab, customer)
        for tab in tabs:
            button(tab, "Allow").click(no_wait_after=True)
        for tab in tabs:
            shows(tab, ACCEPTED)
        assert customer.state == ("connected", 2)
        assert set(customer.accounts()) == customer.users

    def test_a_reconnect_is_followed_by_a_sync_and_keeps_the_accounts(
        self, live: Live, browse: Callable[..., Window]
    ) -> None:
        customer = live.established["Willow Bank"]
        tab = come_as_admin(browse(), customer)
        shows(tab, ACCEPTED)
        before = customer.accounts()
        button(tab, "Reconnect Vanta").click()
        at_consent(tab, customer)
        button(tab, "Allow").click()
        shows(tab, RUNNING)
        shows(tab, ACCEPTED)
        assert customer.state == ("connected", 2)
        assert customer.puts == [5, 5]
        assert customer.accounts() == before

    def test_disconnecting_and_connecting_again_by_keyboard_alone(
        self, live: Live, browse: Callable[..., Window]
    ) -> None:
        customer = live.established["Cedar Clinic"]
        tab = come_as_admin(browse(), customer)
        shows(tab, ACCEPTED)
        tab.keyboard.press("Tab")
        expect(tab.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
        go_by_keyboard(tab, tab.get_by_role("link", name="Disconnect…"))
        shows(tab, f"Disconnect {customer.name} from Vanta?")
        assert customer.state == ("connected", 1)
        keep(tab, "connect-disconnect")
        go_by_keyboard(tab, button(tab, "Disconnect Vanta"))
        shows(tab, "Disconnected")
        assert (customer.state, customer.site.token(customer.id)) == (("disconnected", 1), None)
        assert len([e for e in customer.site.vanta.journal("suspend") if e["tenant"] == str(customer.id)]) == 1
        assert set(customer.accounts()) == customer.users
        go_by_keyboard(tab, button(tab, "Reconnect Vanta"))
        at_consent(tab, customer)
        go_by_keyboard(tab, button(tab, "Allow"))
        shows(tab, RUNNING)
        assert customer.state == ("connected", 2)
        spare_the_sync(customer)

    def test_following_can_be_stopped(self, running: Customer, browse: Callable[..., Window]) -> None:
        """A page that loads itself again takes a reader's place away."""
        tab = come_as_admin(browse(), running)
        shows(tab, RUNNING)
        expect(tab.locator("meta[http-equiv=refresh]")).to_have_count(1)
        tab.get_by_role("link", name="Stop following").click()
        shows(tab, RUNNING)
        expect(tab.locator("meta[http-equiv=refresh]")).to_have_count(0)
        tab.get_by_role("link", name="Follow it again").click()
        expect(tab.locator("meta[http-equiv=refresh]")).to_have_count(1)


def spare_the_sync(customer: Customer) -> None:
    """Keep the sensor from asking for a sync that nobody will look at: as if it had been tried already."""
    snapshots.record_outcome(customer.site.ledger, customer.id, "busy", run_id="none")


def count_submissions(tab: Page) -> None:
    """Count forms that are sent from this page, for as long as the tab is open."""
    tab.evaluate("addEventListener('submit', () => sessionStorage.sent = Number(sessionStorage.sent || 0) + 1)")


def submissions(tab: Page) -> int:
    return int(tab.evaluate("sessionStorage.sent || 0"))


def go_by_keyboard(tab: Page, target: Locator) -> None:
    """Press Tab until something has the focus, see that this shows, and press Enter."""
    for _ in range(10):
        tab.keyboard.press("Tab")
        if target.evaluate("element => element === document.activeElement"):
            break
    expect(target).to_be_focused()
    expect(target).to_have_css("outline-style", "solid")
    tab.keyboard.press("Enter")


class TestEverybodyCanUseIt:
    """Axe's rules, in light and dark, wide and as narrow as a phone."""

    @pytest.fixture
    def every_page(self, live: Live, running: Customer) -> dict[str, str]:
        """The address of every page that the app has: one admin has an organization in each state."""
        keyring = KeyRing(live.site.env["SYMVANTA_TOKEN_KEYS"])
        pages = {"running": f"{running.url}?follow=no"}
        for state in ("none", "accepted", "held", "failing", "parked", "disconnected"):
            customer = live.customer(LONG_NAME, slug=state, admin=running.admin)
            pages[state] = customer.url
            if state != "none":
                settle(live.site, keyring, customer, state)
        return pages | {
            "disconnecting": f"{pages['accepted']}?confirm=disconnect",
            "choosing": f"{live.site.url}/vanta/install",
            "refused": f"{live.site.url}/orgs/somebody-else/vanta",
            "too old": f"{live.site.url}/vanta/callback?state=unknown&code=unknown",
            "signed out": f"{live.site.url}/auth/logout",
            "nowhere": f"{live.site.url}/nowhere",
        }

    def test_no_page_breaks_a_rule(
        self, running: Customer, every_page: dict[str, str], browse: Callable[..., Window]
    ) -> None:
        tab = come_as_admin(browse(bypass_csp=True), running)  # the policy would not let axe in
        found: dict[str, object] = {}
        for name, url in every_page.items():
            tab.goto(url)
            for width, scheme in LOOKS:
                tab.set_viewport_size({"width": width, "height": 640})
                tab.emulate_media(color_scheme=scheme)
                if broken := broken_rules(tab) | too_wide(tab):
                    found[f"{name}, {width} pixels, {scheme}"] = broken
        assert found == {}

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_axe_would_tell(self, live: Live, browse: Callable[..., Window], scheme: str) -> None:
        tab = browse(bypass_csp=True, color_scheme=scheme).tab()
        tab.goto(f"{live.site.url}/auth/logout")
        assert broken_rules(tab) == {}
        tab.evaluate("document.querySelector('main p').style.color = '#777'")
        tab.evaluate("document.documentElement.removeAttribute('lang')")
        assert set(broken_rules(tab)) == {"color-contrast", "html-has-lang"}

    def test_a_page_that_is_too_wide_would_be_told(self, live: Live, browse: Callable[..., Window]) -> None:
        tab = browse(viewport={"width": NARROW, "height": 640}).tab()
        tab.goto(f"{live.site.url}/auth/logout")
        assert too_wide(tab) == {}
        tab.evaluate("document.querySelector('main p').style.width = '400px'")
        assert set(too_wide(tab)) == {"too wide"}


def broken_rules(tab: Page) -> dict[str, list[str]]:
    """Return which rules which elements break."""
    violations = Axe().run(tab).response["violations"]
    return {rule["id"]: [node["html"] for node in rule["nodes"]] for rule in violations}


def too_wide(tab: Page) -> dict[str, list[str]]:
    """Tell whether a page has to be moved sideways to be read."""
    needed, width = tab.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    return {"too wide": [f"{needed} pixels"]} if needed > width else {}


OUTCOMES: dict[str, AttemptOutcome] = {"held": "held", "failing": "failing", "parked": "parked"}


def settle(site: Site, keyring: KeyRing, customer: Customer, state: str) -> None:
    """Put a connection into a state at one stroke, so that no sensor sees it on the way there."""
    token = Token("access", "refresh", datetime.now(UTC) + timedelta(hours=1), "scope")
    sentence = f"rule email (email) broken by 1: {customer.id}" if state == "held" else None
    with site.ledger.transaction():
        connections.connect_customer(site.ledger, keyring, customer.id, customer.slug, token)
        outcome = OUTCOMES.get(state, "accepted")
        snapshots.record_outcome(site.ledger, customer.id, outcome, run_id="run", sentence=sentence)
        if state == "accepted":
            site.ledger.execute(
                "INSERT INTO accepted_snapshots (organization_id, run_id, read_at, body_sha256, token_generation,"
                " users, active, deactivated) VALUES (%s, 'run', clock_timestamp(), %s, 1, 5, 4, 1)",
                [customer.id, "0" * 64],
            )
        if state == "parked":
            assert connections.park(site.ledger, customer.id, "the grant was refused", token_generation=1)
        if state == "disconnected":
            connections.mark_disconnected(site.ledger, customer.id)


class TestTheWatch:
    """What every test above relies on would notice."""

    def test_a_script_that_the_policy_forbids(self, live: Live, window: Callable[..., Window]) -> None:
        watched = window()
        tab = watched.tab()
        tab.goto(f"{live.site.url}/auth/logout")
        assert watched.errors == []
        script = "document.head.append(Object.assign(document.createElement('script'), {textContent: 'self.ran = 1'}))"
        tab.evaluate(script)
        assert tab.evaluate("self.ran") is None
        assert len(watched.errors) == 1
        assert "Content Security Policy" in watched.errors[0]

    def test_a_missing_part_of_a_page(self, live: Live, window: Callable[..., Window]) -> None:
        watched = window()
        tab = watched.tab()
        tab.goto(f"{live.site.url}/auth/logout")
        with tab.expect_response("**/static/missing.svg"):
            tab.evaluate("document.body.append(Object.assign(new Image(), {src: '/static/missing.svg'}))")
        tab.get_by_role("main").wait_for()
        assert ["404" in error for error in watched.errors] == [True]

    def test_somebody_else_who_is_asked(self, live: Live, window: Callable[..., Window]) -> None:
        watched = window()
        elsewhere = live.site.url.replace("127.0.0.1", "localhost")
        watched.tab().goto(f"{elsewhere}/healthz")
        assert elsewhere in watched.origins
