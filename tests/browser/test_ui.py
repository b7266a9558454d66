"""Dagster's pages and the stand-in's, in a real browser, as a person sees them."""

import pytest
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG
from playwright.sync_api import Page, expect

from tests.support.browsing import keep
from tests.support.fixtures import Cycle
from tests.support.stack import ASSETS, BY_SLUG, CONNECTED, HELD, SYNC, Stack

pytestmark = [
    pytest.mark.xdist_group("stack"),
    pytest.mark.timeout(600),  # whoever comes first starts everything
    pytest.mark.usefixtures("pushed"),
]


@pytest.fixture(scope="module")
def pushed(stack: Stack, cycle: Cycle) -> None:  # noqa: ARG001 - the daemon has to run
    """A person's run of everybody: unlike a schedule's, it pushes whoever was pushed this hour already."""
    everybody = {ASSET_PARTITION_RANGE_START_TAG: CONNECTED[0], ASSET_PARTITION_RANGE_END_TAG: CONNECTED[-1]}
    stack.ended(stack.launch(jobName="user_account_sync_job", tags=everybody))


def test_the_lineage_shows_the_three_assets_and_who_failed(stack: Stack, tab: Page) -> None:
    tab.goto(f"{stack.webserver.url}/assets/{SYNC}?view=lineage&lineageScope=upstream&lineageDepth=2")
    tab.get_by_text("Hide navigation").click()
    graph = tab.locator("foreignObject")
    for asset in ASSETS:
        expect(graph.get_by_text(asset.split("/")[1], exact=True)).to_be_visible()
    expect(graph.get_by_text("100% filled")).to_be_visible()
    expect(graph.get_by_text("(1 failed)")).to_have_count(2)
    keep(tab, "lineage")


def test_the_partition_page_shows_one_customer_and_the_state_of_all(stack: Stack, tab: Page) -> None:
    customer = BY_SLUG[CONNECTED[-1]]
    tab.goto(f"{stack.webserver.url}/assets/{SYNC}?view=partitions&partition={customer.slug}")
    tab.get_by_text("Hide navigation").click()
    expect(tab.get_by_text("Failed (1)")).to_be_visible()
    for slug in CONNECTED:
        expect(tab.get_by_text(slug, exact=True).first).to_be_visible()
    figures = tab.get_by_role("row").filter(has_text="dagster/row_count")
    expect(figures).to_contain_text(str(customer.size))
    keep(tab, "partitions")


def test_the_partition_page_shows_that_the_held_customer_failed(stack: Stack, tab: Page) -> None:
    tab.goto(f"{stack.webserver.url}/assets/{SYNC}?view=partitions&partition={HELD}")
    expect(tab.get_by_text("failed, and did not materialize this asset")).to_be_visible()


def test_the_access_page_shows_everybody_who_was_sent(stack: Stack, tab: Page) -> None:
    customer = BY_SLUG["harborline"]
    tab.goto(f"{stack.vanta.url}/access/{customer.id}")
    expect(tab.get_by_role("heading", name=customer.name)).to_be_visible()
    expect(tab.get_by_text(f"{customer.size} of {customer.size} accounts")).to_be_visible()
    keep(tab, "access")
