"""A real browser for the stand-ins' pages."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext

from tests.support.browsing import PATIENCE


def pytest_configure(config: pytest.Config) -> None:
    """Let the tests start Chromium as those of ``tests/browser`` do."""
    config.pluginmanager.import_plugin("tests.support.browsing")


@pytest.fixture
def person(chromium: Browser) -> Iterator[BrowserContext]:
    """A browser with no cookies yet; its pages are its tabs."""
    context = chromium.new_context()
    context.set_default_timeout(PATIENCE)
    yield context
    context.close()
