"""CONTRIBUTING.md's table has every folder and module, once, and no other."""

import re
from pathlib import Path

from tests.support.docs import CHECKOUT, rows, section

PACKAGE = CHECKOUT / "symvanta_pipeline"


def told(text: str) -> list[str]:
    return [name for first, *_ in rows(section(text, "Where things are")) for name in re.findall("`([^`]+)`", first)]


def there(package: Path) -> list[str]:
    modules = [file.name for file in package.glob("*.py") if file.name != "__init__.py"]
    return modules + [f"{folder.name}/" for folder in package.iterdir() if (folder / "__init__.py").exists()]


def test_every_part_has_its_line() -> None:
    text = (CHECKOUT / "CONTRIBUTING.md").read_text()
    assert sorted(told(text)) == sorted(there(PACKAGE))


def test_a_new_part_is_found(tmp_path: Path) -> None:
    (tmp_path / "new_part").mkdir()
    for file in ("new_part/__init__.py", "novelty.py"):
        (tmp_path / file).touch()
    text = (CHECKOUT / "CONTRIBUTING.md").read_text()
    assert set(there(tmp_path)) - set(told(text)) == {"new_part/", "novelty.py"}
