"""Every `symvanta ...` that a page tells somebody to type is one of the commands, with its options."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from symvanta_pipeline.cli import main
from tests.support.docs import blocks, commands, pages

INLINE = re.compile(r"`(symvanta [^`\n]+)`")
# Not commands: a database's name, a logger's, a sentence that quotes the program's own output.
SENTENCES = ("symvanta: ",)


def typed(text: str, page: Path | None = None) -> Iterator[str]:
    """Yield the commands in a page's text, and in its console blocks."""
    yield from (line for line in INLINE.findall(text) if not line.startswith(SENTENCES))
    for line in commands(page) if page else ():
        yield from re.findall(r"(?:^|[^\w/-])(symvanta (?!&).+?)(?: &)?$", line)


def trouble_of(line: str) -> str | None:
    """Say what is wrong with a command, None where click takes it; nothing is run."""
    words = shlex.split(line)[1:]
    command: click.Command = main
    context = click.Context(main)
    while isinstance(command, click.Group) and words:
        name = words.pop(0)
        found = command.get_command(context, name)
        if found is None:
            return f"no such command: {name}"
        command = found
    try:
        command.make_context(command.name, [_real(word) for word in words], resilient_parsing=False)
    except click.exceptions.Exit:
        return None  # --help
    except click.MissingParameter as error:
        # `symvanta plan` alone names the command.
        return None if not words else str(error)
    except click.UsageError as error:
        return str(error)
    return None


def _real(word: str) -> str:
    """Put something in the place of what a page leaves open."""
    return {"H": "3f8a91c2", "HASH": "3f8a91c2"}.get(word, word)


@pytest.mark.parametrize("file", pages(), ids=lambda file: file.name)
def test_every_command_is_one(file: Path) -> None:
    told = {line: trouble for line in typed(file.read_text(), file) if (trouble := trouble_of(line))}
    assert told == {}


def test_there_are_many() -> None:
    assert sum(len(list(typed(page.read_text(), page))) for page in pages()) > 60


@pytest.mark.parametrize(
    "line",
    [
        "symvanta heal",
        "symvanta keys renew",
        "symvanta plan SLUG --against-sym",
        "symvanta approve SLUG",
        "symvanta approve SLUG --hash xyz --reason TEXT",
        "symvanta customers SLUG",
        "symvanta connect SLUG --port many",
    ],
)
def test_one_that_is_none_is_found(line: str) -> None:
    assert [trouble_of(found) is not None for found in typed(f"type `{line}` now")] == [True]


def test_every_command_is_told_of_in_the_readme() -> None:
    [readme] = [page for page in pages() if page.name == "README.md"]
    told = {shlex.split(line)[1] for line in typed(readme.read_text())}
    assert told >= set(main.commands)


def test_blocks_are_found_where_they_are_indented(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("1. so\n\n   ```console\n   $ symvanta heal\n   ```\n")
    assert (blocks(page, "console"), list(typed("", page))) == (["$ symvanta heal\n"], ["symvanta heal"])
