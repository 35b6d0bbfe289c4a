"""Connections for code that blocks: sockets whose other end is the destination.

The agent's answer is looked at before it is taken (MSG_PEEK), so that not one byte of the
destination is read with it, and what is handed out is a plain socket of the kernel.
"""

from __future__ import annotations

import errno
import socket
from _socket import socket as kernel_socket
from typing import TYPE_CHECKING, Any, SupportsIndex

from mdx.errors import ConnectionFailed
from mdx.library.asking import Caller
from mdx.library.handshake import ConnectHandshake, refusal
from mdx.library.runs import Granted, forget, granted

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

__all__ = ["CONNECT_SECONDS", "AppSocket", "agent_gone", "connect_by", "open_socket"]

CONNECT_SECONDS = 60.0  # look-up, gateway and a slow backend, each with its own limit
PEEK_BYTES = 16 * 1024
_CUT = (errno.ECONNRESET, errno.EPIPE)


class AppSocket(socket.socket):
    """A connected socket of an app that says why it broke. TLS over it takes the plain one."""

    mdx_caller: Caller

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        try:
            return super().recv(bufsize, flags)
        except OSError as error:
            raise self._explained(error) from None

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        try:
            return super().recv_into(buffer, nbytes, flags)
        except OSError as error:
            raise self._explained(error) from None

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        try:
            return super().send(data, flags)
        except OSError as error:
            raise self._explained(error) from None

    def sendall(self, data: ReadableBuffer, flags: int = 0, /) -> None:
        try:
            super().sendall(data, flags)
        except OSError as error:
            raise self._explained(error) from None

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        raise TypeError("a connection cannot be pickled")

    def _explained(self, error: OSError) -> OSError:
        if error.errno not in _CUT:
            return error
        explained = self.mdx_caller.explain_cut()
        explained.errno = error.errno
        return explained


def open_socket(caller: Caller, host: str, port: int, *, timeout_seconds: float) -> AppSocket:
    """A socket to `host` and `port`, by the routes of the app. Blocks; it has no time-out then.

    Raises: ConnectionFailed; Locked, KeyExpired, ConfigError when the app may not begin a run.
    """
    handshake = ConnectHandshake(host, port)  # a destination that is none costs nothing
    run = granted(caller)
    connection = AppSocket()
    connection.mdx_caller = caller
    try:
        connection.settimeout(timeout_seconds)
        connect_by(connection, run, caller, handshake)
        connection.settimeout(None)
    except BaseException:
        connection.close()
        raise
    return connection


def connect_by(
    connection: socket.socket, run: Granted, caller: Caller, handshake: ConnectHandshake
) -> None:
    """Connect a fresh IPv4 or dual-stack IPv6 socket to the handshake's destination.

    It waits as long as the socket's own time-out lets it, at each step. Raises: ConnectionFailed.
    """
    host, port = run.address
    mapped = f"::ffff:{host}" if connection.family == socket.AF_INET6 else host
    try:
        # The kernel's own calls: `patched` may stand before the socket's, and TLS above them.
        kernel_socket.connect(connection, (mapped, port))
        kernel_socket.sendall(connection, handshake.request)
        while True:
            seen = kernel_socket.recv(connection, PEEK_BYTES, socket.MSG_PEEK)
            connected = handshake.receive(seen)
            _take(connection, len(seen) - len(handshake.leftover))
            if connected:
                return
    except TimeoutError:
        rule = "there was no answer in time"
        raise refusal("TIMED_OUT", rule, "wait longer: timeout_seconds") from None
    except ConnectionFailed as failed:
        if failed.code == "AGENT_GONE":
            forget(caller, run)
        raise
    except ConnectionError:
        raise agent_gone(caller, run) from None


def agent_gone(caller: Caller, run: Granted) -> ConnectionFailed:
    """Forget the run whose agent broke off; the next connection begins another one."""
    forget(caller, run)
    return ConnectionFailed(
        "the agent of this run is gone",
        hint="try again; mdx status",
        code="AGENT_GONE",
        errno=errno.ECONNREFUSED,
    )


def _take(connection: socket.socket, count: int) -> None:
    while count > 0:  # they are there: nothing here waits
        count -= len(kernel_socket.recv(connection, count))
