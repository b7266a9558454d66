"""Every relative link, picture and anchor of the pages leads somewhere."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from symvanta_pipeline.alerts.messages import RUNBOOK
from tests.support.docs import DOCS, pages

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"^ *```.*?^ *```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """Return what GitHub makes of the headings."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead(page: Path, text: str) -> Iterator[str]:
    """Yield the page's links that lead nowhere."""
    for link in LINK.findall(CODE.sub("", text)):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if re.match("[a-z]+:", link):
            continue
        if not target.exists() or (anchor and anchor not in anchors(text if target == page else target.read_text())):
            yield link


@pytest.mark.parametrize("file", pages(), ids=lambda file: file.name)
def test_every_link_leads_somewhere(file: Path) -> None:
    assert list(dead(file, file.read_text())) == []


@pytest.mark.parametrize(
    "link", ["no-such.md", "no-such.png", "../no-such/", "runbook.md#no-such-heading", "#no-such-heading"]
)
def test_one_that_leads_nowhere_is_found(link: str) -> None:
    assert list(dead(DOCS / "alerts.md", f"# A page\nsee [this]({link}) and [that](#a-page)")) == [link]


def test_alerts_lead_to_headings_of_the_runbook() -> None:
    assert set(RUNBOOK.values()) - anchors((DOCS / "runbook.md").read_text()) == set()
