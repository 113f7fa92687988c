"""A relay in front of a server that counts round trips: how often a client spoke after an answer."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable

HOST: Final = "127.0.0.1"
_BUFFER: Final = 1 << 16


class Relay:
    """Passes bytes on between clients and one server; as a context manager it leaves nothing behind.

    Args:
        port: the server's port on loopback.
    """

    def __init__(self, port: int) -> None:
        self._server = port
        self._listener = socket.create_server((HOST, 0))
        self.port = int(self._listener.getsockname()[1])
        self._links: list[_Link] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)

    @property
    def round_trips(self) -> int:
        """Round trips of all connections so far."""
        return sum(link.turns for link in self._links)

    @property
    def connections(self) -> int:
        """Connections that were made so far."""
        return len(self._links)

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the accepting thread
        self._accepting.join(10)
        self._listener.close()
        for link in self._links:
            link.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection((HOST, self._server))
                link = _Link(client, server)
                self._links.append(link)  # before a byte passes, or its first turns go uncounted
                link.start()


class _Link:
    """One client's connection. A turn begins when the client speaks after the server did."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._sockets = (client, server)
        self._answered = True
        self.turns = 0

    def start(self) -> None:
        """Pass on what either side says, until one of them closes."""
        client, server = self._sockets
        for source, sink, heard in (
            (client, server, self._client_spoke),
            (server, client, self._server_spoke),
        ):
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._pass, args=(source, sink, heard), daemon=True).start()

    def _client_spoke(self) -> None:
        if self._answered:
            self._answered = False
            self.turns += 1

    def _server_spoke(self) -> None:
        self._answered = True

    def _pass(self, source: socket.socket, sink: socket.socket, heard: Callable[[], None]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_BUFFER):
                heard()
                sink.sendall(data)
        self.close()

    def close(self) -> None:
        """Close both sides."""
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
