"""The server's side of an HTTP proxy handshake: CONNECT, and plain http in absolute form. No I/O.

Rules of this file:
- CONNECT names `host:port` (RFC 9110, 9.3.6): no user information, no default port, no body. Host
  is the same; it may leave out 443 and 80, as Java and Node do.
- A request in absolute form (RFC 9112, 3.2.2) is for plain `http` only. It is sent on in origin
  form, with the target's Host, without the fields that are for one hop or for a proxy. A Host that
  names another site is refused rather than replaced: who sends one means something else by it.
- One connection carries one request. In a second one the client may name another host, and the
  bytes would go to the first, past all routes. So the request is sent on with `Connection: close`,
  and `body` passes only the bytes that belong to it: what came behind is dropped, never relayed.
- A refusal is one answer with `Connection: close`. Text in it that a client chose is kept to one
  line of printable characters.

Via (RFC 9110, 7.6.3) is not sent: it would tell every site that this program is confined, and the
address guard already keeps a request from coming back here.
"""

from __future__ import annotations

import re
from http import HTTPStatus

import h11

from tunnel.destinations import Destination, parse_destination
from tunnel.errors import RefusalCode, Refused
from tunnel.http_head import MAX_HEAD_BYTES, Head, HeadReader

__all__ = ["HttpProxyHandshake", "RequestBody", "connect_destination", "refusal_answer"]

HTTP_PORT = 80
PORTS_LEFT_OUT = (443, 80)  # a Host without port next to a target with one of these is no other
MAX_ANSWER_CHARACTERS = 2048  # of the line that says why; a rule's reason is as long as one likes

_ABSOLUTE_FORM = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^#]*)")
# For one hop (RFC 9110, 7.6.1); Transfer-Encoding stays, because the body is passed on as it is.
_ONE_HOP = frozenset({"connection", "keep-alive", "te", "upgrade", "http2-settings"})
_OURS = ("proxy-", "mdx-")
_NEEDED = frozenset({"host", "content-length", "transfer-encoding"})


class HttpProxyHandshake:
    """One request to a proxy. Without `absolute_form`, CONNECT is all that is understood.

    After `receive` gave a destination: `request` is the head; `forward_head` is what goes upstream
    instead of an answer to the client, if it is not empty; then `body` takes all that the client
    sends later. `leftover` is what goes upstream of the bytes that came behind the head.
    """

    def __init__(self, *, absolute_form: bool) -> None:
        self._absolute_form = absolute_form
        self._reader = HeadReader()
        self._over = False
        self.request: Head | None = None
        self.forward_head = b""
        self.body: RequestBody | None = None
        self.leftover = b""

    def receive(self, data: bytes) -> Destination | None:
        """Where the client wants to go, once the request is all there.

        Raises: Refused(MALFORMED, UNSUPPORTED, BAD_DESTINATION).
        """
        if self._over:
            raise RuntimeError("the handshake is over")
        try:
            head = self._reader.receive(data)
            if head is None:
                return None
            self._over = True
            self.request = head
            return self._read(head)
        except Refused:
            self._over = True
            raise

    def data_to_send(self) -> bytes:
        """Nothing: HTTP answers once, with `accept` or `refuse`."""
        return b""

    def accept(self) -> bytes:
        """The answer to CONNECT when the destination is connected (no Content-Length: RFC 9110)."""
        return b"" if self.forward_head else b"HTTP/1.1 200 Connection established\r\n\r\n"

    def refuse(self, refused: Refused) -> bytes:
        """The one answer that says no."""
        without_body = self.request is not None and self.request.method == "HEAD"
        return refusal_answer(refused, without_body=without_body)

    def _read(self, head: Head) -> Destination:
        if head.method == "CONNECT":
            destination = connect_destination(head)
            self.leftover = self._reader.leftover
            return destination
        if not self._absolute_form:
            raise Refused(
                RefusalCode.UNSUPPORTED, "the method is not CONNECT", "open a tunnel with CONNECT"
            )
        destination, path = _split_absolute_form(head)
        self.forward_head = _forward_head(head, destination, path)
        self.body = RequestBody(head)
        self.leftover = self.body.take(self._reader.leftover)
        return destination


