"""Asking a gateway what it would say: who we are to it, what TLS agreed on (`mdx status`, `mdx
doctor`), and what would become of a destination (`mdx explain`)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import h11

from tunnel.destinations import Destination
from tunnel.errors import RefusalCode, Refused
from tunnel.gateway_client import Answer, SessionToken, ask_gateway
from tunnel.gateway_requests import CHECK_PATH, DESTINATION_FIELD, STATUS_PATH
from tunnel.tls import ClientContext, Negotiated

__all__ = ["Checked", "Probed", "check_at_gateway", "probe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What our side negotiated, and what the gateway says: name, tenant, device, app, …"""

    negotiated: Negotiated
    status: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A gateway's decision about a destination. `code` is a `RefusalCode`, empty when allowed."""

    allowed: bool
    code: str
    rule: str
    hint: str


async def probe(*, host: str, port: int, name: str, context: ClientContext) -> Probed:
    """Ask the gateway at `host:port`, whose certificate says `name`, for its status.

    Raises: Refused (GATEWAY_DOWN, GATEWAY_REFUSED, …) with the reason.
    """
    headers = [("Host", f"{name}:{port}"), ("Connection", "close")]
    request = h11.Request(method="GET", target=STATUS_PATH, headers=headers)
    answer = await ask_gateway(request, host=host, port=port, name=name, context=context)
    return Probed(negotiated=answer.negotiated, status=_fields(answer))


async def check_at_gateway(
    destination: Destination,
    token: SessionToken,
    *,
    host: str,
    port: int,
    name: str,
    context: ClientContext,
) -> Checked:
    """What the gateway would do with a CONNECT to `destination`; nothing is dialled.

    `context` is of the certificate that the token was granted to.
    Raises: Refused when it does not tell; one from before this request says UNSUPPORTED.
    """
    headers = [
        ("Host", f"{name}:{port}"),
        ("Authorization", f"Bearer {token.token}"),
        (DESTINATION_FIELD, str(destination)),
        ("Content-Length", "0"),
        ("Connection", "close"),
    ]
    request = h11.Request(method="POST", target=CHECK_PATH, headers=headers)
    answer = await ask_gateway(request, host=host, port=port, name=name, context=context)
    fields = _fields(answer)
    verdict, rule = fields.get("verdict"), fields.get("rule")
    if verdict not in ("ALLOW", "REFUSE") or not isinstance(rule, str):
        raise _senseless()
    return Checked(
        allowed=verdict == "ALLOW",
        code=str(fields.get("code") or ""),
        rule=rule,
        hint=str(fields.get("hint") or ""),
    )


def _fields(answer: Answer) -> dict[str, Any]:
    try:
        fields = json.loads(answer.body)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise _senseless()
    return fields


def _senseless() -> Refused:
    return Refused(RefusalCode.GATEWAY_REFUSED, "the gateway's answer makes no sense")
