"""One cached Redis client for an adapter: bytes in, bytes out, and scripts run by their digest.

Replies are never decoded, whatever ``decode_responses`` the client was made with: a damaged value
must reach the adapter as a damaged value, not fail in the client; and staged files are no text.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any

import redis
from redis.client import NEVER_DECODE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis.cluster import RedisCluster

    Client = redis.Redis | RedisCluster

Argument = str | bytes | int


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script over exactly one key, so that it runs in a cluster too."""

    text: str = field(repr=False)

    @property
    def digest(self) -> str:
        """The name under which a server caches the script."""
        return hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


def read_script(package: str, *names: str) -> Script:
    """Return a script put together from files shipped inside ``package``."""
    folder = resources.files(package)
    return Script("\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names))


def is_out_of_memory(error: redis.RedisError) -> bool:
    """Whether the server refused a write because it is at ``maxmemory``."""
    # Inside a script older servers wrap the reply, and its class is lost.
    return isinstance(error, redis.exceptions.OutOfMemoryError) or "OOM command" in str(error)


def is_wrong_type(error: redis.RedisError) -> bool:
    """Whether a key holds another type than the command works on."""
    return "WRONGTYPE" in str(error)


class RedisSession:
    """A client made on first use.

    Args:
        connect: makes a client of a single server, a sentinel's primary or a cluster; it is used by
            this object alone and closed by ``close``.
    """

    def __init__(self, connect: Callable[[], Client]) -> None:
        self._connect = connect
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """The client, connected on first use."""
        if self._client is None:
            self._client = self._connect()
        return self._client

    def command(self, *words: Argument) -> Any:
        """Run one command and return its reply with every string as bytes."""
        client: Any = self.client
        return client.execute_command(*words, **{NEVER_DECODE: True})

    def run(self, script: Script, key: str, *arguments: Argument) -> list[bytes]:
        """Run a script that returns a list of strings."""
        try:
            reply = self.command("EVALSHA", script.digest, 1, key, *arguments)
        except redis.exceptions.NoScriptError:
            reply = self.command("EVAL", script.text, 1, key, *arguments)
        return list(reply)

    def keys(self, prefix: str, kind: str | None = None) -> Iterator[str]:
        """Yield every key that starts with ``prefix``, from all nodes; a key may come twice.

        Args:
            prefix: what the keys start with.
            kind: only keys of this type, as Redis names it; None for keys of any type.
        """
        pattern = (
            "".join(f"\\{letter}" if letter in "*?[]\\" else letter for letter in prefix) + "*"
        )
        for key in self.client.scan_iter(match=pattern, count=1000, _type=kind):
            yield key.decode(errors="replace") if isinstance(key, bytes) else str(key)

    def memory_settings(self) -> list[dict[str, Any]]:
        """Return every node's INFO memory; nothing where the server does not tell."""
        try:
            info = self.client.info("memory")
        except redis.exceptions.ResponseError:
            return []
        nodes = [info] if "used_memory" in info else list(info.values())
        return [node for node in nodes if isinstance(node, dict)]

    def close(self) -> None:
        """Close the client, if there is one."""
        client, self._client = self._client, None
        if client is not None:
            client.close()
