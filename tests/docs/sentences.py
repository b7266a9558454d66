"""Every sentence in which the code tells of a failure, as it stands there, and those that a page explains.

Belongs here: collecting both. Does not belong here: what is missing (``test_runbook``).
"""

import ast
import importlib
import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import requests

from symvanta_pipeline.vanta import errors

# In the place of what a sentence is formatted with.
GAP = "\0"
# Where failures are worded that an operator reads; pages of the connect app are for the customer's admin.
MODULES = (
    "cli", "connect.consent", "connect.server", "connect.terminal", "dagster_instance", "defs.assets",
    "doctor.examination", "ledger.approvals", "ledger.connections", "ledger.database", "ledger.locks",
    "ledger.snapshots", "ledger.vault", "review", "sym.database", "sym.source", "sync", "token_store", "vanta.budget",
    "vanta.client", "vanta.errors", "vanta.oauth", "vanta.session",
)  # fmt: skip
# Variables in which those modules word a failure before they raise it, and functions that return one.
WORDED_IN = frozenset({"sentence"})
RETURNED_BY = frozenset({"_not_connected", "_useless"})
# Not an operator's: what a caller did wrong, or another module catches and words by itself.
INTERNAL = {"AssertionError", "RuntimeError", "ValueError", "UsageError", "BadParameter"}
# Said with each status; `of_answers` has what comes of that.
BY_STATUS = f"Vanta refused the request ({GAP})"


def of_code() -> set[str]:
    """Return every failure's sentence, with `GAP` for whatever is formatted into it."""
    found = {sentence for name in MODULES for sentence in of_module(name)}
    return {sentence for sentence in found if not sentence.startswith(BY_STATUS)} | of_answers()


def of_module(name: str) -> Iterator[str]:
    module = importlib.import_module(f"symvanta_pipeline.{name}")
    assert module.__file__
    yield from of_source(Path(module.__file__).read_text())


@cache
def failures() -> frozenset[str]:
    """Return the names of this project's exceptions, and of what a run's failures are put into."""
    modules = [importlib.import_module(f"symvanta_pipeline.{name}") for name in MODULES]
    found = {value for module in modules for value in vars(module).values() if isinstance(value, type)}
    return frozenset(t.__name__ for t in found if issubclass(t, Exception) or t.__name__ == "Failure") - INTERNAL


def of_source(text: str) -> Iterator[str]:
    """Yield the sentences of a module's text."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case (
                ast.Call(func=ast.Name(id=name), args=arguments)
                | ast.Call(func=ast.Attribute(attr=name), args=arguments)
            ) if name in failures():
                yield from texts(arguments)
            case ast.Call(func=ast.Attribute(attr="__init__"), args=arguments):
                yield from texts(arguments)
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if name in WORDED_IN:
                yield from texts([value])
            case ast.FunctionDef(name=name) if name in RETURNED_BY:
                returned = [inner.value for inner in ast.walk(node) if isinstance(inner, ast.Return) and inner.value]
                yield from texts(returned)


def of_answers() -> set[str]:
    """Return what becomes of every status that Vanta's two endpoints may answer with."""
    said = set()
    for status in range(300, 600):
        response = requests.Response()
        response.status_code = status
        response._content = json.dumps({"error": "resources[3].email is not valid"}).encode()
        for check in (errors.check_resource_reply, errors.check_token_reply):
            try:
                check(response)
            except errors.VantaError as error:
                said.add(str(error))
    return said


def explained(text: str) -> list[str]:
    """Return the sentences that a page quotes: in the first column of its tables, or by themselves on a line."""
    cells = re.findall(r"^\| (.*?) (?<!\\)\|", text, re.MULTILINE)
    alone = re.findall(r"^`[^`]+`(?=$|: )", text, re.MULTILINE)
    quoted = [phrase for cell in (*cells, *alone) for phrase in re.findall(r"`([^`]+)`", cell)]
    return [phrase for phrase in quoted if " " in phrase and len(WORD.findall(phrase)) >= FEWEST_WORDS]


WORD, FEWEST_WORDS = re.compile("[A-Za-z]{2,}"), 2
_LEFT_OPEN = re.compile(
    r"\.\.\.|\b(?:H:MM:SS|FILE:LINE|[FHMN]|SLUG|STATE|SETTING|SCOPE|KIND|RULE|NAME|COLUMN|COUNT|TEXT)\b"
)


def pattern(phrase: str) -> "re.Pattern[str]":
    """Return what a quoted sentence stands for; what it leaves open may be anything."""
    literal = [re.escape(piece) for piece in _LEFT_OPEN.split(phrase)]
    return re.compile(".*".join(literal), re.DOTALL)


def texts(nodes: Iterable[ast.expr]) -> Iterator[str]:
    """Yield the literals that hold words, with `GAP` for what is formatted into them."""
    for node in nodes:
        match node:
            case ast.Constant(value=str(text)) if " " in text:
                yield text
            case ast.JoinedStr(values=values):
                text = "".join(str(v.value) if isinstance(v, ast.Constant) else GAP for v in values)
                if re.search("[a-z]", text):
                    yield text
            case ast.BinOp(left=left, op=ast.Add()):
                yield from texts([left])
            case ast.IfExp(body=body, orelse=otherwise):
                yield from texts([body, otherwise])
