"""`app.patched()`: code that knows only the socket module goes by the routes of an app.

Theory of operation. Inside the block, `socket.socket.connect` makes its connection through the
app's agent, and `getaddrinfo` gives a name back as its own address: so the name travels to where it
is known, and is never looked up here. TLS, urllib, http.client and whatever else is built on
sockets that block works over that.

Rules of this file:
- The scope is a context variable. Other tasks and other threads go on as before. What is started
  inside the block belongs to it, on purpose: a thread for all of its life, a task, a job given to a
  ThreadPoolExecutor.
- The functions are put back when the last scope is gone: the blocks, and all that began in them.
  Outside of scopes they do what they always did. What somebody else has put over ours stays.
- Closed by default. What a scope cannot carry (UDP, sockets that do not block, a look-up of an
  address's name) is refused with an error. An audit hook (PEP 578) refuses what goes past the
  patched functions, such as a `getaddrinfo` that was imported by name before.
- Loopback (localhost, 127.0.0.1, ::1) and Unix sockets are left alone, as in `mdx run`.

It guards a willing program: a C library that opens sockets by itself is not held.
"""

from __future__ import annotations

import _socket
import errno
import os
import socket
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar, Token
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Final

from mdx.errors import ConnectionFailed
from mdx.library.asking import Caller
from mdx.library.handshake import ConnectHandshake
from mdx.library.runs import granted
from mdx.library.sockets import connect_by

__all__ = ["Patched"]

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_INTERNET = (socket.AF_INET, socket.AF_INET6)


class _Scope:
    """One block. The patches stand for as long as any of these can be reached."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        _patches.add()
        weakref.finalize(self, _patches.drop).atexit = False


_scope: ContextVar[_Scope | None] = ContextVar("mdx_scope", default=None)


class Patched:
    """The block, of one thread or task; inside of another one the innermost counts."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._tokens: list[Token[_Scope | None]] = []

    def __enter__(self) -> None:
        """Raises: Locked, KeyExpired, ConfigError, HubUnreachable: then nothing is patched."""
        granted(self._caller)
        self._tokens.append(_scope.set(_Scope(self._caller)))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _scope.reset(self._tokens.pop())


# What stands in the place of the originals ------------------------------------------------------


def _connect(self: socket.socket, address: Any, /) -> None:
    scope = _scope.get()
    if scope is None or not _is_remote(self, address):
        _originals.connect(self, address)
        return
    host, port = _host_and_port(self, address)
    if self.gettimeout() == 0:
        raise _refused(
            "a socket that does not block cannot be patched",
            "in async code: await app.connect(…) or app.aio.open_connection(…)",
        )
    connect_by(self, granted(scope.caller), scope.caller, ConnectHandshake(host, port))


def _connect_ex(self: socket.socket, address: Any, /) -> int:
    scope = _scope.get()
    if scope is None or not _is_remote(self, address):
        return _originals.connect_ex(self, address)
    try:
        _connect(self, address)
    except OSError as error:
        return error.errno or errno.ECONNREFUSED
    return 0


def _getaddrinfo(
    host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
) -> Any:
    name = _text(host)
    if _scope.get() is None or name is None or _is_known(name):
        return _originals.getaddrinfo(host, port, family, type, proto, flags)
    kinds = {socket.SOCK_STREAM: socket.IPPROTO_TCP, socket.SOCK_DGRAM: socket.IPPROTO_UDP}
    if type not in (0, *kinds) or family not in (0, *_INTERNET):
        raise _refused(f"{name!a} cannot be named here for this kind of socket", "use TCP")
    number = _port_number(port)
    if family == socket.AF_INET6:
        return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (name, number, 0, 0))]
    kind = socket.SOCK_STREAM if type == 0 else socket.SocketKind(type)
    return [(socket.AF_INET, kind, kinds[kind], "", (name, number))]


def _gethostbyname(host: Any, /) -> str:
    name = _text(host)
    if _scope.get() is None or name is None or _is_known(name):
        return _originals.gethostbyname(host)
    return name


def _gethostbyname_ex(host: Any, /) -> tuple[str, list[str], list[str]]:
    name = _text(host)
    if _scope.get() is None or name is None or _is_known(name):
        return _originals.gethostbyname_ex(host)
    return name, [], [name]


