"""What a client may ask of a gateway, and in which words it is answered.

    POST /.well-known/mdx/session   Authorization: Bearer TICKET             a session token
    POST /.well-known/mdx/check     Authorization: Bearer SESSION TOKEN      what CONNECT would say
                                    Mdx-Destination: HOST:PORT
    GET  /.well-known/mdx/status                                             who, and which TLS
    CONNECT HOST:PORT               Proxy-Authorization: Basic or Bearer     a stream

`Mdx-Flow` (16 hexadecimal digits) is the agent's id of a flow, for the audits of both sides.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from enum import Enum

from tunnel.destinations import Destination, parse_destination
from tunnel.errors import BadTicket, ConnectionCut, RefusalCode, Refused
from tunnel.http_head import Head, HeadReader
from tunnel.identity import Identity, Role
from tunnel.tickets import Credentials, parse_proxy_authorization
from tunnel.tls_stream import TLSStream

__all__ = [
    "CHECK_PATH",
    "DESTINATION_FIELD",
    "ESTABLISHED",
    "SESSION_PATH",
    "STATUS_PATH",
    "Asked",
    "asked_destination",
    "demand_app",
    "demand_no_body",
    "flow_id",
    "json_answer",
    "receive_head",
    "shown_credentials",
    "what_is_asked",
]

SESSION_PATH = "/.well-known/mdx/session"
STATUS_PATH = "/.well-known/mdx/status"
CHECK_PATH = "/.well-known/mdx/check"
DESTINATION_FIELD = "Mdx-Destination"
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"

RECEIVE_BYTES = 16 * 1024
_FLOW = re.compile(r"[0-9a-f]{16}")


class Asked(Enum):
    """The four requests."""

    SESSION = "session"
    STATUS = "status"
    CHECK = "check"
    FLOW = "flow"


async def receive_head(stream: TLSStream) -> tuple[Head, bytes]:
    """(head, what came behind it). Raises: Refused, ConnectionCut."""
    reader = HeadReader()
    while data := await stream.receive_some(RECEIVE_BYTES):
        head = reader.receive(data)
        if head is not None:
            return head, reader.leftover
    raise ConnectionCut("the client left before its request was complete")


def what_is_asked(head: Head) -> Asked:
    """Raises: Refused (UNSUPPORTED)."""
    if head.method == "CONNECT":
        return Asked.FLOW
    asked = _OWN.get((head.method, head.target))
    if asked is None:
        raise Refused(
            RefusalCode.UNSUPPORTED,
            "a gateway takes CONNECT, and the three requests of its own",
            "open a tunnel with CONNECT",
        )
    return asked


_OWN = {
    ("POST", SESSION_PATH): Asked.SESSION,
    ("GET", STATUS_PATH): Asked.STATUS,
    ("POST", CHECK_PATH): Asked.CHECK,
}


def asked_destination(head: Head) -> Destination:
    """What a check is about. Raises: Refused (MALFORMED, BAD_DESTINATION)."""
    named = head.values(DESTINATION_FIELD.lower())
    if len(named) != 1:
        raise Refused(
            RefusalCode.MALFORMED,
            f"a check names one destination, not {len(named)}",
            f"{DESTINATION_FIELD}: HOST:PORT",
        )
    return parse_destination(named[0])


def flow_id(head: Head) -> str:
    """The agent's own id of this flow, so that both audits can be joined, or a new one."""
    offered = head.values("mdx-flow")
    if len(offered) == 1 and _FLOW.fullmatch(offered[0]):
        return offered[0]
    return secrets.token_hex(8)


def demand_app(identity: Identity) -> None:
    if identity.role is not Role.APP:
        raise Refused(
            RefusalCode.NOT_ALLOWED,
            f"the certificate is a {identity.role.value}'s, and flows are an app's",
            "use the certificate of a run",
        )


def demand_no_body(head: Head) -> None:
    if head.values("transfer-encoding") or head.header("content-length") not in (None, "0"):
        raise Refused(RefusalCode.MALFORMED, "this request has no body", "Content-Length: 0")


def shown_credentials(head: Head, name: str, identity: Identity) -> Credentials:
    """Raises: Refused."""
    value = head.header(name)
    if value is None:
        raise Refused(
            RefusalCode.NOT_AUTHENTICATED,
            "the request shows neither a session token nor a ticket",
            "mdx token APP --curl",
        )
    try:
        shown = parse_proxy_authorization(value)
    except BadTicket as error:
        raise Refused(RefusalCode.NOT_AUTHENTICATED, str(error), "mdx token APP --curl") from None
    if shown.app is not None and shown.app != identity.app:
        raise Refused(
            RefusalCode.NOT_ALLOWED, "the user name is not the app that the certificate names"
        )
    return shown


def json_answer(answer: Mapping[str, object]) -> bytes:
    body = json.dumps(answer).encode("ascii") + b"\n"
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n"
        f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("ascii") + body
