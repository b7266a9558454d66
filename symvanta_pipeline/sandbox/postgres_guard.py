"""Sees to it that the embedded PostgreSQL does not outlive the process that uses it, even one that is killed.

Belongs here: a second user of the server, which stays until the first has gone. Does not belong here: how the last
user ends the server (``postgres``).

Run as ``python -m symvanta_pipeline.sandbox.postgres_guard FOLDER PARENT`` it joins the folder's server and leaves it
when standard input says so or closes, which the kernel sees to when the parent dies.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres

POLL = 0.05  # seconds


@contextmanager
def guarded_postgres(folder: Path) -> Iterator[EmbeddedPostgres]:
    """Start the folder's server, or join it; it ends with the block or with this process, however that ends.

    Raises:
        EmbeddedPostgresError: the server cannot run here.
    """
    with EmbeddedPostgres.start(folder) as server:
        guard = subprocess.Popen(  # noqa: S603 - this very module
            [sys.executable, "-m", __name__, str(folder), str(os.getpid())],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in a terminal reaches the parent alone
        )
        # Leaving waits for the guard, so that it is never the last user of a server that ends as it should.
        with guard:
            try:
                yield server
            finally:
                with suppress(OSError):
                    guard.communicate(b"leave")


def _guard(folder: Path, parent: int) -> None:
    with EmbeddedPostgres.start(folder):
        killed = not sys.stdin.buffer.read(1)
        while killed and os.getppid() == parent:
            time.sleep(POLL)  # the kernel closes a dying process's pipes before it gives its locks back


if __name__ == "__main__":
    _guard(Path(sys.argv[1]), int(sys.argv[2]))
