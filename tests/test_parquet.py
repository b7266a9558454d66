"""What was read and sent lies where its owner alone can read it."""

import stat
from pathlib import Path

import pandas as pd

from symvanta_pipeline import parquet


def test_every_folder_that_it_makes_is_the_owners_alone_and_others_stay(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    data = tmp_path / "var" / "data"
    file = Path(parquet.write(str(data), "sym/users", "an-id", pd.DataFrame({"a": [1]})))
    made = [folder for folder in file.parents if tmp_path in folder.parents]
    assert {folder.name: stat.S_IMODE(folder.stat().st_mode) for folder in made} == dict.fromkeys(
        ("users", "sym", "data", "var"), 0o700
    )
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
