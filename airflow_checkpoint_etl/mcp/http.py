"""Streamable HTTP with a bearer token, and with Host and Origin checked (DNS rebinding)."""

from __future__ import annotations

import hmac
import os
from typing import TYPE_CHECKING, Any, Final

from airflow_checkpoint_etl.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping, Sequence

    from mcp.server import MCPServer

    Message = MutableMapping[str, Any]
    App = Callable[
        [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
        Awaitable[None],
    ]

TOKEN_VARIABLE: Final = "CHECKPOINT_ETL_MCP_TOKEN"  # noqa: S105  the name of the variable
_SHORTEST: Final = 16
_LARGEST_REQUEST: Final = 64 * 1024


def bearer_token() -> str:
    """Return the token that clients have to send, from the environment.

    Raises:
        ConfigurationError: there is none, or it is too short to be a secret.
    """
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if len(token) < _SHORTEST:
        message = (
            f"{TOKEN_VARIABLE} is {'empty' if not token else 'too short'}: over HTTP every client has to "
            f"send a token. Set it to at least {_SHORTEST} random characters, e.g. of: openssl rand -hex 32"
        )
        raise ConfigurationError(message)
    return token


class BearerOnly:
    """An ASGI application behind a bearer token.

    Args:
        app: the application.
        token: the token; compared in constant time.
    """

    def __init__(self, app: App, token: str) -> None:
        self._app, self._expected = app, f"Bearer {token}".encode()

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Pass a request on when it carries the token, else answer 401."""
        if scope["type"] == "http":
            given = [value for name, value in scope["headers"] if name == b"authorization"]
            if len(given) != 1 or not hmac.compare_digest(given[0], self._expected):
                await _refuse(send)
                return
        elif scope["type"] != "lifespan":
            return
        await self._app(scope, receive, send)


async def _refuse(send: Callable[[Message], Awaitable[None]]) -> None:
    headers = [(b"content-type", b"text/plain"), (b"www-authenticate", b"Bearer")]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": b"a bearer token is needed"})


def application(server: MCPServer[None], token: str, hosts: Sequence[str]) -> BearerOnly:
    """Return the ASGI application of a server.

    Args:
        server: the server.
        token: the bearer token.
        hosts: ``Host`` headers to accept, e.g. ``127.0.0.1:8765`` or ``mcp.example.org``.
    """
    from mcp.server.transport_security import TransportSecuritySettings  # noqa: PLC0415

    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=True,
        allowed_hosts=list(hosts),
        allowed_origins=[f"{scheme}://{host}" for host in hosts for scheme in ("http", "https")],
    )
    app = server.streamable_http_app(
        json_response=True,
        stateless_http=True,
        transport_security=security,
        max_request_body_size=_LARGEST_REQUEST,
    )
    return BearerOnly(app, token)


def serve(
    server: MCPServer[None], host: str, port: int, token: str, allowed_hosts: Sequence[str] = ()
) -> None:
    """Serve until the process is ended; the endpoint is ``/mcp``."""
    import uvicorn  # noqa: PLC0415

    own = f"[{host}]" if ":" in host else host
    hosts = [f"{own}:{port}", *allowed_hosts]
    if host in {"127.0.0.1", "::1", "localhost"}:
        hosts += [f"localhost:{port}", f"127.0.0.1:{port}"]
    uvicorn.run(
        application(server, token, hosts),
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
    )
