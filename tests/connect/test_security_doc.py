"""The review of the connect app's security names a test for each point, and each of them exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REVIEW = ROOT / "docs/security.md"
NAME = re.compile(r"(?:tests/\w+/)?test_\w+\.py(?:::\w+){0,2}")


def rows() -> list[tuple[str, list[str]]]:
    """Return each point of the review, with whatever stands as code in its column of tests."""
    _, _, review = REVIEW.read_text().partition("## The review")
    review, _, _ = review.partition("## Not defended")
    cells = [line.strip("| ").split(" | ") for line in review.splitlines() if line.startswith("| ")]
    return [(row[0], re.findall(r"`([^`]+)`", row[-1])) for row in cells if row[0] != "point"]


def names_in(path: Path) -> set[str]:
    """Return every class and test of a module, as they are named behind its path."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            found |= {node.name, *(f"{node.name}::{of.name}" for of in node.body if isinstance(of, ast.FunctionDef))}
        elif isinstance(node, ast.FunctionDef):
            found.add(node.name)
    return found


def test_the_review_is_read() -> None:
    assert len(rows()) > 25
    assert (
        "half a request presses no button",
        ["test_security.py::TestOddRequests::test_half_a_body_is_none"],
    ) in rows()


@pytest.mark.parametrize(("point", "tests"), rows(), ids=[point for point, _ in rows()])
def test_each_point_is_proven_by_tests_that_exist(point: str, tests: list[str]) -> None:
    assert tests, f"nothing proves: {point}"
    for test in tests:
        assert NAME.fullmatch(test), test
        file, _, name = test.partition("::")
        path = ROOT / (file if "/" in file else f"tests/connect/{file}")
        assert path.is_file(), test
        assert not name or name in names_in(path), test
