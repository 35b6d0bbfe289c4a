"""The hub's end of its socket, on trio: frames with descriptors in, answers out.

Only processes of the same user are served; the kernel says who is there. One bad connection
never ends the hub: each is guarded at its top.
"""

from __future__ import annotations

import array
import json
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from mdx.errors import MdxError
from mdx.hub.wire import (
    HEADER,
    MAX_DESCRIPTORS,
    Message,
    encode,
    error_message,
    length_of,
    peer_of,
)
from tunnel import TunnelError
from vault import VaultError

__all__ = ["Asked", "Connection", "listen", "serve"]

BACKLOG = 128
MAX_CONNECTIONS = 512  # each run's agent keeps one; all others last for one request
FRAME_SECONDS = 30.0  # from its first byte to a whole request
TELL_SECONDS = 5.0  # for an answer or an event to be taken
_SO_PEERPIDFD = 77
_ITEM_BYTES = array.array("i").itemsize


@dataclass(slots=True, kw_only=True, eq=False)
class Connection:
    """One client: who it is, and a way to tell it more than answers."""

    stream: trio.SocketStream = field(repr=False)
    pid: int
    _sending: trio.Lock = field(default_factory=trio.Lock, repr=False)

    def pidfd(self) -> int:
        """A pidfd of the client, the caller's to close. Raises: MdxError when it is gone."""
        try:
            # Linux 6.5: exactly the process that connected, even if it died meanwhile.
            pidfd: int = self.stream.socket.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
        except OSError:
            try:
                pidfd = os.pidfd_open(self.pid)
            except ProcessLookupError:
                raise MdxError("the launcher ended before it was answered") from None
        return pidfd

    async def tell(self, message: Message) -> bool:
        """Send an answer or an event; False when nobody takes it, and then it is closed."""
        with trio.move_on_after(TELL_SECONDS):
            try:
                async with self._sending:
                    await self.stream.send_all(encode(message))
                return True
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
        await trio.aclose_forcefully(self.stream)  # half a frame may have been sent
        return False


@dataclass(slots=True, kw_only=True)
class Asked:
    """A request. Descriptors that the handler does not take are closed after the answer."""

    message: Message = field(repr=False)  # it may hold a secret
    connection: Connection
    descriptors: list[int]

    def take_descriptors(self, count: int) -> list[int]:
        """Exactly `count` descriptors, the caller's from now on. Raises: MdxError otherwise."""
        if len(self.descriptors) != count:
            raise MdxError(f"{len(self.descriptors)} descriptors came; {count} are needed")
        taken, self.descriptors = self.descriptors, []
        return taken


Handler = Callable[[Asked], Awaitable[Any]]


def listen(path: Path) -> trio.SocketListener:
    """A listener at `path`, mode 0600; a stale socket there is replaced.

    The caller holds the hub's lock, so nobody else can be serving it.
    """
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    umask = os.umask(0o177)
    try:
        listening.bind(os.fspath(path))
    finally:
        os.umask(umask)
    listening.listen(BACKLOG)
    return trio.SocketListener(trio.socket.from_stdlib_socket(listening))


async def serve(listener: trio.SocketListener, handle: Handler) -> None:
    """Answer every request by `handle` until cancelled."""
    places = trio.CapacityLimiter(MAX_CONNECTIONS)

    async def serve_one(stream: trio.SocketStream) -> None:
        try:
            async with stream:
                pid, uid = peer_of(stream.socket)
                if uid == os.getuid() and places.available_tokens:
                    async with places:
                        await _answer_all(Connection(stream=stream, pid=pid), handle)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, OSError):
            return  # the client went away, or took too long to say what it wants
        except Exception as error:
            sys.stderr.write(f"hub: connection: {type(error).__name__}\n")
            sys.stderr.flush()

    await trio.serve_listeners(serve_one, [listener])


async def _answer_all(connection: Connection, handle: Handler) -> None:
    while (asked := await _receive(connection)) is not None:
        try:
            answer: Message = {"ok": await handle(asked)}
        except (MdxError, VaultError, TunnelError) as error:
            answer = error_message(error)
        except Exception as error:
            # Neither the client nor the log gets the text: it could carry a secret.
            sys.stderr.write(f"hub: {asked.message.get('op')}: {_where(error)}\n")
            sys.stderr.flush()
            name = type(error).__name__
            answer = error_message(MdxError(f"the hub failed inside ({name}); see its log"))
        finally:
            for descriptor in asked.descriptors:
                os.close(descriptor)
        if not await connection.tell(answer):
            return


async def _receive(connection: Connection) -> Asked | None:
    """The next request, None at the end. Raises: trio.BrokenResourceError, trio.TooSlowError."""
    descriptors = array.array("i")
    try:
        body = await _receive_frame(connection.stream.socket, descriptors)
        message = None if body is None else json.loads(body)
        if message is not None and not isinstance(message, dict):
            raise ValueError
        if message is None or len(descriptors) > MAX_DESCRIPTORS:
            raise EOFError
    except BaseException as error:
        for descriptor in descriptors:
            os.close(descriptor)
        if isinstance(error, EOFError):
            return None
        if isinstance(error, ValueError | RecursionError):
            raise trio.BrokenResourceError("not a frame of ours") from None
        raise
    return Asked(message=message, connection=connection, descriptors=list(descriptors))


async def _receive_frame(
    connection: trio.socket.SocketType, descriptors: array.array[int]
) -> bytes | None:
    """The body of one frame; descriptors that come with it are added to `descriptors`."""
    room = socket.CMSG_SPACE(MAX_DESCRIPTORS * _ITEM_BYTES)
    received = bytearray()
    wanted = HEADER.size
    with trio.CancelScope() as limit:  # a client may wait as long as it likes before it begins
        while len(received) < wanted:
            piece, ancillary, _, _ = await connection.recvmsg(
                wanted - len(received), room, socket.MSG_CMSG_CLOEXEC
            )
            for level, kind, data in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    descriptors.frombytes(data[: len(data) - len(data) % _ITEM_BYTES])
            if not piece or len(descriptors) > MAX_DESCRIPTORS:
                return None
            if not received:
                limit.deadline = trio.current_time() + FRAME_SECONDS
            received += piece
            if len(received) == HEADER.size == wanted:
                wanted += length_of(bytes(received))
    if limit.cancelled_caught:
        raise trio.TooSlowError
    return bytes(received[HEADER.size :])


def _where(error: BaseException) -> str:
    """The error's type and the places it passed, without its text or any value."""
    places = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{Path(code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{type(error).__name__} at {' > '.join(places)}"
