"""Sees to it that the embedded PostgreSQL does not outlive the process that uses it, even one that is killed.

Belongs here: a second user of the server, which stays until the first has gone. Does not belong here: how the last
user ends the server (``postgres``).

Run as ``python -m symvanta_pipeline.sandbox.postgres_guard FOLDER`` it joins the folder's server and leaves it as soon
as standard input closes, which the kernel sees to when the parent dies.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres


@contextmanager
def guarded_postgres(folder: Path) -> Iterator[EmbeddedPostgres]:
    """Start the folder's server, or join it; it ends with the block or with this process, however that ends.

    Raises:
        EmbeddedPostgresError: the server cannot run here.
    """
    with EmbeddedPostgres.start(folder) as server:
        guard = subprocess.Popen(  # noqa: S603 - this very module
            [sys.executable, "-m", __name__, str(folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in a terminal reaches the parent alone
        )
        with guard:  # leaving closes its standard input and waits for it, so that it is never the last user
            yield server


if __name__ == "__main__":
    with EmbeddedPostgres.start(Path(sys.argv[1])):
        sys.stdin.read()
