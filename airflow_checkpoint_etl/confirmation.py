"""Confirmation tokens: who acts has planned exactly this, a moment ago, on the lane as it is. PURE.

A plan hands out a token; the action takes it back. It is bound to what it is for (the action, the lane, the
point, the lane's incarnation), runs out after some minutes, and is signed with HMAC-SHA256, so that it
cannot be made up nor changed. It is no login: who may act at all is decided before.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from airflow_checkpoint_etl.errors import ConfirmationError

if TYPE_CHECKING:
    from collections.abc import Mapping

LIFETIME: Final = 300.0
"""Seconds from a plan to its action."""


@dataclass(frozen=True, slots=True)
class Confirmer:
    """Hands out confirmation tokens, and takes them back.

    Attributes:
        secret: what they are signed with; at least 32 random bytes.
        lifetime: how long they hold, in seconds.
    """

    secret: bytes
    lifetime: float = LIFETIME

    def issue(self, action: str, bound_to: Mapping[str, Any], now: float) -> str:
        """Return a token for one action.

        Args:
            action: what is to be done, e.g. ``rewind``.
            bound_to: what it is to be done to, as JSON values.
            now: the time, in seconds since 1970.
        """
        claims = {"action": action, "bound_to": dict(bound_to), "until": now + self.lifetime}
        body = json.dumps(claims, sort_keys=True, separators=(",", ":")).encode()
        return f"{_text(body)}.{_text(self._sign(body))}"

    def accept(self, token: str, action: str, now: float) -> dict[str, Any]:
        """Return what a token is bound to.

        Args:
            token: the token.
            action: what is about to be done.
            now: the time, in seconds since 1970.

        Raises:
            ConfirmationError: it is forged or damaged, for another action, or has run out.
        """
        try:
            body, signature = (_bytes(part) for part in token.split("."))
        except (ValueError, binascii.Error):
            raise ConfirmationError(_NONE) from None
        if not hmac.compare_digest(signature, self._sign(body)):
            raise ConfirmationError(_NONE)
        claims = json.loads(body)
        if claims["action"] != action:
            message = f"the token confirms a {claims['action']}, not a {action}; plan again"
            raise ConfirmationError(message)
        if claims["until"] < now:
            message = f"the token ran out {now - claims['until']:.0f} s ago; plan again"
            raise ConfirmationError(message)
        return dict(claims["bound_to"])

    def _sign(self, body: bytes) -> bytes:
        return hmac.new(self.secret, body, hashlib.sha256).digest()


_NONE: Final = (
    "this is no confirmation token of this server; plan again, and pass what the plan returns"
)


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
