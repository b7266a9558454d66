"""What was asked of the stand-in, for tests to read. Never a token in clear: fingerprints only.

Belongs here: the record of requests. Does not belong here: what the answers mean.
"""

import hashlib
from collections import deque
from dataclasses import asdict, dataclass, field

from symvanta_pipeline.sandbox.vanta.accounts import utc_now

KEPT_ENTRIES = 20_000
KEPT_BODY_BYTES = 64 * 1024 * 1024


def fingerprint(secret: str) -> str:
    """SHA-256 in hex: tells two tokens apart and gives neither away."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


@dataclass
class Entry:
    """One request.

    Attributes:
        seq: from 1, never reused.
        at: when it arrived, RFC 3339.
        endpoint: ``authorize``, ``token``, ``suspend``, ``put`` or ``list``.
        tenant: ``source_id`` that its credential belongs to, where it is a known one.
        status: of the reply; none while under way and where the connection was broken off.
        fault: kind of the fault that fired.
        token_fingerprint: of the bearer token, or of the token that a suspend names.
        grant_type: of a token request, where it is one of the three.
        sha256: of a PUT's body.
        count: of a PUT's resources, where it has a list of them.
    """

    seq: int
    at: str
    endpoint: str
    method: str
    path: str
    tenant: str | None = None
    status: int | None = None
    dropped: bool = False
    fault: str | None = None
    token_fingerprint: str | None = None
    grant_type: str | None = None
    sha256: str | None = None
    count: int | None = None


@dataclass
class Journal:
    """The latest requests; the oldest go first, and the oldest bodies before them."""

    _entries: deque[Entry] = field(default_factory=lambda: deque(maxlen=KEPT_ENTRIES))
    _bodies: dict[int, bytes] = field(default_factory=dict, repr=False)
    _body_bytes: int = 0
    _seq: int = 0

    def open(self, *, endpoint: str, method: str, path: str) -> Entry:
        """Note a request on arrival."""
        self._seq += 1
        entry = Entry(self._seq, utc_now(), endpoint, method, path)
        self._entries.append(entry)
        return entry

    def keep_body(self, entry: Entry, body: bytes) -> None:
        """Keep a PUT's body, giving up the oldest ones beyond 64 MiB."""
        entry.sha256 = hashlib.sha256(body).hexdigest()
        self._bodies[entry.seq] = body
        self._body_bytes += len(body)
        while self._body_bytes > KEPT_BODY_BYTES:
            self._body_bytes -= len(self._bodies.pop(next(iter(self._bodies))))

    def body(self, seq: int) -> bytes | None:
        """A PUT's body, as received."""
        return self._bodies.get(seq)

    def content(self) -> list[dict[str, object]]:
        """All entries, oldest first."""
        return [asdict(entry) for entry in self._entries]

    def clear(self) -> None:
        """Forget everything but the running number."""
        self._entries.clear()
        self._bodies.clear()
        self._body_bytes = 0
