"""Where the code of an asset stands, and which version it is.

Belongs here: which source files decide about which asset. Version and lines are taken from them at loading, so that
nobody has to remember to raise a version. Does not belong here: what an asset is (``assets``, ``external``, ``fleet``).
"""

import warnings
from collections.abc import Iterable, Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final

import dagster as dg

from symvanta_pipeline.defs.columns import FLEET_STATUS
from symvanta_pipeline.sync import ACCOUNTS, SENT, USERS

PACKAGE: Final = Path(__file__).parents[1]
SHOWN: Final = 12  # characters of a version, as of a commit

# Files of the package; whoever changes one of them changes what the asset is.
DECIDED_BY: Final[Mapping[str, tuple[str, ...]]] = {
    USERS: ("sym/users.sql", "sym/source.py", "sym/contract.py", "sym/database.py"),
    ACCOUNTS: ("accounts/*.py", "planning.py"),
    SENT: ("sync.py", "planning.py", "ledger/approvals.py", "accounts/*.py", "vanta/*.py"),
    FLEET_STATUS: ("defs/fleet.py", "ledger/status.py", "ledger/alerts.py", "ledger/snapshots.py"),
}


@cache
def code_version(asset: str) -> str:
    """Return a short hash over the text of the files that decide about an asset."""
    return version_of(PACKAGE, DECIDED_BY[asset])


def version_of(folder: Path, patterns: Iterable[str]) -> str:
    """Return a short hash over the text of files: it changes when they do, and only then.

    Raises:
        FileNotFoundError: a pattern matches none.
    """
    digest = sha256()
    for file in _files(folder, patterns):
        text = file.read_bytes().replace(b"\r\n", b"\n")
        digest.update(f"{file.relative_to(folder).as_posix()} {len(text)}\n".encode() + text)
    return digest.hexdigest()[:SHOWN]


def code_references(*places: tuple[str, str]) -> dg.CodeReferencesMetadataValue:
    """Return links to source lines.

    Args:
        places: a file in the package, and how the line begins.
    """
    with warnings.catch_warnings():
        # Code references are beta in Dagster 1.13, hence the tight bound on its version.
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.CodeReferencesMetadataValue(code_references=[_reference(*place) for place in places])


def _files(folder: Path, patterns: Iterable[str]) -> list[Path]:
    found = {pattern: list(folder.glob(pattern)) for pattern in patterns}
    if missing := [pattern for pattern, files in found.items() if not files]:
        raise FileNotFoundError(f"no source file matches {', '.join(missing)}")
    return sorted({file for files in found.values() for file in files})


def _reference(file: str, begins: str) -> dg.LocalFileCodeReference:
    lines = (PACKAGE / file).read_text(encoding="utf-8").splitlines()
    number = next(number for number, line in enumerate(lines, start=1) if line.startswith(begins))
    return dg.LocalFileCodeReference(file_path=str(PACKAGE / file), line_number=number, label=f"{file}: {begins}")
