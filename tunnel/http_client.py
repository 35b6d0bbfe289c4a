"""One JSON request to an HTTPS service of ours: httpcore, over our own TLS and no other.

Rules of this file:
- A connection carries one request. So a certificate that was renewed or revoked counts from the
  next request on, and no request is lost to a server that closed an idle connection meanwhile.
- Everything has a limit: the time for all of it, and the bytes of the answer, head and body.
- No proxy, no redirect, no cookie, no second try; no address but the one that was asked for.
- What goes wrong comes out as a `TunnelError` and nothing else; httpcore's own errors end here.

Theory of operation. httpcore is told that the scheme is http, and its network is `_Backend`, which
can do nothing but TLS: there is no way to a connection in clear.

Never: a body, which may hold a secret, in a message or a repr.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpcore
import trio

from tunnel.destinations import Destination
from tunnel.dialing import Address, dial, system_resolve
from tunnel.errors import ConnectionCut, RefusalCode, Refused, TunnelError
from tunnel.tls import ClientContext
from tunnel.tls_stream import TLSStream

__all__ = ["BadAnswer", "JSONAnswer", "request_json"]

CONNECT_SECONDS = 10.0
TIMEOUT_SECONDS = 30.0
MAX_ANSWER_BYTES = 1024 * 1024  # ours are under 10 KiB


class BadAnswer(TunnelError):
    """The server answered, but not with what was asked for: JSON, over HTTP, within the limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JSONAnswer:
    """The status, whatever it is, and the object in the body."""

    status: int
    value: dict[str, Any] = field(repr=False)


async def request_json(
    method: str,
    target: str,
    body: Mapping[str, Any] | None = None,
    *,
    to: Destination,
    context: ClientContext,
    server_name: str,
    check: Callable[[TLSStream], None] | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
    max_answer_bytes: int = MAX_ANSWER_BYTES,
) -> JSONAnswer:
    """Send one request to `to`, whose certificate must be good for `server_name`.

    `check` looks at the connection after the handshake, before anything is sent, and raises a
    TunnelError when it does not like it.

    Raises: Refused when there is no way there or no answer in time (TIMED_OUT), HandshakeFailed,
    ConnectionCut, BadAnswer, and what `check` raises.
    """
    content = b"" if body is None else json.dumps(body).encode()
    headers = [
        ("Host", str(to)),
        ("Accept", "application/json"),
        ("Content-Length", str(len(content))),
        ("Connection", "close"),
    ]
    if body is not None:
        headers.append(("Content-Type", "application/json"))
    connection = httpcore.AsyncHTTPConnection(
        origin=httpcore.Origin(b"http", to.host.encode("ascii"), to.port),
        network_backend=_Backend(to, context, server_name, check, max_answer_bytes),
    )
    url = httpcore.URL(
        scheme=b"http", host=to.host.encode("ascii"), port=to.port, target=target.encode("ascii")
    )
    with trio.move_on_after(timeout_seconds):
        try:
            async with (
                connection,
                connection.stream(
                    method, url, headers=headers, content=_OnePiece(content)
                ) as response,
            ):
                return JSONAnswer(status=response.status, value=_object(await response.aread()))
        except (httpcore.ProtocolError, httpcore.NetworkError):
            raise BadAnswer(f"{to} does not answer in HTTP/1.1") from None
    raise Refused(RefusalCode.TIMED_OUT, f"{to} did not answer within {timeout_seconds:g} s")


def _object(received: bytes) -> dict[str, Any]:
    try:
        value = json.loads(received)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BadAnswer("the answer is not a JSON object")
    return value


class _OnePiece:
    """A body that is sent at once. httpcore's own is a generator, which a cut would leave open."""

    def __init__(self, content: bytes) -> None:
        self._pieces = [content] if content else []

    def __aiter__(self) -> _OnePiece:
        return self

    async def __anext__(self) -> bytes:
        if not self._pieces:
            raise StopAsyncIteration
        return self._pieces.pop()


def _any_address(address: Address) -> None:
    """Where a service of ours is was told by configuration, not by a client: nothing to guard."""


class _Backend(httpcore.AsyncNetworkBackend):
    """A network on which there is one server, spoken to by TLS."""

    def __init__(
        self,
        to: Destination,
        context: ClientContext,
        server_name: str,
        check: Callable[[TLSStream], None] | None,
        max_answer_bytes: int,
    ) -> None:
        self._to = to
        self._max_answer_bytes = max_answer_bytes
        self._context = context
        self._server_name = server_name
        self._check = check

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 — httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        transport = await dial(
            self._to,
            resolve=system_resolve,
            check=_any_address,
            timeout_seconds=CONNECT_SECONDS,
        )
        stream = TLSStream(transport, self._context, server_name=self._server_name)
        try:
            await stream.do_handshake()
            if self._check is not None:
                self._check(stream)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return _Stream(stream, self._max_answer_bytes)


class _Stream(httpcore.AsyncNetworkStream):
    def __init__(self, stream: TLSStream, max_answer_bytes: int) -> None:
        self._stream = stream
        self._bytes_left = max_answer_bytes

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        data = await self._stream.receive_some(max_bytes)
        # Counted here, because raised from in here it ends httpcore's generators in good order.
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            raise BadAnswer("the answer is larger than it may be")
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        try:
            await self._stream.send_all(buffer)
        except ConnectionCut:
            # httpcore then reads: a server that refuses says why before it closes.
            raise httpcore.WriteError from None

    async def aclose(self) -> None:
        await self._stream.aclose()
