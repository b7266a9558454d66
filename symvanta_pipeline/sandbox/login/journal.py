"""What was asked of the stand-in, for tests to read. No code, token, state, nonce or name is in it.

Belongs here: the record of requests. Does not belong here: what the answers mean.
"""

from collections import deque
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

KEPT_ENTRIES = 20_000


@dataclass
class Entry:
    """One request.

    Attributes:
        seq: from 1, never reused.
        at: when it arrived, RFC 3339.
        endpoint: ``discovery``, ``jwks``, ``authorize``, ``token`` or ``logout``.
        status: of the answer; none while under way and where the connection was broken off.
        scope: that an authorization request asks for, as it stands there.
        prompt: of the same.
        auth_method: how a token request authenticates its client.
        subject: whom the answer is about.
        error: the OAuth error that was answered with, also in a redirect.
        faults: kinds of the faults that fired.
    """

    seq: int
    at: str
    endpoint: str
    method: str
    status: int | None = None
    scope: str | None = None
    prompt: str | None = None
    auth_method: str | None = None
    subject: str | None = None
    error: str | None = None
    faults: list[str] = field(default_factory=list)


class Journal:
    """The latest requests; the oldest go first."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=KEPT_ENTRIES)
        self._seq = 0

    def open(self, *, endpoint: str, method: str) -> Entry:
        """Note a request on arrival."""
        self._seq += 1
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        entry = Entry(self._seq, at, endpoint, method)
        self._entries.append(entry)
        return entry

    def content(self) -> list[dict[str, object]]:
        """All entries, oldest first."""
        return [asdict(entry) for entry in self._entries]

    def clear(self) -> None:
        """Forget everything but the running number."""
        self._entries.clear()
