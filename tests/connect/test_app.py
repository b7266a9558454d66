"""A person's way through the connect app, over real HTTP, with a browser that runs no script."""

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import dagster as dg
import pytest
import requests
from dagster._core.instance.ref import InstanceRef

from symvanta_pipeline.connect.pages import REFUSALS
from symvanta_pipeline.ledger import snapshots
from symvanta_pipeline.ledger.locks import consent_lock
from tests.conftest import SymRows
from tests.support.site import Site
from tests.support.visitor import Page, Visitor

RUNNING = "Connected: first sync is running"


def query_of(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def partitions(site: Site) -> list[str]:
    storage = {"storage": {"postgres": {"postgres_url": site.env["DAGSTER_POSTGRES_URL"]}}}
    reference = InstanceRef.from_dir(site.env["DAGSTER_HOME"], overrides=storage)
    with dg.DagsterInstance.from_ref(reference) as instance:
        return list(instance.get_dynamic_partitions("customers"))


def at_consent(site: Site, slug: str, subject: str) -> tuple[Visitor, Page]:
    """Sign in and go as far as Vanta's consent page."""
    visitor, page = site.visit(f"/orgs/{slug}/vanta", subject)
    page = visitor.submit(page, "Connect Vanta" if "Connect Vanta" in page.html else "Reconnect Vanta")
    assert page.url.startswith(site.vanta.url), page.url
    return visitor, page


def answer_of(site: Site, visitor: Visitor, page: Page) -> str:
    """Allow, and return the address that Vanta sends the browser to, without going there."""
    return visitor.submit(page, "Allow", until=f"{site.url}/vanta/callback").url


def nothing_came_of_it(site: Site, organization: object) -> bool:
    count = site.ledger.execute(
        "SELECT (SELECT count(*) FROM consent_requests WHERE organization_id = %(id)s AND used_at IS NULL)"
        " + (SELECT count(*) FROM connections WHERE organization_id = %(id)s)",
        {"id": organization},
    ).fetchone()
    return count == (0,) and not [e for e in site.vanta.journal() if e["tenant"] == str(organization)]


class TestConnecting:
    def test_from_vantas_marketplace_to_a_stored_token(self, site: Site) -> None:
        organization, slug = site.organization()
        subject = site.admin(organization)
        visitor = Visitor()
        page = visitor.get(f"{site.vanta.url}/marketplace")
        page = visitor.get(page.links["Connect"])
        page = site.sign_in(visitor, page, subject)
        assert query_of(page.url)["source_id"] == str(organization)
        page = visitor.submit(page, "Allow")
        assert (page.status, page.path) == (200, f"/orgs/{slug}/vanta")
        assert RUNNING in page.text
        assert 'http-equiv="refresh"' in page.html
        connection = site.connection(organization)
        assert connection is not None
        assert (connection.customer, connection.state, connection.generation) == (slug, "connected", 1)
        assert site.token(organization) is not None
        assert slug in partitions(site)
        assert [event for event, _ in site.audit(organization)] == ["consent_asked", "connected"]
        assert connection.connected_by in {event["actor"] for event in site.events_of(subject)}

    def test_from_sym(self, site: Site) -> None:
        organization, slug = site.organization()
        _, page = site.connected(slug, site.admin(organization))
        assert page.path == f"/orgs/{slug}/vanta"
        assert RUNNING in page.text
        assert "by you" in page.text

    def test_with_several_organizations_one_is_asked_which(self, site: Site) -> None:
        (first, slug), (second, other) = site.organization(), site.organization()
        no_admin, _ = site.organization()
        subject = site.admin(first, second)
        visitor, page = site.visit("/vanta/install", subject)
        assert page.heading == "Which organization do you want to connect?"
        assert len(page.forms) == 3  # two to choose from, one to sign out
        page = visitor.submit(page, f"Connect {other.title()}")
        page = visitor.submit(page, "Allow")
        assert page.path == f"/orgs/{other}/vanta"
        assert site.connection(second) is not None
        assert site.connection(first) is None
        assert site.connection(no_admin) is None
        assert slug != other

    def test_what_came_of_the_first_sync_is_shown(self, site: Site) -> None:
        """The page follows the ledger; a browser test sees it happen with a real run."""
        organization, slug = site.organization()
        visitor, _ = site.connected(slug, site.admin(organization))
        site.ledger.execute(
            "INSERT INTO accepted_snapshots (organization_id, run_id, read_at, body_sha256, token_generation, users,"
            " active, deactivated) VALUES (%s, 'run', clock_timestamp(), %s, 1, 7, 5, 2)",
            [organization, "0" * 64],
        )
        snapshots.record_outcome(site.ledger, organization, "accepted", run_id="run")
        page = visitor.get(f"{site.url}/orgs/{slug}/vanta")
        assert "Connected: first sync accepted" in page.text
        assert "5 active, 2 deactivated" in page.text
        assert "refresh" not in page.html

    def test_another_admin_reads_who_connected_it(self, site: Site) -> None:
        organization, slug = site.organization()
        site.connected(slug, site.admin(organization, name="Grace Example"))
        _, page = site.visit(f"/orgs/{slug}/vanta", site.admin(organization))
        assert "by Grace Example" in page.text

    def test_a_reconnect_keeps_everything_but_the_token(self, site: Site) -> None:
        organization, slug = site.organization()
        subject = site.admin(organization)
        visitor, page = site.connected(slug, subject)
        before = site.token(organization)
        consent = visitor.submit(page, "Reconnect Vanta")
        assert query_of(consent.url)["source_id"] == str(organization)
        page = visitor.submit(consent, "Allow")
        connection, after = site.connection(organization), site.token(organization)
        assert RUNNING in page.text
        assert connection is not None
        assert before is not None
        assert after is not None
        assert (connection.customer, connection.generation) == (slug, 2)
        assert after.generation > before.generation
        assert after.refresh_token != before.refresh_token
        assert [event for event, _ in site.audit(organization)].count("reconnected") == 1

    def test_a_slug_that_changed_hands_mixes_nobody(self, site: Site) -> None:
        """Acme renames itself, and another company becomes acme: each admin only ever meets the own organization."""
        old, slug = site.organization()
        first_admin = site.admin(old)
        site.connected(slug, first_admin)
        site.sym.execute("UPDATE organizations SET slug = %s WHERE id = %s", f"{slug}-before", old)
        new, _ = site.organization(slug)
        _, page = site.connected(slug, site.admin(new))
        theirs, ours = site.connection(new), site.connection(old)
        assert theirs is not None
        assert ours is not None
        assert (ours.customer, theirs.customer) == (slug, f"{slug}-{str(new)[:8]}")
        assert site.vanta.journal("authorize")[-1]["tenant"] == str(new)
        _, page = site.visit(f"/orgs/{slug}/vanta", first_admin)
        assert page.status == 403
        _, page = site.visit(f"/orgs/{slug}-before/vanta", first_admin)
        assert (page.status, RUNNING in page.text) == (200, True)

    def test_a_slug_that_can_become_no_partition_is_told(self, site: Site) -> None:
        organization, _ = site.organization("commas,are,no,good")
        _, page = site.visit("/vanta/install", site.admin(organization))
        assert (page.status, page.heading) == (409, "This organization cannot be connected yet")
        assert nothing_came_of_it(site, organization)


class TestWhoMay:
    """Nobody but an admin of that very organization, looked up afresh at each step."""

    @pytest.mark.parametrize("path", ["/orgs/{slug}/vanta", "/vanta/install"])
    @pytest.mark.parametrize("case", ["unknown_person", "deactivated", "not_an_admin", "organization_deleted"])
    def test_others_are_refused(self, site: Site, case: str, path: str) -> None:
        organization, slug = site.organization()
        if case == "unknown_person":
            subject = site.stranger()
        elif case == "deactivated":
            subject = site.admin(organization, deactivated_at="2999-01-01")
        elif case == "not_an_admin":
            subject = site.admin(organization, type="member")
        else:
            subject = site.admin(organization)
            site.sym.execute("UPDATE organizations SET deleted_at = now() WHERE id = %s", organization)
        visitor, page = site.visit(path.format(slug=slug), subject)
        assert (page.status, page.heading) == (403, REFUSALS[case][0])
        assert nothing_came_of_it(site, organization)
        if case == "unknown_person":
            login = f"login:{hashlib.sha256(subject.encode()).hexdigest()[:16]}"
            found = site.ledger.execute("SELECT event, detail FROM audit_events WHERE actor = %s", [login]).fetchall()
            assert found == [("refused", "unknown_person")]
            assert "symvanta" not in visitor.http.cookies  # there is nothing that they could do with a session
        else:
            assert [(e["event"], e["detail"]) for e in site.events_of(subject)][-1] == ("refused", case)

    def test_an_admin_of_another_organization_is_refused(self, site: Site) -> None:
        (own, _), (organization, slug) = site.organization(), site.organization()
        visitor, page = site.visit(f"/orgs/{slug}/vanta", site.admin(own))
        assert (page.status, page.heading) == (403, REFUSALS["other_organization"][0])
        assert nothing_came_of_it(site, organization)
        assert site.audit(organization) == [("refused", "other_organization")]
        visitor.get(f"{site.url}/orgs/{slug}/vanta")
        assert site.audit(organization) == [("refused", "other_organization")]  # the same is told once an hour

    @pytest.mark.parametrize("known", [True, False], ids=["no admin there", "unknown"])
    def test_signing_in_as_somebody_else_leads_back_to_the_page(self, site: Site, *, known: bool) -> None:
        """Whoever followed a link while signed in as the wrong person should still arrive."""
        (own, _), (organization, slug) = site.organization(), site.organization()
        visitor, page = site.visit(f"/orgs/{slug}/vanta", site.admin(own) if known else site.stranger())
        assert page.status == 403
        login = visitor.get(site.url + page.links["Sign in as somebody else"])
        page = site.sign_in(visitor, login, site.admin(organization))
        assert (page.status, page.path) == (200, f"/orgs/{slug}/vanta")

    def test_who_was_refused_at_vantas_door_comes_back_to_it(self, site: Site) -> None:
        (organization, _), (other, _) = site.organization(), site.organization()
        visitor, page = site.visit("/vanta/install", site.admin(organization, type="member"))
        assert page.status == 403
        login = visitor.get(site.url + page.links["Sign in as somebody else"])
        page = site.sign_in(visitor, login, site.admin(other))
        assert query_of(page.url)["source_id"] == str(other)

    def test_an_organization_that_does_not_exist_looks_the_same(self, site: Site) -> None:
        """Otherwise anybody with a login could list Sym's customers."""
        (own, _), (_, slug) = site.organization(), site.organization()
        visitor, real = site.visit(f"/orgs/{slug}/vanta", site.admin(own))
        invented = visitor.get(f"{site.url}/orgs/no-such-organization/vanta")
        assert (real.status, real.text) == (invented.status, invented.text)
        assert real.html.replace(slug, "no-such-organization") == invented.html

    def test_whoever_lost_the_right_meanwhile_is_refused_at_the_callback(self, site: Site) -> None:
        organization, slug = site.organization()
        subject = site.admin(organization)
        visitor, page = at_consent(site, slug, subject)
        site.sym.execute("UPDATE users SET type = 'member' WHERE organization_id = %s", organization)
        page = visitor.submit(page, "Allow")
        assert (page.status, page.heading) == (403, REFUSALS["not_an_admin"][0])
        assert site.connection(organization) is None
        assert site.codes_used(organization) == 0
        assert site.events_of(subject)[-1]["detail"] == "not_an_admin"

    def test_an_e_mail_address_opens_nothing(self, site: Site) -> None:
        """A login whose subject is an admin's address is nobody: people are found by the subject alone."""
        organization, slug = site.organization()
        site.admin(organization, email="boss@customer.example")
        site.login.add_person("boss@customer.example", "boss@customer.example")
        _, page = site.visit(f"/orgs/{slug}/vanta", "boss@customer.example")
        assert (page.status, page.heading) == (403, REFUSALS["unknown_person"][0])

    def test_a_slack_identity_opens_nothing(self, site: Site) -> None:
        organization, slug = site.organization()
        site.sym.user(organization, type="admin", identities=[SymRows.slack(external_id=f"U-{slug}")])
        site.login.add_person(f"U-{slug}", f"U-{slug}")
        _, page = site.visit(f"/orgs/{slug}/vanta", f"U-{slug}")
        assert page.status == 403


class TestSlugs:
    def test_a_form_acts_on_the_organization_that_it_was_shown_for(self, site: Site) -> None:
        """A page stays open while one organization is renamed and another one gets its old slug."""
        (first, slug), (second, other) = site.organization(), site.organization()
        subject = site.admin(first, second)
        for at in (slug, other):
            visitor, _ = site.connected(at, subject)
        question = visitor.get(f"{site.url}/orgs/{slug}/vanta?confirm=disconnect")
        site.sym.execute("UPDATE organizations SET slug = %s WHERE id = %s", f"{slug}-before", first)
        site.sym.execute("UPDATE organizations SET slug = %s WHERE id = %s", slug, second)
        page = visitor.submit(question, "Disconnect Vanta")
        assert (page.status, page.heading) == (403, "This form is too old")
        for organization in (first, second):
            connection = site.connection(organization)
            assert connection is not None
            assert connection.state == "connected"

    @pytest.mark.parametrize("odd", ["acme corp", "acmé", "a+b", "a%b", "A.b~c", "a%2Fb"])
    def test_signing_in_leads_back_to_the_page_of_an_odd_slug(self, site: Site, odd: str) -> None:
        """Otherwise somebody who only wanted to look would find themselves at Vanta's consent."""
        organization, slug = site.organization()
        subject = site.admin(organization)
        site.connected(slug, subject)
        renamed = f"{odd} {slug}"
        site.sym.execute("UPDATE organizations SET slug = %s WHERE id = %s", renamed, organization)
        _, page = site.visit(f"/orgs/{quote(renamed, safe='')}/vanta", subject)
        assert (page.status, unquote(page.path)) == (200, f"/orgs/{renamed}/vanta")
        assert RUNNING in page.text

    def test_two_users_of_one_organization_are_one_choice(self, site: Site) -> None:
        organization, _ = site.organization()
        subject = site.admin(organization)
        site.sym.user(organization, type="admin", identities=[site.sym.password(external_id=subject)])
        _, page = site.visit("/vanta/install", subject)
        assert page.url.startswith(site.vanta.url)


class TestVantasAnswer:
    def test_denial_changes_nothing(self, site: Site) -> None:
        organization, slug = site.organization()
        visitor, page = at_consent(site, slug, site.admin(organization))
        page = visitor.submit(page, "Deny")
        assert page.heading == "You did not allow it"
        assert site.connection(organization) is None
        assert site.audit(organization)[-1] == ("consent_failed", "consent was denied")
        page = visitor.get(site.url + page.links["Back to the connection"])
        assert "Not connected" in page.text

    def test_a_denied_reconnect_leaves_the_connection(self, site: Site) -> None:
        organization, slug = site.organization()
        visitor, page = site.connected(slug, site.admin(organization))
        before = site.token(organization)
        visitor.submit(visitor.submit(page, "Reconnect Vanta"), "Deny")
        assert site.token(organization) == before

    def test_an_expired_state_is_refused(self, site: Site) -> None:
        organization, slug = site.organization()
        visitor, page = at_consent(site, slug, site.admin(organization))
        site.ledger.execute("UPDATE consent_requests SET expires_at = now() WHERE organization_id = %s", [organization])
        page = visitor.submit(page, "Allow")
        assert (page.status, page.heading) == (400, "This answer is too old, or belongs to another browser")
        assert site.codes_used(organization) == 0
        page = visitor.get(site.url + page.links["Start again"])
        assert visitor.submit(page, "Allow").status == 200
        assert site.connection(organization) is not None

    def test_another_browser_cannot_use_an_answer(self, site: Site) -> None:
        """A stolen link is of no use to another admin of the same organization, and stays good for its owner."""
        organization, slug = site.organization()
        visitor, page = at_consent(site, slug, site.admin(organization))
        link = answer_of(site, visitor, page)
        thief, _ = site.visit(f"/orgs/{slug}/vanta", site.admin(organization))
        assert thief.get(link).status == 400
        assert Visitor().get(link).status == 400
        assert site.codes_used(organization) == 0
        assert visitor.get(link).status == 200
        assert site.connection(organization) is not None

    @pytest.mark.parametrize("changed", [{"state": "x"}, {"state": ""}, {"state": "a\0b"}, {"state": "é" * 5000}])
    def test_an_invented_state_is_refused(self, site: Site, changed: dict[str, str]) -> None:
        organization, slug = site.organization()
        visitor, page = at_consent(site, slug, site.admin(organization))
        query = query_of(answer_of(site, visitor, page)) | changed
        answer = requests.get(f"{site.url}/vanta/callback", query, cookies=visitor.http.cookies, timeout=60)
        assert answer.status_code == 400
        assert site.codes_used(organization) == 0

    def test_the_back_button_does_no_harm(self, site: Site) -> None:
        organization, slug = site.organization()
        visitor, page = at_consent(site, slug, site.admin(organization))
        link = answer_of(site, visitor, page)
        assert RUNNING in visitor.get(link).text
        assert RUNNING in visitor.get(link).text
        assert site.codes_used(organization) == 1
        connection = site.connection(organization)
        assert connection is not None
        assert connection.generation == 1

    def test_a_double_click_exchanges_once(self, site: Site) -> None:
        organization, slug = site.organization()
        visitor, page = at_consent(site, slug, site.admin(organization))
        link = answer_of(site, visitor, page)
        cookies = dict(visitor.http.cookies)
        with ThreadPoolExecutor(4) as clicks:
            statuses = list(clicks.map(lambda _: requests.get(link, cookies=cookies, timeout=60).status_code, range(4)))
        assert statuses == [200] * 4
        assert site.codes_used(organization) == 1

    def test_a_page_that_is_opened_meanwhile_says_so(self, site: Site) -> None:
        """A callback may wait for a rate slot; whoever loads it again must not be told that nothing is connected."""
        organization, slug = site.organization()
        visitor, page = at_consent(site, slug, site.admin(organization))
        link = answer_of(site, visitor, page)
        with consent_lock(site.env["SYMVANTA_DATABASE_URL"], organization):
            page = visitor.get(f"{site.url}/orgs/{slug}/vanta")
            assert "The connection is being changed" in page.text
            assert 'http-equiv="refresh"' in page.html
            assert "being changed" in visitor.get(link).text
        assert "Not connected" in visitor.get(f"{site.url}/orgs/{slug}/vanta").text

    def test_two_tabs_at_once_both_end_well(self, site: Site) -> None:
        organization, slug = site.organization()
        visitor, first = at_consent(site, slug, site.admin(organization))
        second = visitor.submit(visitor.get(f"{site.url}/orgs/{slug}/vanta"), "Connect Vanta")
        assert RUNNING in visitor.submit(second, "Allow").text
        assert RUNNING in visitor.submit(first, "Allow").text
        connection = site.connection(organization)
        assert connection is not None
        assert connection.generation == 2
        assert site.vanta.token(
            grant_type="refresh_token",
            refresh_token=site.token(organization).refresh_token,  # type: ignore[union-attr]
        ).ok

    def test_signing_in_again_in_another_tab_does_not_lose_the_consent(self, site: Site) -> None:
        """The session's id changes with each sign-in; a consent under way moves along with its person."""
        organization, slug = site.organization()
        subject = site.admin(organization)
        visitor, consent = at_consent(site, slug, subject)
        login = visitor.get(f"{site.url}/auth/login?again")
        site.sign_in(visitor, login, subject)
        assert RUNNING in visitor.submit(consent, "Allow").text

    def test_another_person_in_the_same_browser_loses_it(self, site: Site) -> None:
        organization, slug = site.organization()
        visitor, consent = at_consent(site, slug, site.admin(organization))
        login = visitor.get(f"{site.url}/auth/login?again")
        site.sign_in(visitor, login, site.admin(organization))
        assert visitor.submit(consent, "Allow").status == 400
        assert site.codes_used(organization) == 0

    def test_an_answer_after_signing_out_is_refused(self, site: Site) -> None:
        organization, slug = site.organization()
        visitor, consent = at_consent(site, slug, site.admin(organization))
        visitor.submit(visitor.get(f"{site.url}/orgs/{slug}/vanta"), "Sign out")
        page = visitor.submit(consent, "Allow")
        assert (page.status, page.heading) == (400, "You are not signed in any more")
        assert site.codes_used(organization) == 0

    @pytest.mark.parametrize(
        ("fault", "options", "status"),
        [
            ("status", {"status": 500, "times": 9}, 503),
            ("status", {"status": 401, "body": {"error": "invalid_client"}}, 502),
            ("status", {"status": 400, "body": {"error": "invalid_grant"}}, 400),
            ("html", {"times": 9}, 503),
            ("no_refresh_token", {}, 400),
            ("scope", {"scope": "connectors.self:read-resource"}, 400),
        ],
    )
    def test_trouble_at_vanta_is_told_and_stores_nothing(
        self, site: Site, fault: str, options: dict[str, Any], status: int
    ) -> None:
        organization, slug = site.organization()
        visitor, page = at_consent(site, slug, site.admin(organization))
        site.vanta.fault("token", fault, tenant=str(organization), **options)
        try:
            page = visitor.submit(page, "Allow")
            assert next(f["fired"] for f in site.vanta.faults() if f["tenant"] == str(organization)) >= 1
        finally:
            site.vanta.clear_faults()
        assert page.status == status
        assert site.connection(organization) is None
        assert site.audit(organization)[-1][0] == "consent_failed"
        if fault == "scope":
            assert "connectors.self:write-resource" in page.text

    def test_a_short_outage_at_vanta_is_not_the_persons_trouble(self, site: Site) -> None:
        organization, slug = site.organization()
        visitor, page = at_consent(site, slug, site.admin(organization))
        site.vanta.fault("token", "status", tenant=str(organization), status=503, times=1)
        try:
            assert RUNNING in visitor.submit(page, "Allow").text
            assert [f["fired"] for f in site.vanta.faults() if f["tenant"] == str(organization)] == [1]
        finally:
            site.vanta.clear_faults()


class TestDisconnecting:
    def test_it_asks_first_then_ends_it_here_and_at_vanta(self, site: Site) -> None:
        organization, slug = site.organization()
        visitor, page = site.connected(slug, site.admin(organization))
        before = site.token(organization)
        assert before is not None
        question = visitor.get(site.url + page.links["Disconnect…"])
        assert "Disconnect" in question.heading
        assert site.token(organization) == before  # looking changes nothing
        page = visitor.submit(question, "Disconnect Vanta")
        assert "Disconnected" in page.text
        connection = site.connection(organization)
        assert connection is not None
        assert connection.state == "disconnected"
        assert site.token(organization) is None
        assert slug in partitions(site)
        refused = site.vanta.token(grant_type="refresh_token", refresh_token=before.refresh_token)
        assert refused.status_code == 400
        assert site.audit(organization)[-1] == ("disconnected", None)

    def test_it_is_ended_here_whatever_vanta_answers(self, site: Site) -> None:
        organization, slug = site.organization()
        visitor, page = site.connected(slug, site.admin(organization))
        site.vanta.fault("suspend", "status", tenant=str(organization), status=500)
        try:
            question = visitor.get(site.url + page.links["Disconnect…"])
            page = visitor.submit(question, "Disconnect Vanta")
            assert [f["fired"] for f in site.vanta.faults() if f["tenant"] == str(organization)] == [1]
        finally:
            site.vanta.clear_faults()
        assert site.token(organization) is None
        assert [event for event, _ in site.audit(organization)[-2:]] == ["disconnected", "suspension_failed"]
        assert page.heading == "Disconnected here, and not confirmed by Vanta"
        assert "remove Sym among the integrations in Vanta" in page.text

    def test_it_can_be_connected_again(self, site: Site) -> None:
        organization, slug = site.organization()
        visitor, page = site.connected(slug, site.admin(organization))
        page = visitor.submit(visitor.get(site.url + page.links["Disconnect…"]), "Disconnect Vanta")
        assert "Disconnect…" not in page.links
        page = visitor.submit(visitor.submit(page, "Reconnect Vanta"), "Allow")
        assert RUNNING in page.text
        connection = site.connection(organization)
        assert connection is not None
        assert (connection.state, connection.customer, connection.generation) == ("connected", slug, 2)

    def test_pressing_twice_is_once(self, site: Site) -> None:
        organization, slug = site.organization()
        visitor, page = site.connected(slug, site.admin(organization))
        question = visitor.get(site.url + page.links["Disconnect…"])
        visitor.submit(question, "Disconnect Vanta")
        assert visitor.submit(question, "Disconnect Vanta").status == 200
        assert site.token(organization) is None


def test_no_code_state_or_person_in_any_log(site: Site) -> None:
    """Everything that the app wrote while the tests above ran, and what it writes for requests that it refuses."""
    organization, slug = site.organization()
    subject = site.admin(organization, name="Canary Person", email="canary@customer.example")
    visitor, page = at_consent(site, slug, subject)
    link = answer_of(site, visitor, page)
    Visitor().get(link)
    visitor.get(link)
    written = site.log.read_text()
    assert "GET callback 400" in written  # the log is the right one
    secrets = {**query_of(link), "subject": subject, "name": "Canary", "address": "canary@"}
    assert [name for name, value in secrets.items() if value in written] == []
    assert not re.search(r"v(?:at|rt)_[\w-]{20}|code=|state=", written)
    token = site.token(organization)
    assert token is not None
    assert token.access_token not in written
