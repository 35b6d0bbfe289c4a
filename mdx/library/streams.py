"""Connections for trio: half-closeable streams whose other end is the destination."""

from __future__ import annotations

import socket

import trio

from mdx.errors import ConnectionCut, ConnectionFailed, LeaseEnded
from mdx.library.asking import Caller
from mdx.library.handshake import ConnectHandshake, refusal
from mdx.library.runs import Granted, forget, granted
from mdx.library.sockets import PEEK_BYTES, agent_gone

__all__ = ["AppStream", "StreamCut", "StreamLeaseEnded", "open_stream"]


class StreamCut(ConnectionCut, trio.BrokenResourceError):
    """A cut, for those who look for ours and for those who expect what trio raises."""


class StreamLeaseEnded(LeaseEnded, trio.BrokenResourceError):
    """A cut by the end of the lease, for both of them."""


class AppStream(trio.abc.HalfCloseableStream):
    """A connection of an app. It breaks with LeaseEnded or ConnectionCut."""

    def __init__(self, stream: trio.SocketStream, caller: Caller) -> None:
        self._stream = stream
        self._caller = caller

    @property
    def socket(self) -> trio.socket.SocketType:
        """The socket to the agent, for its options."""
        return self._stream.socket

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`. Raises: LeaseEnded, ConnectionCut."""
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError:
            raise await self.explain() from None

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the kernel takes more. Raises: LeaseEnded, ConnectionCut."""
        try:
            await self._stream.wait_send_all_might_not_block()
        except trio.BrokenResourceError:
            raise await self.explain() from None

    async def send_eof(self) -> None:
        """End our direction; receiving goes on. Raises: LeaseEnded, ConnectionCut."""
        try:
            await self._stream.send_eof()
        except trio.BrokenResourceError:
            raise await self.explain() from None

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What came; `b""` when the destination ended. Raises: LeaseEnded, ConnectionCut."""
        try:
            return bytes(await self._stream.receive_some(max_bytes))
        except trio.BrokenResourceError:
            raise await self.explain() from None

    async def aclose(self) -> None:
        """Close at once, in both directions."""
        await self._stream.aclose()

    async def explain(self) -> StreamCut | StreamLeaseEnded:
        """Why this connection broke, once it has."""
        found = await trio.to_thread.run_sync(self._caller.explain_cut)
        made = StreamLeaseEnded if isinstance(found, LeaseEnded) else StreamCut
        return made(str(found), hint=found.hint, code=found.code)


async def open_stream(caller: Caller, host: str, port: int, *, timeout_seconds: float) -> AppStream:
    """A stream to `host` and `port`, by the routes of the app.

    Raises: ConnectionFailed; Locked, KeyExpired, ConfigError when the app may not begin a run.
    """
    handshake = ConnectHandshake(host, port)
    run = await trio.to_thread.run_sync(granted, caller)
    connection = trio.socket.socket()
    try:
        with trio.fail_after(timeout_seconds):
            await connection.connect(run.address)
            await _shake_hands(connection, handshake, caller, run)
    except trio.TooSlowError:
        connection.close()
        rule = f"{host}:{port} did not answer within {timeout_seconds:g} s"
        raise refusal("TIMED_OUT", rule, "wait longer: timeout_seconds") from None
    except ConnectionError:
        connection.close()
        raise agent_gone(caller, run) from None
    except BaseException:
        connection.close()
        raise
    return AppStream(trio.SocketStream(connection), caller)


async def _shake_hands(
    connection: trio.socket.SocketType, handshake: ConnectHandshake, caller: Caller, run: Granted
) -> None:
    unsent = handshake.request
    while unsent:
        unsent = unsent[await connection.send(unsent) :]
    try:
        connected = False
        while not connected:
            seen = await connection.recv(PEEK_BYTES, socket.MSG_PEEK)
            connected = handshake.receive(seen)
            count = len(seen) - len(handshake.leftover)
            while count > 0:
                count -= len(await connection.recv(count))
    except ConnectionFailed as failed:
        if failed.code == "AGENT_GONE":
            forget(caller, run)
        raise