class RequestBody:
    """Which of a client's bytes belong to the one request whose head was read."""

    def __init__(self, head: Head) -> None:
        self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._connection.receive_data(head.raw)
        self.ended = self._has_ended()

    def take(self, data: bytes) -> bytes:
        """The part of `data` that belongs to the request, unchanged; nothing once it has ended.

        Raises: Refused(MALFORMED) when the body is not of the form that the head announced.
        """
        if self.ended or not data:  # to h11, no bytes mean the end of the connection
            return b""
        self._connection.receive_data(data)
        self.ended = self._has_ended()
        if not self.ended:
            return data
        behind, _ = self._connection.trailing_data
        return data[: len(data) - len(behind)]

    def _has_ended(self) -> bool:
        try:
            while (event := self._connection.next_event()) is not h11.NEED_DATA:
                if isinstance(event, h11.EndOfMessage):
                    return True
        except h11.RemoteProtocolError:
            raise Refused(
                RefusalCode.MALFORMED, "the body of the request is not understood"
            ) from None
        return False


def connect_destination(head: Head) -> Destination:
    """Where a CONNECT wants to go. Raises: Refused(MALFORMED, BAD_DESTINATION)."""
    for name in ("content-length", "transfer-encoding"):
        if head.values(name):
            raise _malformed("a CONNECT has no body and says nothing about one")
    destination = parse_destination(head.target)
    port = destination.port
    _check_host(head, destination, port if port in PORTS_LEFT_OUT else None)
    return destination


def refusal_answer(refused: Refused, *, without_body: bool = False) -> bytes:
    """A whole response for a refusal; `without_body` after HEAD (RFC 9110, 9.3.2)."""
    status = HTTPStatus(refused.code.http_status)
    body = f"{_one_line(str(refused))}\n".encode()
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Mdx-Refused: {refused.code.value}",
        "Connection: close",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
    ]
    if status is HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        lines += ['Proxy-Authenticate: Basic realm="mdx"', 'Proxy-Authenticate: Bearer realm="mdx"']
    head = "\r\n".join([*lines, "", ""]).encode("ascii")
    return head if without_body else head + body


def _split_absolute_form(head: Head) -> tuple[Destination, str]:
    """(destination, path and query). Raises: Refused."""
    found = _ABSOLUTE_FORM.fullmatch(head.target)
    if found is None:
        rule = "the target is neither that of a CONNECT nor an http:// address without fragment"
        raise Refused(RefusalCode.MALFORMED, rule, "this port is a proxy, not a web site")
    scheme, authority, path = found.groups()
    if scheme.lower() != "http":
        rule = f"a proxy request is for http, not for {scheme[:20]}"
        raise Refused(RefusalCode.UNSUPPORTED, rule, "open a tunnel with CONNECT")
    destination = parse_destination(authority, default_port=HTTP_PORT)
    _check_host(head, destination, HTTP_PORT)
    if not path:
        return destination, "*" if head.method == "OPTIONS" else "/"  # RFC 9112, 3.2.4
    return destination, path if path.startswith("/") else f"/{path}"


def _check_host(head: Head, destination: Destination, default_port: int | None) -> None:
    host = head.header("host")
    if host is None:
        return  # HTTP/1.0
    try:
        same = parse_destination(host, default_port=default_port) == destination
    except Refused:
        same = False
    if not same:
        raise _malformed("Host and target differ")


def _forward_head(head: Head, destination: Destination, path: str) -> bytes:
    dropped = _ONE_HOP | _connection_options(head)
    fields = [
        (raw, value)
        for (name, _), (raw, value) in zip(head.headers, head.raw_headers, strict=True)
        if name != "host" and name not in dropped and not name.startswith(_OURS)
    ]
    host = str(destination).removesuffix(f":{HTTP_PORT}")
    line = f"{head.method} {path} HTTP/{head.version}\r\nHost: {host}\r\n".encode("ascii")
    return b"".join(
        [line, *(b"%b: %b\r\n" % pair for pair in fields), b"Connection: close\r\n\r\n"]
    )


def _connection_options(head: Head) -> frozenset[str]:
    """The names of fields that the client says are for one hop."""
    values = ",".join(head.values("connection"))
    options = frozenset(option.strip(" \t").lower() for option in values.split(","))
    if options & _NEEDED:
        raise _malformed("Connection names a field that says where the request goes or ends")
    return options


def _one_line(text: str) -> str:
    """The text with everything escaped that could end the line or disguise it."""
    shown = "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in text
    )
    limit = MAX_ANSWER_CHARACTERS
    return shown if len(shown) <= limit else f"{shown[:limit]}…"


def _malformed(rule: str) -> Refused:
    return Refused(RefusalCode.MALFORMED, rule, "send the host that you want to reach once")
