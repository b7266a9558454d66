"""Stand-in servers as real processes, seen from the process that starts them.

Belongs here: starting a child, learning its address, ending it, and making sure that it never outlives its parent.
Does not belong here: what the child serves, nor the child's own side of the bargain (``server``).
"""

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

START_TIMEOUT = 30.0
STOP_TIMEOUT = 5.0
SHOWN_LOG_BYTES = 2000


class ChildFailedError(Exception):
    """A child process ended, or stayed silent, before it was ready. The text ends with the tail of its log."""


@dataclass
class Child:
    """A running child process that has announced its address.

    Attributes:
        url: where it listens, e.g. ``http://127.0.0.1:40123``, without a slash at the end.
    """

    url: str
    _process: subprocess.Popen[str] = field(repr=False)

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the child is still alive."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End the child and wait for it; kill it where it does not end within five seconds. Safe to repeat."""
        _stop(self._process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def start_child(
    module: str,
    arguments: Sequence[str] = (),
    *,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    timeout: float = START_TIMEOUT,
) -> Child:
    """Run ``python -m module`` until it has announced its address.

    The module runs its server through ``server.serve``: it prints its address as the first line of stdout once it
    listens, and ends as soon as its standard input closes, which the kernel sees to when this process dies.

    Args:
        module: dotted name of a module with a command line that takes ``--with-parent``.
        arguments: its arguments. Anybody on the machine can read them: secrets go through ``env``.
        env: variables added to this process's own.
        log: file that the child's stderr is appended to; a temporary one where not given.
        timeout: seconds to wait for the address.

    Raises:
        ChildFailedError: the child ended, or said nothing, in that time.
    """
    with ExitStack() as on_failure:
        # The child keeps its own descriptor; this one is only read to tell why a start failed.
        stderr = _open_log(log)
        on_failure.callback(stderr.close)
        process = subprocess.Popen(  # noqa: S603 - this project's own modules, no shell
            [sys.executable, "-m", module, *arguments, "--with-parent"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, **(env or {})},
            text=True,
            # Ctrl-C in a terminal reaches the parent alone, which then ends its children in order.
            start_new_session=True,
        )
        on_failure.callback(_stop, process)
        url = _announced(process, timeout)
        if not url:
            _stop(process)
            raise ChildFailedError(f"{module} ended before it was ready: {_tail(stderr)}")
        on_failure.pop_all()
        stderr.close()
        return Child(url, process)


def _open_log(log: Path | None) -> IO[bytes]:
    return tempfile.TemporaryFile() if log is None else log.open("ab+")


def _announced(process: subprocess.Popen[str], timeout: float) -> str:
    """The first line of stdout, or an empty string where none came in time; killing the child ends the wait."""
    assert process.stdout is not None  # noqa: S101 - a pipe was asked for
    timer = threading.Timer(timeout, process.kill)
    timer.start()
    try:
        return process.stdout.readline().strip()
    finally:
        timer.cancel()


def _stop(process: subprocess.Popen[str]) -> None:
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _tail(log: IO[bytes]) -> str:
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - SHOWN_LOG_BYTES))
    return log.read().decode(errors="replace").strip() or "it said nothing"
