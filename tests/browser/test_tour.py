"""A data engineer's way through Dagster's UI after a day of hourly cycles: what each page has to show.

One customer is held by a brake, one by a rule, the others are well.
"""

from collections.abc import Sequence
from typing import Any

import dagster as dg
import pytest
from dagster._core.storage.tags import BACKFILL_ID_TAG
from playwright.sync_api import Locator, Page, Response, expect

from tests.support.browsing import keep
from tests.support.day import HEALTHY, LEAKS, Day
from tests.support.stack import ASSETS, BY_SLUG, CONNECTED, HELD, SYNC, until

pytestmark = [
    pytest.mark.timeout(900),  # whoever comes first lives through the day
]

FLEET = "ops/fleet_status"
ACCOUNTS = ASSETS[1]
LOST = "no_customer_loses_more_than_a_fifth_of_its_active_users_unseen"
LATE = "every_connected_customer_was_accepted_within_90_minutes"
PERSON = "nobody_waits_for_a_person"
BACKFILLED = ("harborline", "paper-crane")  # no neighbours, and not in the order of the partitions


class Dagster:
    """A window on Dagster's UI."""

    def __init__(self, day: Day, tab: Page) -> None:
        self.url, self.tab = day.stack.webserver.url, tab
        self.answers: list[Response] = []
        self.is_wide = False
        tab.on("response", self._heard)

    def open(self, path: str) -> Page:
        self.tab.goto(f"{self.url}/{path}")
        if not self.is_wide:
            self.tab.get_by_text("Hide navigation").click()
            self.is_wide = True  # the UI remembers it
        return self.tab

    def asked(self, operation: str) -> dict[str, Any]:
        """Return the latest answer to one of the UI's own queries."""
        [*_, latest] = [r for r in self.answers if f'"operationName":"{operation}"' in (r.request.post_data or "")]
        data: dict[str, Any] = latest.json()["data"]
        return data

    def _heard(self, response: Response) -> None:
        if "/graphql" in response.url and response.request.method == "POST":
            self.answers.append(response)


@pytest.fixture
def dagster(day: Day, tab: Page) -> Dagster:
    return Dagster(day, tab)


def figure(page: Page, name: str) -> Locator:
    """Find the value of an entry of metadata."""
    return page.get_by_role("row").filter(has=page.get_by_text(name, exact=True)).get_by_role("cell").nth(1)


def test_the_lineage_leads_from_syms_tables_to_vantas_access_page(dagster: Dagster) -> None:
    page = dagster.open(f"assets/{SYNC}?view=lineage&lineageScope=neighbors&lineageDepth=3")
    graph = page.locator("foreignObject")
    expect(graph.get_by_text("users", exact=True)).to_have_count(2)  # Sym's table, and what was read of it
    for asset in ("organizations", "identities", "user_accounts", "user_account_sync", "access_page", "fleet_status"):
        expect(graph.get_by_text(asset, exact=True)).to_be_visible()
    for group in ("sym", "vanta", "ops"):
        expect(graph.get_by_text(group, exact=True).first).to_be_visible()
    keep(page, "lineage")


def test_the_asset_page_explains_itself(dagster: Dagster) -> None:
    page = dagster.open(f"assets/{SYNC}?view=overview")
    expect(page.get_by_text("one PUT replaces everything that it knew of the customer")).to_be_visible()
    for shown in ("data-engineering", "system: vanta", "contains-personal-data: yes", "user_account_sync_job"):
        expect(page.get_by_text(shown).first).to_be_visible()
    level = page.get_by_role("row").filter(has=page.get_by_text("permissionLevel", exact=True)).first
    expect(level).to_contain_text("non-nullable")
    expect(page.get_by_text("Freshness policy").first).to_be_visible()
    keep(page, "asset")


def test_from_the_red_asset_to_each_customers_sentence_is_one_click(dagster: Dagster) -> None:
    page = dagster.open(f"assets/{FLEET}")
    page.get_by_role("tab", name="Checks").or_(page.get_by_role("link", name="Checks")).first.click()
    expect(page.get_by_text(f"{HELD}: held since").first).to_be_visible()
    page.get_by_text(PERSON, exact=True).locator("visible=true").first.click()
    told = page.get_by_text(f"{LEAKS}: held since")
    expect(told).to_contain_text("held by lost")
    expect(told).to_contain_text(f"symvanta plan {LEAKS}")
    expect(told).to_contain_text(f"symvanta approve {LEAKS} --hash")
    keep(page, "fleet")


def test_the_partition_page_of_a_healthy_customer_has_its_figures(day: Day, dagster: Dagster) -> None:
    page = dagster.open(f"assets/{SYNC}?view=partitions&partition={HEALTHY}")
    expect(page.get_by_text("Failed (2)")).to_be_visible()
    for slug in CONNECTED:
        expect(page.get_by_text(slug, exact=True).first).to_be_visible()
    at_vanta = day.stack.vanta.accounts(str(BY_SLUG[HEALTHY].id))
    gone = [account for account in at_vanta if account["status"] == "DEACTIVATED"]
    assert 0 < len(gone) < len(at_vanta)
    expect(figure(page, "dagster/row_count")).to_have_text(str(len(at_vanta)))
    expect(figure(page, "status DEACTIVATED")).to_have_text(str(len(gone)))
    keep(page, "partitions")


