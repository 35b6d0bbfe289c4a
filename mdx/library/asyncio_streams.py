"""Connections for asyncio: what `asyncio.open_connection` gives, by the routes of an app."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from mdx.library.asking import Caller
from mdx.library.sockets import CONNECT_SECONDS, AppSocket, open_socket

__all__ = ["AsyncioConnections"]

LIMIT_BYTES = 64 * 1024  # asyncio's own


class AsyncioConnections:
    """`app.aio`: the asyncio face of an app."""

    __slots__ = ("_caller",)

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def open_connection(
        self,
        host: str,
        port: int,
        *,
        timeout_seconds: float = CONNECT_SECONDS,
        limit: int = LIMIT_BYTES,
        **options: Any,
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A reader and a writer to `host` and `port`.

        `options` are those of `loop.create_connection`; with `ssl`, the server's name is `host`
        unless `server_hostname` says otherwise. A connection that breaks does so with LeaseEnded
        or ConnectionCut. Raises: ConnectionFailed, Locked, KeyExpired, ConfigError.
        """
        loop = asyncio.get_running_loop()
        if options.get("ssl"):
            options.setdefault("server_hostname", host)
        opening = loop.run_in_executor(
            None,
            partial(open_socket, self._caller, host, port, timeout_seconds=timeout_seconds),
        )
        try:
            connection = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_unwanted)
            raise
        connection.setblocking(False)
        reader = asyncio.StreamReader(limit=limit, loop=loop)
        protocol = _Protocol(reader, loop, self._caller)
        try:
            transport, _ = await loop.create_connection(
                lambda: protocol, sock=connection, **options
            )
        except BaseException:
            connection.close()
            raise
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


class _Protocol(asyncio.StreamReaderProtocol):
    """Tells reader and writer why a connection broke, which takes a question to the hub."""

    def __init__(
        self, reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop, caller: Caller
    ) -> None:
        super().__init__(reader, loop=loop)
        self._asked_loop = loop
        self._caller = caller

    def connection_lost(self, exc: Exception | None) -> None:
        if not isinstance(exc, ConnectionError) or self._asked_loop.is_closed():
            super().connection_lost(exc)
            return
        asking = self._asked_loop.run_in_executor(None, self._caller.explain_cut)
        asking.add_done_callback(lambda asked: self._lost(exc, asked))

    def _lost(self, exc: Exception, asked: asyncio.Future[Any]) -> None:
        explained = not asked.cancelled() and asked.exception() is None
        super().connection_lost(asked.result() if explained else exc)


def _close_unwanted(opening: asyncio.Future[AppSocket]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
