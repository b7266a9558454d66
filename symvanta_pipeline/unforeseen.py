"""What may be said of an error: this project's own have texts for people; another's text may quote anybody.

Belongs here: telling them apart, and where one was that nobody foresaw. Does not
belong here: what is done about such an error.
"""

import traceback
from pathlib import Path


def is_own(error: BaseException) -> bool:
    """Tell whether an error is of this project's own kinds, whose texts are safe to show."""
    return type(error).__module__.startswith("symvanta_pipeline.")


def place_of(error: BaseException) -> str:
    """Return file and line of the innermost frame, without the file's folder."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "an unknown place"