class _PatchedThread:
    """Thread.start, and ThreadPoolExecutor.submit: what begins in a scope belongs to it."""

    @staticmethod
    def start(self: threading.Thread) -> None:
        if (scope := _scope.get()) is not None:
            run = self.run

            def run_inside() -> None:
                token = _scope.set(scope)
                try:
                    run()
                finally:
                    _scope.reset(token)
                    vars(self).pop("run", None)

            self.run = run_inside  # type: ignore[method-assign]
        _originals.start(self)

    @staticmethod
    def submit(
        self: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        scope = _scope.get()  # None counts too: a worker may have been started in a scope

        def run_inside(*args: Any, **kwargs: Any) -> Any:
            token = _scope.set(scope)
            try:
                return fn(*args, **kwargs)
            finally:
                _scope.reset(token)

        # The worker that this may start is no part of the scope, the job is.
        token = _scope.set(None)
        try:
            return _originals.submit(self, run_inside, *args, **kwargs)
        finally:
            _scope.reset(token)


class _Originals:
    """What was there before the patches; on the socket class, the kernel's own methods."""

    def __init__(self) -> None:
        self.connect: Callable[..., None] = _socket.socket.connect
        self.connect_ex: Callable[..., int] = _socket.socket.connect_ex
        self.getaddrinfo: Callable[..., Any] = socket.getaddrinfo
        self.gethostbyname: Callable[..., str] = socket.gethostbyname
        self.gethostbyname_ex: Callable[..., tuple[str, list[str], list[str]]] = (
            socket.gethostbyname_ex
        )
        self.start: Callable[..., None] = threading.Thread.start
        self.submit: Callable[..., Future[Any]] = ThreadPoolExecutor.submit


class _Patches:
    """Puts the functions in their places while there is a scope, and the originals back after."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a scope may be collected wherever memory is taken
        self._scopes = 0
        self._hooked = False
        # Where ours stand, or stand below somebody else's: what was there before.
        self._before: dict[tuple[Any, str], tuple[Any, Any]] = {}

    def add(self) -> None:
        with self._lock:
            self._scopes += 1
            if self._scopes == 1:
                self._install()

    def drop(self) -> None:
        with self._lock:
            self._scopes -= 1
            if self._scopes == 0:
                self._remove()

    def _install(self) -> None:
        if not self._hooked:
            sys.addaudithook(_refuse_what_goes_past)  # there is no way to take one back
            self._hooked = True
        for owner, name, ours in (
            (socket.socket, "connect", _connect),
            (socket.socket, "connect_ex", _connect_ex),
            (socket, "getaddrinfo", _getaddrinfo),
            (socket, "gethostbyname", _gethostbyname),
            (socket, "gethostbyname_ex", _gethostbyname_ex),
            (threading.Thread, "start", _PatchedThread.start),
            (ThreadPoolExecutor, "submit", _PatchedThread.submit),
        ):
            found = vars(owner).get(name)
            left = self._before.get((owner, name))
            if left is not None and found is not left[1]:
                continue  # ours was left below somebody else's, and is called from there
            if found is not None:
                setattr(_originals, name, found)
            self._before[owner, name] = (ours, found)
            setattr(owner, name, ours)

    def _remove(self) -> None:
        for (owner, name), (ours, before) in list(self._before.items()):
            if vars(owner).get(name) is not ours:
                continue  # somebody else's stands over it, and is not ours to remove
            if before is None:
                delattr(owner, name)
            else:
                setattr(owner, name, before)
            del self._before[owner, name]

    def renew_lock(self) -> None:
        self._lock = threading.RLock()


_originals: Final = _Originals()
_patches: Final = _Patches()


# What goes past them ----------------------------------------------------------------------------


def _refuse_what_goes_past(event: str, arguments: tuple[Any, ...]) -> None:
    if not event.startswith("socket.") or _scope.get() is None:
        return
    if event == "socket.connect":
        connection, address = arguments
        if connection.family in _INTERNET and not _is_local_address(address):
            raise _refused("a connection that goes past app.patched()", "use socket.socket")
    elif event in ("socket.sendto", "socket.sendmsg"):
        connection, address = arguments
        if connection.family in _INTERNET and address and not _is_local_address(address):
            raise _refused("datagrams do not go by the routes of an app", "only TCP does")
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        name = _text(arguments[0])
        if name is not None and not _is_known(name):
            raise _refused("a name is not looked up here inside app.patched()", _BY_MODULE)
    elif event in ("socket.gethostbyaddr", "socket.getnameinfo"):
        asked = arguments[0][0] if isinstance(arguments[0], tuple) else arguments[0]
        if _text(asked) not in LOOPBACK:
            raise _refused("the name of an address is not looked up inside app.patched()", "")


_BY_MODULE = "call socket.getaddrinfo by its module, not by a name imported earlier"


def _is_remote(connection: socket.socket, address: Any) -> bool:
    return connection.family in _INTERNET and not (
        isinstance(address, tuple) and address and _text(address[0]) in LOOPBACK
    )


def _is_local_address(address: Any) -> bool:
    if not isinstance(address, tuple) or not address:
        return False
    host = str(address[0]).removeprefix("::ffff:")  # how connect_by names its agent in IPv6
    return host in LOOPBACK


def _host_and_port(connection: socket.socket, address: Any) -> tuple[str, int]:
    if connection.type != socket.SOCK_STREAM:
        raise _refused("datagrams do not go by the routes of an app", "only TCP does")
    if not isinstance(address, tuple) or len(address) < 2:
        raise TypeError("an address is a tuple of host and port")
    host = _text(address[0])
    if host is None or not isinstance(address[1], int):
        raise TypeError("an address is a tuple of host and port")
    return host, address[1]


def _is_known(name: str) -> bool:
    """Whether getaddrinfo needs nobody to answer: a number, loopback, or the empty wildcard."""
    if name in LOOPBACK or not name:
        return True
    try:
        ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


def _text(host: Any) -> str | None:
    if isinstance(host, bytes | bytearray):
        return bytes(host).decode("ascii", "replace")
    return host if isinstance(host, str) else None


def _port_number(port: Any) -> int:
    if port is None:
        return 0
    if isinstance(port, bytes):
        port = port.decode("ascii", "replace")
    if isinstance(port, str) and not port.isdecimal():
        return socket.getservbyname(port, "tcp")
    return int(port)


def _refused(rule: str, hint: str) -> ConnectionFailed:
    return ConnectionFailed(rule, hint=hint, code="UNSUPPORTED", errno=errno.EOPNOTSUPP)


def _after_fork() -> None:
    _patches.renew_lock()


os.register_at_fork(after_in_child=_after_fork)
