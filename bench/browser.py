"""Opening a page of Dagster's UI in a real Chromium, with a clock.

Belongs here: when a page shows what it is for, and what it asked the webserver for. Does not belong here: which pages.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Error, Locator, Page, Request, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ["--disable-dev-shm-usage", "--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
PATIENCE = 180_000.0  # milliseconds
QUIET = 1.0  # seconds without a request under way after which a page has all that it asks for at first
LONGEST = 60.0  # seconds; some pages ask again and again


class NoBrowser(Exception):
    """There is no Chromium to open a page with; the text says what to do."""


@dataclass(frozen=True)
class Asked:
    """One query that a page sent.

    Attributes:
        name: of the operation.
        seconds: from sending it to the last byte of the answer.
        size: of the answer, in bytes, before compression.
    """

    name: str
    seconds: float
    size: int


@dataclass(frozen=True)
class Visit:
    """What opening a page took.

    Attributes:
        shown: seconds until it shows what it is for.
        settled: seconds until it has the answer to everything that it asks for at first.
        queries: those that it sent until it was quiet.
    """

    shown: float
    settled: float
    queries: tuple[Asked, ...]

    @property
    def slowest(self) -> Asked:
        """The query that took longest."""
        return max(self.queries, key=lambda asked: asked.seconds)

    @property
    def size(self) -> int:
        """Bytes of all answers."""
        return sum(asked.size for asked in self.queries)


@contextmanager
def browser() -> Iterator[Browser]:
    """Start Chromium.

    Raises:
        NoBrowser: there is none, or it does not start.
    """
    if not CHROMIUM.exists():
        raise NoBrowser(f"there is no {CHROMIUM}: apt-get install chromium")
    with sync_playwright() as playwright:
        try:
            opened = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        except Error as error:
            raise NoBrowser(f"{CHROMIUM} does not start here: {error.message.splitlines()[0]}") from None
        yield opened
        opened.close()


@contextmanager
def window(opened: Browser, url: str) -> Iterator[Page]:
    """Open a tab that has the UI's own files in its cache, as a person's has after the first page."""
    context = opened.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(PATIENCE)
    tab = context.new_page()
    tab.goto(f"{url}/config-editor", wait_until="networkidle")
    yield tab
    context.close()


def visit(tab: Page, url: str, shows: Callable[[Page], Locator]) -> Visit:
    """Open a page by its address and wait until it shows something, then until it has asked for everything."""
    traffic = _Traffic()
    tab.goto("about:blank")
    with traffic.watched(tab):
        began = time.monotonic()
        tab.goto(url, wait_until="commit")
        shows(tab).first.wait_for()
        shown = time.monotonic() - began
        while not traffic.is_over() and time.monotonic() - began < LONGEST:
            tab.wait_for_timeout(50)
    queries = tuple(_asked(request) for request in traffic.ended if "/graphql" in request.url)
    return Visit(shown, max(shown, traffic.latest - began), queries)


class _Traffic:
    """Requests of a tab, under way and ended."""

    def __init__(self) -> None:
        self.ended: list[Request] = []
        self.latest = time.monotonic()
        self._under_way: set[Request] = set()

    @contextmanager
    def watched(self, tab: Page) -> Iterator[None]:
        events: tuple[tuple[Any, Callable[[Request], None]], ...] = (
            ("request", self._began),
            ("requestfinished", self._ended),
            ("requestfailed", self._failed),
        )
        for event, note in events:
            tab.on(event, note)
        yield
        for event, note in events:
            tab.remove_listener(event, note)

    def is_over(self) -> bool:
        return not self._under_way and time.monotonic() - self.latest > QUIET

    def _began(self, request: Request) -> None:
        self._under_way.add(request)

    def _ended(self, request: Request) -> None:
        self.ended.append(request)
        self._failed(request)

    def _failed(self, request: Request) -> None:
        self._under_way.discard(request)
        self.latest = time.monotonic()


def _asked(request: Request) -> Asked:
    posted = request.post_data_json or {}
    answer = request.response()
    size = len(answer.body()) if answer else 0
    return Asked(str(posted.get("operationName")), request.timing["responseEnd"] / 1000, size)
