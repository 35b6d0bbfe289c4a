"""The agent's listener: what an app may speak to it, told apart by the first byte.

SOCKS5 begins with 0x05 (RFC 1928), everything else is HTTP: CONNECT, or a request in absolute
form for plain http. `admit` says first whether the connection comes from this run at all; a
stranger gets no answer. `connect` decides and dials. No byte of the app goes anywhere before it
said yes; a refusal is one answer and the end of the connection.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Protocol

import trio

from tunnel.destinations import Destination
from tunnel.errors import Refused
from tunnel.gateway_client import Opened
from tunnel.http_proxy import HttpProxyHandshake
from tunnel.relay import Relayed, relay
from tunnel.socks5 import Socks5Handshake

__all__ = ["HANDSHAKE_SECONDS", "MAX_CONNECTIONS", "serve_proxy"]

HANDSHAKE_SECONDS = 30.0  # from accept to a whole request
MAX_CONNECTIONS = 4096  # of one app; each costs descriptors, of which a process has few
ANSWER_SECONDS = 5.0  # an app that does not read its refusal
LINGER_SECONDS = 1.0  # how long its further bytes are thrown away
RECEIVE_BYTES = 64 * 1024
SOCKS5_FIRST_BYTE = 5


class _Handshake(Protocol):
    def receive(self, data: bytes) -> Destination | None: ...
    def data_to_send(self) -> bytes: ...
    def accept(self) -> bytes: ...
    def refuse(self, refused: Refused) -> bytes: ...
    @property
    def leftover(self) -> bytes: ...


async def serve_proxy(
    listener: trio.SocketListener,
    *,
    admit: Callable[[trio.SocketStream], Awaitable[bool]],
    connect: Callable[[Destination, str], Awaitable[Opened]],
    malformed: Callable[[str, Refused], None],
    ended: Callable[[str, Relayed], None],
    failed: Callable[[BaseException], None],
) -> None:
    """Serve until cancelled; then every connection is reset.

    `connect(destination, flow)` raises Refused for what may not be; `malformed(flow, refused)` is
    told of requests that were refused as they stood; `ended(flow, relayed)` how each flow ended;
    `failed` gets what no one expected, and the others are served on.
    """
    limit = trio.CapacityLimiter(MAX_CONNECTIONS)

    async def serve_one(stream: trio.SocketStream) -> None:
        # One exception that left this task would end the whole agent.
        try:
            async with stream:
                if limit.available_tokens and await admit(stream):
                    async with limit:
                        await _serve_connection(stream, connect, malformed, ended)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            return  # the app went away: nobody is left to tell
        except Exception as error:
            with suppress(Exception):  # whoever cannot be told of a failure must not be one
                failed(error)

    await trio.serve_listeners(serve_one, [listener])


async def _serve_connection(
    stream: trio.SocketStream,
    connect: Callable[[Destination, str], Awaitable[Opened]],
    malformed: Callable[[str, Refused], None],
    ended: Callable[[str, Relayed], None],
) -> None:
    flow = secrets.token_hex(8)
    asked: tuple[_Handshake, Destination] | None = None
    with trio.move_on_after(HANDSHAKE_SECONDS):
        asked = await _shake_hands(stream, partial(malformed, flow))
    if asked is None:
        return
    handshake, destination = asked
    try:
        opened = await connect(destination, flow)
    except Refused as refused:
        await _tell(stream, handshake.refuse(refused))
        return
    first_up = handshake.leftover
    take_up: Callable[[bytes], bytes] = bytes
    if isinstance(handshake, HttpProxyHandshake) and handshake.body is not None:
        first_up = handshake.forward_head + handshake.leftover
        take_up = handshake.body.take  # this one request, and nothing behind it
    await relay(
        stream,
        opened.stream,
        answer=handshake.accept(),
        first_up=first_up,
        first_down=opened.early,
        take_up=take_up,
        ended=partial(ended, flow),
    )


async def _shake_hands(
    stream: trio.SocketStream, malformed: Callable[[Refused], None]
) -> tuple[_Handshake, Destination] | None:
    """What the app speaks and where it wants to go; None when it left, or was refused."""
    data = await stream.receive_some(RECEIVE_BYTES)
    if not data:
        return None
    handshake = _choose_handshake(data)
    try:
        while (destination := handshake.receive(data)) is None:
            if answer := handshake.data_to_send():
                await stream.send_all(answer)
            data = await stream.receive_some(RECEIVE_BYTES)
            if not data:
                return None
    except Refused as refused:
        malformed(refused)
        await _tell(stream, handshake.refuse(refused))
        return None
    return handshake, destination


def _choose_handshake(first: bytes) -> _Handshake:
    if first[0] == SOCKS5_FIRST_BYTE:
        return Socks5Handshake()
    return HttpProxyHandshake(absolute_form=True)


async def _tell(stream: trio.SocketStream, answer: bytes) -> None:
    """One answer, then the end: what the client pipelined behind it is thrown away unread."""
    with suppress(trio.BrokenResourceError), trio.move_on_after(ANSWER_SECONDS):
        await stream.send_all(answer)
        await stream.send_eof()
        # Closing with unread bytes makes the kernel reset, and the answer would be lost.
        with trio.move_on_after(LINGER_SECONDS):
            while await stream.receive_some(RECEIVE_BYTES):
                pass
