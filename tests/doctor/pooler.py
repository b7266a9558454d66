"""A pooler that gives each transaction whichever server connection was used last: what PgBouncer's `transaction` is.

Belongs here: just enough of PostgreSQL's protocol (its documentation, 54.2) for that. Does not belong here: any test.
"""

import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import psycopg

REPORTED = ("server_version", "client_encoding", "server_encoding", "DateStyle", "TimeZone", "integer_datetimes")
SPECIAL_CODES = (80877103, 80877104)  # a client asks for SSL or GSSAPI first
IDLE = b"I"  # of ReadyForQuery: no transaction is open


class Pooler:
    """Takes clients without a password and keeps server connections of its own."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._idle: list[socket.socket] = []
        self._opened: list[psycopg.Connection] = []
        self._lock = threading.Lock()

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._client, args=(client,), daemon=True).start()

    def close(self) -> None:
        for connection in self._opened:
            connection.close()

    def _client(self, client: socket.socket) -> None:
        with client, suppress(OSError, ConnectionError):
            self._greet(client)
            while True:
                self._transaction(client)

    def _greet(self, client: socket.socket) -> None:
        size, code = struct.unpack("!ii", _exactly(client, 8))
        if code in SPECIAL_CODES:
            client.sendall(b"N")
            self._greet(client)
            return
        _exactly(client, size - 8)
        with self._lock, psycopg.connect(self._url) as server:
            told = {name: server.info.parameter_status(name) or "" for name in REPORTED}
        client.sendall(_message(b"R", struct.pack("!i", 0)))
        for name, value in told.items():
            client.sendall(_message(b"S", f"{name}\0{value}\0".encode()))
        client.sendall(_message(b"K", struct.pack("!ii", 1, 1)) + _message(b"Z", IDLE))

    def _transaction(self, client: socket.socket) -> None:
        """Pass messages on, with one server from the first of them until no transaction is open."""
        request = _message_of(client)
        with self._lock:
            server = self._idle.pop() if self._idle else self._open()
        while True:
            server.sendall(request)
            while request[:1] not in (b"Q", b"S"):
                request = _message_of(client)
                server.sendall(request)
            while True:
                answer = _message_of(server)
                client.sendall(answer)
                if answer[:1] == b"Z":
                    break
            if answer[-1:] == IDLE:
                break
            request = _message_of(client)
        with self._lock:
            self._idle.append(server)

    def _open(self) -> socket.socket:
        connection = psycopg.connect(self._url, sslmode="disable")
        self._opened.append(connection)
        server = socket.socket(fileno=os.dup(connection.fileno()))
        server.setblocking(True)
        return server


@contextmanager
def pooled(url: str) -> Iterator[str]:
    """Run one before a database and yield the URL that leads through it."""
    pooler = Pooler(url)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=pooler.serve, args=(listener,), daemon=True).start()
        try:
            yield f"postgresql://anybody@127.0.0.1:{listener.getsockname()[1]}{urlsplit(url).path}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            pooler.close()


def _message(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("!i", len(content) + 4) + content


def _message_of(peer: socket.socket) -> bytes:
    head = _exactly(peer, 5)
    if head[:1] == b"X":
        raise ConnectionError
    (size,) = struct.unpack("!i", head[1:])
    return head + _exactly(peer, size - 4)


def _exactly(peer: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        received = peer.recv(size - len(content))
        if not received:
            raise ConnectionError
        content += received
    return content
