"""HTTP for an app: httpcore over the app's own connections, and over our own TLS.

Rules of this file:
- Every connection goes by the routes of the app; proxy variables mean nothing here.
- TLS is `tunnel`'s: 1.3, X25519MLKEM768, X25519 or P-256. What is trusted is the policy's `ca_file`
  and the system's authorities.
- No redirect is followed, no cookie kept, nothing sent twice: what a program did not ask for does
  not happen. Everything has a limit: the time for an answer, the bytes of its body.
- There is one implementation, on trio. `with` gives its blocking face and `async with` its async
  one; under asyncio and in blocking code the work is done in the portal's thread.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlsplit

import httpcore

from mdx.library import portal
from mdx.library.asking import Caller
from mdx.library.http_answers import Download, Response, here
from mdx.library.http_pool import Pool, open_pool
from tunnel import Refused, destination

__all__ = ["HTTP", "AsyncHTTP", "HTTPClient"]

TIMEOUT_SECONDS = 60.0
MAX_BODY_BYTES = 16 * 1024 * 1024  # what is larger is better streamed
_PORTS = {"http": 80, "https": 443}
_IN_A_TARGET = "%/:=&?~+!$,;'@()*[]"


class HTTPClient:
    """`app.http()`: enter it with `with` or `async with`. It keeps connections until it is left."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._pool: Pool | None = None

    def __enter__(self) -> HTTP:
        self._pool = portal.run(open_pool, self._caller)
        return HTTP(self._pool)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            portal.run(self._pool.aclose)

    async def __aenter__(self) -> AsyncHTTP:
        self._pool = await here(open_pool, self._caller)
        return AsyncHTTP(self._pool)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            await here(self._pool.aclose)


class HTTP:
    """The blocking face. Any number of threads may use it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        json: Any = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        max_bytes: int = MAX_BODY_BYTES,
    ) -> Response:
        """Send one request; the whole answer. `json` is sent as the body when it is not None.

        Raises: ConnectionFailed, Locked, KeyExpired; ValueError for what is no http(s) address.
        """
        asked = _asked(method, url, headers, body, json)
        return portal.run(self._pool.request, asked, timeout_seconds, max_bytes)

    def get(self, url: str, **options: Any) -> Response:
        """`request("GET", …)`."""
        return self.request("GET", url, **options)

    def post(self, url: str, **options: Any) -> Response:
        """`request("POST", …)`."""
        return self.request("POST", url, **options)

    @contextmanager
    def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> Iterator[Download]:
        """The same, with a body of any length that is taken piece by piece, each in time."""
        asked = _asked(method, url, headers, body, None)
        pieces, download = portal.run(self._pool.download, asked, timeout_seconds)
        try:
            yield download
        finally:
            portal.run(pieces.abandon)


class AsyncHTTP:
    """The async face, for trio and asyncio."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        json: Any = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        max_bytes: int = MAX_BODY_BYTES,
    ) -> Response:
        """As `HTTP.request`."""
        asked = _asked(method, url, headers, body, json)
        return await here(self._pool.request, asked, timeout_seconds, max_bytes)

    async def get(self, url: str, **options: Any) -> Response:
        """`request("GET", …)`."""
        return await self.request("GET", url, **options)

    async def post(self, url: str, **options: Any) -> Response:
        """`request("POST", …)`."""
        return await self.request("POST", url, **options)

    def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> AbstractAsyncContextManager[Download]:
        """As `HTTP.stream`."""
        return self._stream(_asked(method, url, headers, body, None), timeout_seconds)

    @asynccontextmanager
    async def _stream(
        self, asked: httpcore.Request, timeout_seconds: float
    ) -> AsyncIterator[Download]:
        pieces, download = await here(self._pool.download, asked, timeout_seconds)
        try:
            yield download
        finally:
            await here(pieces.abandon)


def _asked(
    method: str, url: str, headers: Mapping[str, str] | None, body: bytes, document: Any
) -> httpcore.Request:
    """The request as httpcore takes it. Raises: ValueError, TypeError."""
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError("the address must begin with https:// or http:// and a host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("an address holds no user or password; send an Authorization header")
    try:
        to = destination(parts.hostname, parts.port or _PORTS[parts.scheme])
    except Refused as refused:
        raise ValueError(f"{refused.rule}") from None
    if not isinstance(body, bytes):
        raise TypeError("a body is bytes; for a JSON document: json=")
    fields = {"Host": str(to).removesuffix(f":{_PORTS[parts.scheme]}"), "User-Agent": "mdx"}
    fields |= {"Accept": "*/*"}
    if document is not None:
        body = json.dumps(document).encode()
        fields["Content-Type"] = "application/json"
    if body or method in ("POST", "PUT", "PATCH"):
        fields["Content-Length"] = str(len(body))
    given = {name.lower() for name in headers or {}}
    sent = [(name, value) for name, value in fields.items() if name.lower() not in given]
    target = quote(parts.path or "/", safe=_IN_A_TARGET)
    if parts.query:
        target += "?" + quote(parts.query, safe=_IN_A_TARGET)
    return httpcore.Request(
        method,
        httpcore.URL(
            scheme=parts.scheme.encode("ascii"),
            host=to.host.encode("ascii"),
            port=to.port,
            target=target.encode("ascii"),
        ),
        headers=[*sent, *(headers or {}).items()],
        content=_OnePiece(body),
    )


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
