"""An agent's link to its hub: calls, and a connection on which the hub says: look again.

What the hub says there carries no state. The agent asks for the state, so that nothing depends on
the order in which a change, its news and an answer arrive.

The hub knows an agent by its pid, which the kernel vouches for; nothing is presented.
"""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from mdx.errors import HubUnreachable
from mdx.hub.wire import ANSWER_SECONDS, HEADER, Message, encode, length_of, peer_of, result_of

__all__ = ["HubLink", "read_frame"]


class HubLink:
    """Reaches whichever hub listens at `path` now. Each call is a connection of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def call(self, request: Message) -> Any:
        """One request, its result. Raises: HubRefused, HubUnreachable."""
        with trio.move_on_after(ANSWER_SECONDS):
            async with self._connect() as stream:
                await stream.send_all(encode(request))
                return result_of(await read_frame(stream))
        raise HubUnreachable(f"the hub did not answer within {ANSWER_SECONDS:.0f} s")

    async def follow(
        self, request: Message, look: Callable[[], Awaitable[None]], descriptors: Sequence[int]
    ) -> None:
        """Send `request` with `descriptors`, then `look()` whenever the hub says that there is
        something to look at: first at once, until the hub goes away.

        Raises: HubRefused, HubUnreachable; it never returns.
        """
        async with self._connect() as stream:
            passed = array.array("i", descriptors).tobytes()
            frame = encode(request)
            sent = await stream.socket.sendmsg(
                [frame], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)]
            )
            if sent < len(frame):
                await stream.send_all(frame[sent:])
            while True:
                message = await read_frame(stream)
                if "error" in message:
                    result_of(message)
                await look()

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[trio.SocketStream]:
        try:
            stream = await trio.open_unix_socket(os.fspath(self._path))
        except OSError as error:
            raise HubUnreachable(
                f"no hub answers at {self._path}: {error.strerror}", hint="mdx status starts it"
            ) from None
        async with stream:
            if peer_of(stream.socket)[1] != os.getuid():
                raise HubUnreachable(f"the hub at {self._path} runs as somebody else")
            try:
                yield stream
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise HubUnreachable("the hub went away", hint="try again") from None


async def read_frame(stream: trio.abc.ReceiveStream) -> Message:
    """One frame's object. Raises: HubUnreachable at the end of the stream."""
    body = await _read_exactly(stream, length_of(await _read_exactly(stream, HEADER.size)))
    message: Message = json.loads(body)
    return message


async def _read_exactly(stream: trio.abc.ReceiveStream, count: int) -> bytes:
    collected = bytearray()
    while len(collected) < count:
        piece = await stream.receive_some(count - len(collected))
        if not piece:
            raise HubUnreachable("the hub closed the connection", hint="try again")
        collected += piece
    return bytes(collected)