def test_the_partition_page_of_a_held_customer_says_why_and_what_to_do(dagster: Dagster) -> None:
    page = dagster.open(f"assets/{SYNC}?view=partitions&partition={LEAKS}")
    expect(page.get_by_text("failed, and did not materialize this asset")).to_be_visible()
    page = dagster.open(f"assets/{ACCOUNTS}?view=partitions&partition={LEAKS}")
    expect(figure(page, "held_by")).to_contain_text("lost")
    told = figure(page, "what_to_do")
    expect(told).to_contain_text("limit 20 % and 5")
    told.scroll_into_view_if_needed()
    keep(page, "held")


def test_a_brake_that_holds_shows_as_a_failed_check_of_that_customer_alone(dagster: Dagster) -> None:
    page = dagster.open(f"assets/{ACCOUNTS}?view=checks&checkDetail={LOST}")
    expect(page.get_by_text("at the last push are not any more")).to_be_visible()
    page.get_by_role("tab", name="Partitions").or_(page.get_by_role("link", name="Partitions")).last.click()
    # Of the one whose rows break a rule nothing was sent, so that nobody was lost.
    for count in ("Failed (1)", f"Passed ({len(CONNECTED) - 1})", "Execution Failed (0)", "Missing (0)"):
        expect(page.get_by_text(count, exact=True)).to_be_visible()
    page.get_by_text(LEAKS, exact=True).locator("visible=true").first.click()
    expect(figure(page, "detail")).to_contain_text("would no longer be active")
    keep(page, "checks")


def test_vantas_access_page_shows_everybody_who_was_sent(day: Day, tab: Page) -> None:
    customer = BY_SLUG["harborline"]
    sent = len(day.stack.vanta.accounts(str(customer.id)))
    tab.goto(f"{day.stack.vanta.url}/access/{customer.id}")
    expect(tab.get_by_role("heading", name=customer.name)).to_be_visible()
    expect(tab.get_by_text(f"{sent} of {sent} accounts")).to_be_visible()


def test_a_day_of_figures_is_plotted(day: Day, dagster: Dagster) -> None:
    page = dagster.open(f"assets/{FLEET}?view=overview")
    page.get_by_role("button", name="Plots").click()
    for plot in ("departure_minutes_longest", "state held", "departures"):
        expect(page.get_by_text(plot, exact=True).first).to_be_visible()
    assert page.locator("canvas").count() >= 10
    longest = points(dagster.asked("RecentAssetEventsQuery"), "departure_minutes_longest")
    assert len(longest) >= len(day.hours) > 24
    assert max(longest) > min(longest)
    page.get_by_text("departure_minutes_longest", exact=True).scroll_into_view_if_needed()
    keep(page, "plots")


def points(answer: dict[str, Any], plot: str) -> Sequence[float]:
    """List the values of one plot that a page got, whatever the shape of the answer around them."""
    found: list[float] = []

    def walk(node: object) -> None:
        if isinstance(node, dict):
            if node.get("label") == plot:
                found.append(next(node[key] for key in ("floatValue", "intValue") if node.get(key) is not None))
            for child in node.values():
                walk(child)
        elif isinstance(node, list):
            for child in node:
                walk(child)

    walk(answer)
    return found


def test_a_backfill_of_chosen_customers_is_a_few_clicks_and_releases_no_brake(day: Day, dagster: Dagster) -> None:
    before = day.stack.latest_request()
    page = dagster.open(f"assets/{SYNC}?view=lineage&lineageScope=upstream&lineageDepth=2")
    page.get_by_role("button", name="Materialize all").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("Select a partition or create one").click()
    for customer in (*BACKFILLED, LEAKS):
        page.get_by_role("menuitem").filter(has_text=customer).click()
    page.keyboard.press("Escape")
    expect(dialog.get_by_text("3 partitions")).to_be_visible()
    keep(page, "backfill")
    dialog.get_by_role("button", name="Launch backfill").click()

    def pushed() -> list[str]:
        return sorted(put["slug"] for put in day.stack.puts(since=before))

    def runs() -> list[dg.DagsterRun]:
        return [run for run in day.stack.instance.get_runs(limit=20) if BACKFILL_ID_TAG in run.tags]

    def of_the_held() -> list[dg.DagsterRun]:
        return [run for run in runs() if LEAKS in run.tags.values()]

    until(lambda: pushed() == sorted(BACKFILLED), "the pushes of the backfill")
    [held] = until(of_the_held, "the run of who is held")
    assert day.stack.ended(held.run_id).status is dg.DagsterRunStatus.FAILURE
    day.stack.settle()
    assert pushed() == sorted(BACKFILLED)
    assert {key for run in runs() for key in day.stack.materialized_by(run.run_id, SYNC)} == set(BACKFILLED)
