"""A TCP proxy before PostgreSQL that cuts a load's connection at the moment of its commit.

It reads the client's messages, so it knows which connection carries a load transaction (by the
application name the transaction sets) and when its COMMIT is sent.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

HOST = "127.0.0.1"
LOAD = b"checkpoint_etl load f"
COMMIT = b"COMMIT\0"
QUERY = b"Q"

CUTS = ("before", "after", "during")
"""Cut before the COMMIT is forwarded, after the server answered it, or right after forwarding."""


@dataclass
class Plan:
    """Which commit to cut, and how.

    Attributes:
        cut: one of ``CUTS``; None cuts nothing.
        commit: the number of the load's commit, from 1.
        everything: whether all connections are cut with it, as when the network goes away.
    """

    cut: str | None = None
    commit: int = 1
    everything: bool = False
    done: threading.Event = field(default_factory=threading.Event)


class CommitCutter:
    """The proxy; as a context manager it leaves no thread and no socket behind.

    Args:
        port: PostgreSQL's port on loopback.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._listener = socket.create_server((HOST, 0))
        self.port = self._listener.getsockname()[1]
        self._links: list[_Link] = []
        self._lock = threading.Lock()
        self._plan = Plan()
        self._commits = 0
        self._accepting = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A shutdown wakes the accepting thread; closing alone would not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(10)
        self._listener.close()
        self.cut_everything()
        for link in self._links:
            link.join()

    def plan(self, cut: str | None, commit: int = 1, *, everything: bool = False) -> Plan:
        """Say what to do from here; commits are counted from here."""
        with self._lock:
            self._plan, self._commits = Plan(cut, commit, everything), 0
            return self._plan

    def route(self, dsn: str) -> str:
        """The connection string that leads through this proxy, unencrypted so that it can read."""
        kept = [part for part in dsn.split() if not part.startswith("port=")]
        return " ".join([*kept, f"port={self.port}", "sslmode=disable", "gssencmode=disable"])

    def cut_everything(self) -> None:
        for link in list(self._links):
            link.cut()

    def committing(self) -> Plan | None:
        """A load sends its COMMIT: the plan, if it is this one's turn."""
        with self._lock:
            self._commits += 1
            is_due = self._plan.cut is not None and self._commits == self._plan.commit
            return self._plan if is_due else None

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection((HOST, self._server_port))
            link = _Link(self, client, server)
            self._links.append(link)
            link.start()


class _Link:
    """One connection: a thread per direction."""

    def __init__(self, proxy: CommitCutter, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._swallowing: Plan | None = None
        self._threads = [
            threading.Thread(target=run, daemon=True) for run in (self._upstream, self._downstream)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(10)
        for end in (self._client, self._server):
            end.close()

    def cut(self) -> None:
        for end in (self._client, self._server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _upstream(self) -> None:
        carries_load = False
        try:
            for kind, message in self._messages():
                carries_load = carries_load or LOAD in message
                plan = None
                if carries_load and kind == QUERY and message.endswith(COMMIT):
                    carries_load = False
                    plan = self._proxy.committing()
                if plan is None or plan.cut == "during":
                    self._server.sendall(message)
                elif plan.cut == "after":
                    self._swallowing = plan  # the answer shall reach us and nobody else
                    self._server.sendall(message)
                    continue
                if plan is not None:
                    self._finish(plan)
                    return
        except OSError:
            pass
        finally:
            self.cut()

    def _downstream(self) -> None:
        try:
            while data := self._server.recv(1 << 16):
                if self._swallowing is not None:
                    self._finish(self._swallowing)
                    return
                self._client.sendall(data)
        except OSError:
            pass
        finally:
            self.cut()

    def _finish(self, plan: Plan) -> None:
        self.cut()
        if plan.everything:
            self._proxy.cut_everything()
        plan.done.set()

    def _messages(self) -> Iterator[tuple[bytes, bytes]]:
        """The client's messages, whole; the first has no kind."""
        head = self._take(4)
        yield b"", head + self._take(struct.unpack("!i", head)[0] - 4)
        while head := self._take(5):
            yield head[:1], head + self._take(struct.unpack("!i", head[1:])[0] - 4)

    def _take(self, size: int) -> bytes:
        parts = []
        while size:
            part = self._client.recv(min(size, 1 << 16))
            if not part:
                message = "the client is gone"
                raise ConnectionError(message)
            parts.append(part)
            size -= len(part)
        return b"".join(parts)
