"""The connections of an app's HTTP client: httpcore's pool over the app's streams, and our own TLS.

Theory of operation. httpcore asks its network for a connection and then for TLS on it. Ours goes by
the routes of the app, and its TLS is `tunnel`'s; the `ssl` context that httpcore wants to see is
never used, and trusts nobody.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpcore
import trio

from mdx.errors import ConnectionFailed, LeaseEnded
from mdx.library.asking import Caller
from mdx.library.handshake import refusal
from mdx.library.http_answers import Download, Headers, Response
from mdx.library.runs import granted
from mdx.library.streams import AppStream, StreamCut, StreamLeaseEnded, open_stream
from tunnel import ClientContext, ConnectionCut, HandshakeFailed, TLSStream, client_context

__all__ = ["Pieces", "Pool", "open_pool"]

CONNECT_SECONDS = 60.0
MAX_CONNECTIONS = 100
KEPT_CONNECTIONS = 10
KEPT_SECONDS = 30.0  # our gateway's flows may idle much longer; servers close after a minute or so


async def open_pool(caller: Caller) -> Pool:
    """The pool of an app. Raises: Locked, KeyExpired, ConfigError."""
    run = await trio.to_thread.run_sync(granted, caller)
    return Pool(caller, _trusting(run.extra))


def _trusting(ca_file: str | None) -> ClientContext:
    own = None if ca_file is None else Path(ca_file).read_bytes()
    return client_context(ca=own, system_cas=True, any_cipher_suite=True)


class Pool:
    """The pool of connections, on trio."""

    def __init__(self, caller: Caller, context: ClientContext) -> None:
        self._caller = caller
        self._pool = httpcore.AsyncConnectionPool(
            # Not used for TLS: see the top of this file.
            ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            max_connections=MAX_CONNECTIONS,
            max_keepalive_connections=KEPT_CONNECTIONS,
            keepalive_expiry=KEPT_SECONDS,
            network_backend=_Backend(caller, context),
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._pool.aclose()

    async def request(
        self, asked: httpcore.Request, timeout_seconds: float, max_bytes: int
    ) -> Response:
        """The whole answer. Raises: ConnectionFailed, Locked, KeyExpired."""
        with _translating(asked), trio.fail_after(timeout_seconds):
            answer = await self._pool.handle_async_request(asked)
            pieces = Pieces(answer)
            body = bytearray()
            while piece := await pieces.take():
                body += piece
                if len(body) > max_bytes:
                    await pieces.abandon()
                    raise ConnectionFailed(
                        f"the answer has more than {max_bytes} bytes",
                        hint="raise max_bytes, or take it piece by piece: http.stream",
                        code="TOO_LARGE",
                    )
        return Response(status=answer.status, headers=_headers(answer), body=bytes(body))

    async def download(
        self, asked: httpcore.Request, timeout_seconds: float
    ) -> tuple[Pieces, Download]:
        """The answer's head, and its body to come; the pieces are to be abandoned after use."""
        with _translating(asked), trio.fail_after(timeout_seconds):
            answer = await self._pool.handle_async_request(asked)
        pieces = Pieces(answer)

        async def next_piece() -> bytes:
            with _translating(asked), trio.fail_after(timeout_seconds):
                return await pieces.take()

        return pieces, Download(status=answer.status, headers=_headers(answer), _next=next_piece)


class Pieces:
    """A body as it comes. Given up early, it must end in order all the same: httpcore's generators
    stand one inside of the other, and only an error that begins in the innermost closes them all.
    """

    def __init__(self, answer: httpcore.Response) -> None:
        self._pieces = answer.aiter_stream().__aiter__()
        self._stream: _Stream = answer.extensions["network_stream"]
        self._ended = False

    async def take(self) -> bytes:
        """The next piece; `b""` at the end."""
        piece = await anext(self._pieces, b"")
        self._ended = not piece
        return piece

    async def abandon(self) -> None:
        """Close the connection unless the body was taken to its end."""
        if self._ended:
            return
        self._stream.abandoned = True
        with suppress(_Abandoned):
            while await self.take():
                pass  # what httpcore had read already


class _Abandoned(Exception):
    """Nobody wants the rest of a body."""


@contextmanager
def _translating(asked: httpcore.Request) -> Iterator[None]:
    """httpcore's errors and ours become errors of the library, which name the server."""
    server = asked.url.host.decode("ascii")
    try:
        yield
    except trio.TooSlowError:
        raise refusal("TIMED_OUT", f"{server} did not answer in time", "timeout_seconds") from None
    except HandshakeFailed as error:
        raise ConnectionFailed(
            f"TLS with {server} failed: {error}",
            hint="a private authority? name it in the policy: ca_file",
            code="TLS_FAILED",
        ) from None
    except (httpcore.ProtocolError, httpcore.NetworkError):
        raise ConnectionFailed(f"{server} does not answer in HTTP/1.1", code="BAD_ANSWER") from None


class _Backend(httpcore.AsyncNetworkBackend):
    """The network as the app sees it."""

    def __init__(self, caller: Caller, context: ClientContext) -> None:
        self._caller = caller
        self._context = context

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 — httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        stream = await open_stream(self._caller, host, port, timeout_seconds=CONNECT_SECONDS)
        return _Stream(stream, stream, self._caller, self._context)


class _Stream(httpcore.AsyncNetworkStream):
    def __init__(
        self,
        stream: AppStream | TLSStream,
        transport: AppStream,
        caller: Caller,
        context: ClientContext,
    ) -> None:
        self._stream = stream
        self._transport = transport
        self._caller = caller
        self._context = context
        self.abandoned = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        if self.abandoned:
            raise _Abandoned
        try:
            return await self._stream.receive_some(max_bytes)
        except ConnectionCut:
            raise await self._explained() from None

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        if not buffer:
            return
        try:
            await self._stream.send_all(buffer)
        except (ConnectionCut, StreamCut) as error:
            if isinstance(found := await self._explained(), LeaseEnded):
                raise found from error
            # httpcore then reads: a server that refuses says why before it closes.
            raise httpcore.WriteError from None

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        stream = TLSStream(self._transport, self._context, server_name=server_hostname)
        try:
            await stream.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return _Stream(stream, self._transport, self._caller, self._context)

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":  # whether an idle connection was ended meanwhile
            return self._transport.socket.is_readable()
        return None

    async def _explained(self) -> StreamCut | StreamLeaseEnded:
        return await self._transport.explain()


def _headers(answer: httpcore.Response) -> Headers:
    return tuple(
        (name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in answer.headers
    )
