"""Two streams joined: what one sends, the other gets, until both have said all they had to say.

Rules of this file:
- The end of one direction is passed on as the end of that direction; the other goes on. `nc -N`,
  git and rsync depend on that.
- A cut of one side becomes an abort of the other, for TCP a reset. A program must be able to tell a
  download that is complete from one that was cut, so a cut never looks like a clean end.
- `relay` owns both streams: when it returns or raises, both are closed. Cancelled, it aborts both.
- Whoever wants to know what was carried is told once, also when the relay was cancelled.
- One nursery, two tasks, at most one read of each side in memory.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial

import trio

from tunnel.errors import TunnelError
from tunnel.tls_stream import TLSStream

__all__ = ["Ended", "Relayed", "abort", "relay"]

# struct linger {l_onoff=1, l_linger=0}: closing resets the connection (SO_LINGER, socket(7)).
_RESET = struct.pack("ii", 1, 0)
# As much as a TLS stream encrypts at a time. trio's own 64 KiB would double the number of turns
# through its loop, and these are what a fast stream costs most.
RECEIVE_BYTES = 128 * 1024


class Ended(Enum):
    """How a relay came to its end."""

    CLEAN = "clean"  # both sides said that they had ended
    CUT = "cut"  # one side broke; the other was aborted
    IDLE = "idle"  # nothing moved for the idle time; both were aborted
    STOPPED = "stopped"  # our own side ended it; both were aborted


@dataclass(frozen=True, slots=True, kw_only=True)
class Relayed:
    """What a relay carried: `bytes_up` from the first stream to the second, `bytes_down` back."""

    bytes_up: int
    bytes_down: int
    ended: Ended


async def relay(
    a: trio.abc.HalfCloseableStream,
    b: trio.abc.HalfCloseableStream,
    *,
    answer: bytes = b"",
    first_up: bytes = b"",
    first_down: bytes = b"",
    take_up: Callable[[bytes], bytes] = bytes,
    idle_seconds: float | None = None,
    ended: Callable[[Relayed], None] | None = None,
) -> Relayed:
    """Carry bytes both ways until both directions have ended, or one side broke.

    - `answer` goes to `a` before anything else and is not counted.
    - `first_up` was read from `a` before and goes to `b` first, `first_down` the other way.
    - `take_up` says how much of what `a` sends may go to `b`; a TunnelError from it is a cut.
    - With `idle_seconds`, a pair on which nothing moved for that long is aborted.

    Raises nothing of its own: how it ended is in what is returned, and `ended` is told the same.
    """
    pair = _Pair(idle_seconds)
    stopped = True
    try:
        with trio.CancelScope() as scope:
            pair.scope = scope
            pair.touch()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(pair.carry, a, b, "up", first=first_up, take=take_up))
                nursery.start_soon(
                    partial(pair.carry, b, a, "down", answer=answer, first=first_down)
                )
        if scope.cancelled_caught and pair.ended is Ended.CLEAN:
            pair.ended = Ended.IDLE
        if pair.ended is Ended.CLEAN:
            await b.aclose()
            await a.aclose()
        stopped = False
    finally:
        if stopped:
            pair.ended = Ended.STOPPED
        # Closing what is closed already does nothing.
        with trio.CancelScope(shield=True):
            await abort(a)
            await abort(b)
        if ended is not None:
            ended(pair.relayed())
    return pair.relayed()


async def abort(stream: trio.abc.AsyncResource) -> None:
    """Close at once and without a goodbye, so that the peer sees a reset and no clean end.

    Does not wait for anything; a checkpoint, but not one that raises Cancelled midway.
    """
    under: trio.abc.AsyncResource = stream
    while isinstance(under, TLSStream):
        under = under.transport
    if isinstance(under, trio.SocketStream) and under.socket.fileno() >= 0:
        under.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    await trio.aclose_forcefully(stream)


class _Pair:
    """What the two directions of one relay share."""

    def __init__(self, idle_seconds: float | None) -> None:
        self.scope = trio.CancelScope()
        self.ended = Ended.CLEAN
        self.carried = {"up": 0, "down": 0}
        self._idle_seconds = idle_seconds

    def touch(self) -> None:
        if self._idle_seconds is not None:
            self.scope.deadline = trio.current_time() + self._idle_seconds

    def relayed(self) -> Relayed:
        return Relayed(
            bytes_up=self.carried["up"], bytes_down=self.carried["down"], ended=self.ended
        )

    async def carry(
        self,
        source: trio.abc.HalfCloseableStream,
        sink: trio.abc.HalfCloseableStream,
        direction: str,
        *,
        answer: bytes = b"",
        first: bytes,
        take: Callable[[bytes], bytes] = bytes,
    ) -> None:
        try:
            if answer:
                await sink.send_all(answer)
            await self._pass_on(first, sink, direction)
            while data := await source.receive_some(RECEIVE_BYTES):
                self.touch()
                await self._pass_on(take(bytes(data)), sink, direction)
            await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError, TunnelError):
            self.ended = Ended.CUT
            self.scope.cancel()

    async def _pass_on(
        self, data: bytes, sink: trio.abc.HalfCloseableStream, direction: str
    ) -> None:
        if data:
            await sink.send_all(data)
            self.carried[direction] += len(data)
            self.touch()
