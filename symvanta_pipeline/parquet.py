"""What was read and what was sent, as one Parquet file per asset and customer, for people to look at.

Belongs here: where such a file lies and how it is written. Does not belong here: reading one back; nothing is
ever pushed from a file, since stale state must not be pushable.
"""

import os
from pathlib import Path

import pandas as pd
from upath import UPath

LOCAL = ("", "file")  # protocols of this machine's own files
OWNER_ONLY = 0o600
OWNER_ONLY_FOLDER = 0o700


def write(data_url: str, asset: str, organization_id: str, frame: pd.DataFrame) -> str:
    """Write one frame over the one before, readable by its owner alone, and return where it lies.

    Args:
        data_url: ``SYMVANTA_DATA_URL``, a folder or an object-store URL.
        asset: the asset's path, e.g. ``sym/users``.
        organization_id: names the file: an id is safe in a path, a slug need not be.
        frame: any frame that Parquet can hold.

    Raises:
        OSError: the file cannot be written.
    """
    target = UPath(data_url) / asset / f"{organization_id}.parquet"
    content = frame.to_parquet(index=False)
    if target.protocol in LOCAL:
        _write_local(Path(target.path), content)
    else:
        target.write_bytes(content)
    return str(target)


def _write_local(target: Path, content: bytes) -> None:
    _make_folder(target.parent)
    partial = target.with_suffix(f".{os.getpid()}.partial")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, OWNER_ONLY), "wb") as file:
            file.write(content)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    """Make it and the folders above it that are missing, for their owner alone: ``parents`` would leave those open."""
    if not folder.exists():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True, mode=OWNER_ONLY_FOLDER)
