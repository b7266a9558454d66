"""What may be said of an error that nobody foresaw: where it was, and never its text, which may quote anybody.

Belongs here: that. Does not belong here: what is done about such an error.
"""

import traceback
from pathlib import Path


def place_of(error: BaseException) -> str:
    """Return file and line of the innermost frame, without the file's folder."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "an unknown place"
