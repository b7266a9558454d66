"""What the docs say, taken apart: fenced blocks and the commands in them.

Belongs here: reading. Does not belong here: any expectation.
"""

import re
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
DOCS = CHECKOUT / "docs"
PRODUCTION = DOCS / "production.md"

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language, in their order."""
    found = _FENCE.findall(page.read_text())
    return [re.sub(f"^{indent}", "", text, flags=re.MULTILINE) for indent, name, text in found if name == language]


def commands(page: Path) -> Iterator[str]:
    """Yield what a page's console blocks type behind the prompt, without what a shell's comment says."""
    for block in blocks(page, "console"):
        for line in block.splitlines():
            if line.startswith("$ "):
                yield line[2:].partition("  #")[0].strip()


def command(page: Path, program: str) -> str:
    """Return the page's one command of a program."""
    [found] = [line for line in commands(page) if line.split()[0] == program]
    return found


def section(text: str, heading: str) -> str:
    """Return what stands below a heading, up to the next one of its level or above."""
    found = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#{{1,6}} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[2]


def rows(text: str) -> list[list[str]]:
    """Return the cells of every row of every table, headings left out."""
    found: list[list[str]] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
        if _is_rule(cells):
            found.pop()  # what stands above it are headings
        elif line.lstrip().startswith("|"):
            found.append(cells)
    return found


def _is_rule(cells: list[str]) -> bool:
    return bool(cells) and all(re.fullmatch(":?-+:?", cell) for cell in cells)


def pages() -> list[Path]:
    """Return every page of the project."""
    return [CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
