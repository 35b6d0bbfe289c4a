"""One destination for programs that speak to no proxy: by standard streams, or by a Unix socket.

Rules of this file:
- Each direction ends by itself: the end of what comes in is passed on, and the other goes on.
- Not one byte is read from the caller before the destination is connected.
- A cut never looks like a clean end: it is an error here and a reset for the destination. A Unix
  socket knows no reset, so there it is one line on standard error.
- A Unix socket serves its owner alone: mode 0600, and the kernel says who is at the other end.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import trio

from mdx.errors import MdxError
from mdx.hub.wire import peer_of
from mdx.library.asking import Caller
from mdx.library.handshake import ConnectHandshake
from mdx.library.runs import granted
from mdx.library.sockets import CONNECT_SECONDS, AppSocket, open_socket
from mdx.library.streams import AppStream, open_stream
from mdx.printable import printable

__all__ = ["carry", "listening_at", "serve"]

RECEIVE_BYTES = 64 * 1024
MAX_PATH_BYTES = 107  # sun_path of unix(7), and its closing zero
# struct linger {l_onoff=1, l_linger=0}: closing resets the connection (SO_LINGER, socket(7)).
_RESET = struct.pack("ii", 1, 0)


# Standard streams ---------------------------------------------------------------------------------


def carry(caller: Caller, host: str, port: int, *, source: int, sink: int) -> None:
    """Join the descriptors `source` and `sink` with a connection to `host` and `port`.

    Returns when both directions have ended, or nobody reads the sink any more. On a terminal the
    end of the destination is enough: nobody would know that it waits for Ctrl-D.
    Raises: ConnectionFailed; Locked, KeyExpired, ConfigError when the app may not run; MdxError
    when a descriptor fails.
    """
    connection = open_socket(caller, host, port, timeout_seconds=CONNECT_SECONDS)
    # Threads and no event loop: a source may be a regular file or somebody else's terminal, whose
    # descriptors can neither be waited for nor be made not to block.
    failed: list[MdxError] = []
    up = threading.Thread(target=_send, args=[source, connection, failed], daemon=True)
    up.start()
    clean = False
    try:
        _receive(connection, sink)
        if not failed:
            _end(sink)
            if not os.isatty(source):
                up.join()
        clean = not failed
    except BrokenPipeError:
        pass  # nobody reads the sink any more: an end for cat(1), and so for this
    finally:
        if not clean:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        connection.close()
    if failed:
        raise failed[0]


def _send(source: int, connection: AppSocket, failed: list[MdxError]) -> None:
    try:
        while data := _read(source):
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
    except MdxError as error:
        failed.append(error)
        # The other direction is to hear of it; the destination is not to see an end in it.
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RD)
    except OSError as error:
        # It broke, or is closed already: the other direction says why.
        if error.errno not in (errno.ENOTCONN, errno.EBADF):
            raise


def _read(source: int) -> bytes:
    try:
        return os.read(source, RECEIVE_BYTES)
    except OSError as error:
        raise MdxError(f"standard input: {error.strerror}") from None


def _receive(connection: AppSocket, sink: int) -> None:
    while data := connection.recv(RECEIVE_BYTES):
        unwritten = memoryview(data)
        while unwritten:
            try:
                unwritten = unwritten[os.write(sink, unwritten) :]
            except BrokenPipeError:
                raise
            except OSError as error:
                raise MdxError(f"standard output: {error.strerror}") from None


def _end(sink: int) -> None:
    """Let whoever reads the sink see its end, though this process goes on sending."""
    nothing = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nothing, sink)
    os.close(nothing)


# A Unix socket ------------------------------------------------------------------------------------


@contextmanager
def listening_at(path: Path) -> Iterator[socket.socket]:
    """A Unix socket at `path` that only its owner can use; it is gone afterwards.

    Raises: MdxError when there is something else already, or the path cannot be used.
    """
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise MdxError(
            f"--listen {path}: a socket's path has at most {MAX_PATH_BYTES} bytes",
            hint="use a shorter one, such as a folder made by mktemp -d",
        )
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        before = os.umask(0o177)  # from its first moment on it is its owner's
        try:
            listener.bind(os.fspath(path))
        except OSError as error:
            raise MdxError(f"--listen {path}: {error.strerror}") from None
        finally:
            os.umask(before)
        try:
            listener.listen()
            yield listener
        finally:
            path.unlink(missing_ok=True)
    finally:
        listener.close()


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens at any more, and nothing else. Raises: MdxError."""
    try:
        found = path.lstat()
    except OSError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise MdxError(f"--listen {path}: there is something else already")
    with socket.socket(socket.AF_UNIX) as trying:
        try:
            trying.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise MdxError(f"--listen {path}: {error.strerror}") from None
        else:
            raise MdxError(
                f"--listen {path}: another program listens there", hint="use another path"
            )


async def serve(
    listener: socket.socket, caller: Caller, host: str, port: int, *, ready: Callable[[], None]
) -> None:
    """Join each connection to `listener` with one of its own to the destination, until SIGTERM.

    `ready` is called once the app may run. What fails later is said on standard error, in one
    line, and the next connection is tried as if it were the first.
    Raises: ConnectionFailed when `host` and `port` are no destination; Locked, KeyExpired,
    ConfigError when the app may not run.
    """

    async def serve_one(stream: trio.SocketStream) -> None:
        async with stream:
            if peer_of(stream.socket)[1] != os.getuid():
                return
            try:
                far = await open_stream(caller, host, port, timeout_seconds=CONNECT_SECONDS)
                async with far:
                    await _join(stream, far)
            except MdxError as error:
                hint = f" ({error.hint})" if error.hint else ""
                sys.stderr.write(printable(f"mdx: {error}{hint}\n"))
                sys.stderr.flush()

    ConnectHandshake(host, port)
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        await trio.to_thread.run_sync(granted, caller)
        ready()
        async with trio.open_nursery() as nursery:
            # serve_listeners closes what it is given; the caller's stays the caller's.
            listening = trio.SocketListener(trio.socket.from_stdlib_socket(listener.dup()))
            nursery.start_soon(trio.serve_listeners, serve_one, [listening])
            async for _ in signals:
                nursery.cancel_scope.cancel()


async def _join(near: trio.SocketStream, far: AppStream) -> None:
    """Carry bytes both ways until both directions have ended. Raises: ConnectionCut, LeaseEnded."""
    broken: list[trio.BrokenResourceError] = []

    async def pass_on(
        source: trio.abc.HalfCloseableStream, sink: trio.abc.HalfCloseableStream
    ) -> None:
        try:
            while data := await source.receive_some(RECEIVE_BYTES):
                await sink.send_all(data)
            await sink.send_eof()
        except trio.BrokenResourceError as error:
            broken.append(error)
            nursery.cancel_scope.cancel()

    whole = False
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pass_on, near, far)
            nursery.start_soon(pass_on, far, near)
        whole = not broken
    finally:
        if not whole:
            far.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    for error in broken:
        if isinstance(error, MdxError):  # of the destination; a client that left needs no word
            raise error
