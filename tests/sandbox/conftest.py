"""A real browser for the stand-ins' pages."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, BrowserType, Error

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ["--disable-dev-shm-usage", "--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
PATIENCE = 60_000.0  # milliseconds


@pytest.fixture(scope="module")
def chromium(browser_type: BrowserType) -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}: apt-get install chromium")
    try:
        browser = browser_type.launch(executable_path=CHROMIUM, args=ARGUMENTS)
    except Error as error:
        pytest.skip(f"{CHROMIUM} does not start here: {error.message.splitlines()[0]}")
    yield browser
    browser.close()


@pytest.fixture
def person(chromium: Browser) -> Iterator[BrowserContext]:
    """A browser with no cookies yet; its pages are its tabs."""
    context = chromium.new_context()
    context.set_default_timeout(PATIENCE)
    yield context
    context.close()
