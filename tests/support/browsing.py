"""A real browser, and what it reports while somebody uses it: a pytest plugin.

Belongs here: starting Chromium, windows that are watched, screenshots. Does not belong here: any page, any expectation
of one.

With ``SCREENSHOTS`` set to a folder, what was seen is kept there as PNG.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, BrowserType, ConsoleMessage, Error, Page, Response, expect

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ["--disable-dev-shm-usage", "--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
PATIENCE = 60_000.0  # milliseconds
SETTLED = 2_000.0  # milliseconds for what glides into its place


@dataclass
class Window:
    """A browser with cookies of its own, and what it reported.

    Attributes:
        errors: what it complained about in its console, violations of a page's policy included.
        pages: address and status of every page that it got, oldest first.
        origins: everybody whom it asked for anything.
    """

    context: BrowserContext
    errors: list[str] = field(default_factory=list)
    pages: list[tuple[str, int]] = field(default_factory=list)
    origins: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.context.set_default_timeout(PATIENCE)
        self.context.on("console", self._heard)
        self.context.on("weberror", lambda error: self.errors.append(error.error.message))
        self.context.on("request", lambda request: self.origins.add(_origin(request.url)))
        self.context.on("response", self._got)

    def tab(self) -> Page:
        return self.context.new_page()

    def status(self) -> int:
        """Return the status of the latest page that was no redirect."""
        return [status for _, status in self.pages if status not in range(300, 400)][-1]

    def _got(self, response: Response) -> None:
        if response.request.is_navigation_request():
            self.pages.append((response.url, response.status))

    def _heard(self, message: ConsoleMessage) -> None:
        # Chromium also reports a page that is told to be a refusal; what a page loads has to be there.
        refused = {url for url, status in self.pages if status >= 400}
        if message.type == "error" and message.location["url"] not in refused:
            self.errors.append(message.text)


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


@pytest.fixture(scope="module")
def chromium(browser_type: BrowserType) -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}: apt-get install chromium")
    try:
        browser = browser_type.launch(executable_path=CHROMIUM, args=ARGUMENTS)
    except Error as error:
        pytest.skip(f"{CHROMIUM} does not start here: {error.message.splitlines()[0]}")
    expect.set_options(timeout=PATIENCE)
    yield browser
    browser.close()


@pytest.fixture
def tab(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(PATIENCE)
    yield context.new_page()
    context.close()


@pytest.fixture
def window(chromium: Browser) -> Iterator[Callable[..., Window]]:
    """Opens windows, with Playwright's options for a context."""
    opened: list[BrowserContext] = []

    def open_window(**options: Any) -> Window:
        opened.append(chromium.new_context(**({"viewport": {"width": 1000, "height": 640}} | options)))
        return Window(opened[-1])

    yield open_window
    for context in opened:
        context.close()


def keep(tab: Page, name: str) -> None:
    """Save a screenshot where somebody asked for them."""
    if folder := os.environ.get("SCREENSHOTS"):
        tab.wait_for_timeout(SETTLED)
        tab.screenshot(path=Path(folder) / f"{name}.png")
