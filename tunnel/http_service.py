"""A small HTTP/1.1 server for one connection: requests in, answers out, in order, within limits.

Rules of this file:
- h11 is the parser. What it refuses, and what goes past a limit, gets one answer with the right
  status; then the connection closes and nothing that the client sent behind it is read as a
  request.
- A request is handed on when all of it has come. The client has `idle_seconds` for that, counted
  from the end of the last answer, and as long again to take each piece of an answer: a slow client
  costs one task and a few buffers, and not for ever.
- An answer whose stream fails midway, or gives another length than was announced, is cut off and
  never ended in order, so that the client cannot take a part for the whole.
- Requests and answers are plain values. CONNECT is refused here, and a wish to upgrade ignored.

Used over TLS by the control service and the sample site. Never: a look into bodies or names.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import h11
import trio

from tunnel.errors import TunnelError
from tunnel.relay import abort

__all__ = ["Request", "Response", "error_response", "serve_requests"]

MAX_HEAD_BYTES = 16 * 1024  # what common servers allow for a head; ours stay under 1 KiB
MAX_FIELDS = 64
RECEIVE_BYTES = 16 * 1024
SEND_BYTES = 64 * 1024  # at a time; each piece has a time limit of its own
LINGER_SECONDS = 1.0  # how long a refused client's further bytes are thrown away
_NO_BODY = frozenset({204, 304})  # RFC 9110, 6.4.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One whole request. Header names are lower case; `target` is as the client sent it.

    The body and the headers may carry a secret, so neither is in the repr.
    """

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)

    def header(self, name: str) -> str | None:
        """The value of the first header called `name` (lower case), or None."""
        return next((value for known, value in self.headers if known == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One answer: `body`, or else what `stream()` yields, `length` bytes in all when that is known.

    A stream of unknown length goes out in chunks, or to an HTTP/1.0 client until the end of the
    connection.
    """

    status: int
    body: bytes = field(default=b"", repr=False)
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    stream: Callable[[], AsyncIterator[bytes]] | None = field(default=None, repr=False)
    length: int | None = None


def error_response(status: int, message: str, hint: str = "") -> Response:
    """A refusal in the one form that our services give: `{"error": {"message", "hint"}}`."""
    body = json.dumps({"error": {"message": message, "hint": hint}}).encode() + b"\n"
    return Response(status=status, body=body)


async def serve_requests(
    stream: trio.abc.Stream,
    answer: Callable[[Request], Awaitable[Response]],
    *,
    max_body_bytes: int = 64 * 1024,
    idle_seconds: float = 30.0,
) -> None:
    """Answer the requests of one connection until the client ends it or breaks a rule.

    Closes `stream` in any case; cancelled, without a goodbye. A client that goes away is a normal
    end. The caller guards each connection and writes its log.

    Raises: what `answer` raises, after the client got status 500; what a response's stream raises,
    and h11.LocalProtocolError for a response that is none, after the client was cut off;
    HandshakeFailed when a TLS client refuses the server's certificate.
    """
    connection = _Connection(stream, max_body_bytes=max_body_bytes, idle_seconds=idle_seconds)
    try:
        while (request := await connection.receive()) is not None:
            try:
                response = await answer(request)
            except Exception:
                await connection.refuse(500, "the server failed inside; its log says where")
                raise
            if not await connection.send(response):
                break
        await connection.end()
    except _Gone:
        return
    finally:
        with trio.CancelScope(shield=True):
            await abort(stream)  # after an orderly end there is nothing left to do


class _Gone(Exception):
    """The client left, or took too long: there is nobody to answer any more."""


class _Refusal(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Connection:
    """h11's state, the stream and the limits of one connection."""

    def __init__(
        self, stream: trio.abc.Stream, *, max_body_bytes: int, idle_seconds: float
    ) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._max_body_bytes = max_body_bytes
        self._idle_seconds = idle_seconds
        self._heard = False  # any byte of the request that is awaited
        self._head_only = False  # an answer to HEAD has no body

    async def receive(self) -> Request | None:
        """The next request; None at the end, also when a bad one was refused. Raises: _Gone."""
        self._heard = bool(self._http.trailing_data[0])
        self._head_only = False
        try:
            with trio.fail_after(self._idle_seconds):
                return await self._receive_request()
        except trio.TooSlowError:
            if self._heard:
                await self.refuse(408, f"no whole request came in {self._idle_seconds:g} s")
        except h11.RemoteProtocolError as error:
            # h11's texts say what was wrong and quote nothing that the client sent.
            await self.refuse(error.error_status_hint, "not a request of HTTP/1.1")
        except _Refusal as refusal:
            await self.refuse(refusal.status, str(refusal))
        return None

    async def send(self, response: Response) -> bool:
        """Send an answer; False when it was the last one. Raises: _Gone."""
        await self._send_event(h11.Response(status_code=response.status, headers=_head(response)))
        if not self._head_only and response.status not in _NO_BODY:
            if response.stream is None:
                await self._send_event(h11.Data(data=response.body))
            else:
                await self._send_pieces(response.stream())
        await self._send_event(h11.EndOfMessage())
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    async def refuse(self, status: int, message: str) -> None:
        """One answer, then the end. Raises: _Gone."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        response = error_response(status, message)
        headers = [*_head(response), ("Connection", "close")]
        await self._send_event(h11.Response(status_code=status, headers=headers))
        if not self._head_only:
            await self._send_event(h11.Data(data=response.body))
        await self._send_event(h11.EndOfMessage())
        await self.end()

    async def end(self) -> None:
        """Close so that the last answer arrives: unread bytes would make the kernel reset."""
        with (
            suppress(trio.BrokenResourceError, trio.ClosedResourceError, TunnelError),
            trio.move_on_after(LINGER_SECONDS),
        ):
            if isinstance(self._stream, trio.abc.HalfCloseableStream):
                await self._stream.send_eof()
                while await self._stream.receive_some(RECEIVE_BYTES):
                    pass
        with suppress(trio.BrokenResourceError):
            await self._stream.aclose()

    async def _receive_request(self) -> Request | None:
        head = await self._next_event()
        if not isinstance(head, h11.Request):
            return None  # the client ended the connection between two requests
        self._head_only = head.method == b"HEAD"
        if head.http_version not in (b"1.0", b"1.1"):
            raise _Refusal(505, "only version 1.1 of HTTP is spoken here")
        if head.method == b"CONNECT":
            raise _Refusal(501, "this is not a proxy")
        if len(head.headers) > MAX_FIELDS:
            raise _Refusal(431, f"more than {MAX_FIELDS} header fields")
        announced = dict(head.headers).get(b"content-length", b"0")
        self._check_size(int(announced))
        if self._http.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=100, headers=[])
            await self._send_event(go_on)
        body = bytearray()
        while isinstance(event := await self._next_event(), h11.Data):
            body += event.data
            self._check_size(len(body))
        return Request(
            method=head.method.decode("ascii"),
            target=head.target.decode("ascii"),
            headers=tuple(
                (name.decode("ascii"), value.decode("latin-1")) for name, value in head.headers
            ),
            body=bytes(body),
        )

    def _check_size(self, body_bytes: int) -> None:
        if body_bytes > self._max_body_bytes:
            raise _Refusal(413, f"a body of more than {self._max_body_bytes} bytes")

    async def _next_event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            try:
                data = await self._stream.receive_some(RECEIVE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise _Gone from None
            self._heard = self._heard or bool(data)
            self._http.receive_data(bytes(data))
        return event

    async def _send_pieces(self, pieces: AsyncIterator[bytes]) -> None:
        try:
            async for piece in pieces:
                await self._send_event(h11.Data(data=piece))
        finally:
            if isinstance(pieces, AsyncGenerator):
                await pieces.aclose()

    async def _send_event(self, event: h11.Event) -> None:
        data = self._http.send(event) or b""
        with memoryview(data) as view:
            for start in range(0, len(view), SEND_BYTES):
                try:
                    with view[start : start + SEND_BYTES] as piece:
                        with trio.fail_after(self._idle_seconds):
                            await self._stream.send_all(piece)
                except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                    raise _Gone from None


def _head(response: Response) -> list[tuple[str, str]]:
    headers = list(response.headers)
    if response.status not in _NO_BODY:
        headers.append(("Content-Type", response.content_type))
        length = response.length if response.stream is not None else len(response.body)
        if length is not None:
            headers.append(("Content-Length", str(length)))
    return headers
