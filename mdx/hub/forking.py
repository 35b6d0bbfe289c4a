"""The hub's end of the zygote: fork an agent, get its pidfd; a dead zygote is replaced."""

from __future__ import annotations

import array
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import trio

from mdx import spawn
from mdx.errors import RunFailed
from mdx.hub.wire import encode

__all__ = ["Forked", "Zygote"]

FORK_SECONDS = 15.0  # a zygote that was just started imports for about half a second


@dataclass(frozen=True, slots=True, kw_only=True)
class Forked:
    """A new agent. The pidfd is the receiver's to close."""

    pid: int
    pidfd: int


class Zygote:
    """One zygote, started at once and again whenever it is gone."""

    def __init__(self) -> None:
        self._lock = trio.Lock()
        self._start()

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            try:
                self._process = spawn.start_zygote(theirs.fileno())
            except OSError as error:
                ours.close()
                raise RunFailed(f"the zygote cannot be started: {error.strerror}") from None
        self._channel = trio.socket.from_stdlib_socket(ours)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def fork(self, spec: dict[str, Any], descriptors: Sequence[int]) -> Forked:
        """Fork an agent for `spec`. Raises: RunFailed when a fresh zygote cannot do it either."""
        async with self._lock:
            for _ in range(2):
                if (forked := await self._try(spec, descriptors)) is not None:
                    return forked
                self.close()
                self._start()
        raise RunFailed("the zygote does not start", hint="the hub's log says why: mdx status")

    async def _try(self, spec: dict[str, Any], descriptors: Sequence[int]) -> Forked | None:
        frame = encode(spec)
        passed = array.array("i", descriptors).tobytes()
        try:
            # Shielded: an answer that nobody waited for would be taken for the next one's.
            with trio.fail_after(FORK_SECONDS) as patience:
                patience.shield = True
                sent = await self._channel.sendmsg(
                    [frame], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)]
                )
                while sent < len(frame):
                    sent += await self._channel.send(frame[sent:])
                room = socket.CMSG_SPACE(array.array("i").itemsize)
                answer, ancillary, _, _ = await self._channel.recvmsg(
                    4, room, socket.MSG_CMSG_CLOEXEC
                )
        except (OSError, trio.TooSlowError):
            return None
        if len(answer) < 4 or not ancillary:
            return None
        (pidfd,) = array.array("i", ancillary[0][2])
        return Forked(pid=int.from_bytes(answer, "big"), pidfd=pidfd)

    def close(self) -> None:
        """End the zygote; its agents live on."""
        self._channel.close()
        self._process.kill()  # it holds nothing, and may have been stopped
        self._process.wait()
