"""`mdx.App`: an app, as a Python program uses it.

    app = mdx.App("payroll")
    app.vault.text["database"]                          # its secrets
    with app.http() as http: http.get("https://…")      # HTTP by its routes
    await app.connect("intranet.corp.internal", 443)    # a trio stream
    with app.patched(): …                               # for code that uses sockets

Everything is asked of the hub, in its own process: policy, lease, records, and an agent for the
connections, for which this process is a run like a command under `mdx run`. A program can leave the
library out: it guards the willing one, `mdx run` the unwilling one.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from mdx.errors import MdxError
from mdx.library.asking import caller
from mdx.library.runs import granted

if TYPE_CHECKING:
    import trio

    from mdx.library.asyncio_streams import AsyncioConnections
    from mdx.library.http import HTTPClient
    from mdx.library.patching import Patched
    from mdx.library.records import Records
    from mdx.library.sockets import AppSocket

__all__ = ["App"]

CONNECT_SECONDS = 60.0  # look-up, gateway and a slow backend, each with its own limit

P = ParamSpec("P")
R = TypeVar("R")


class App:
    """The app `name` of this user's mdx.toml, or of the file `config`.

    Cheap to make: nothing is asked before it is used. May be shared by threads, tasks and forked
    children. What it asks, it asks with the environment of the moment when it was made.

    Raises: MdxError for a state folder that cannot be (`$MDX_HOME`).
    """

    def __init__(self, name: str, *, config: str | os.PathLike[str] | None = None) -> None:
        path = None if config is None else Path(config)
        self._caller = caller(name, config=path, environ=os.environ)

    def __repr__(self) -> str:
        return f"<mdx.App {self._caller.app!r}>"

    @property
    def name(self) -> str:
        """As it stands in mdx.toml."""
        return self._caller.app

    @functools.cached_property
    def vault(self) -> Records:
        """The app's records, a mapping of names to bytes; `vault.text` maps them to text."""
        from mdx.library.records import Records

        return Records(self._caller)

    async def connect(
        self, host: str, port: int, *, timeout_seconds: float = CONNECT_SECONDS
    ) -> trio.abc.HalfCloseableStream:
        """A trio stream to `host` and `port`, by the routes. Under asyncio: `app.aio`.

        It breaks with LeaseEnded or ConnectionCut, which are trio.BrokenResourceError here.
        Raises: BlockedByRule, GatewayDown, LeaseEnded or another ConnectionFailed; Locked,
        KeyExpired, ConfigError when the app may not run.
        """
        import trio

        from mdx.library.streams import open_stream

        if not trio.lowlevel.in_trio_task():
            raise MdxError(
                "app.connect gives a trio stream, and this does not run under trio",
                hint="asyncio: await app.aio.open_connection(…); blocking: app.open_connection(…)",
            )
        return await open_stream(self._caller, host, port, timeout_seconds=timeout_seconds)

    def open_connection(
        self, host: str, port: int, *, timeout_seconds: float = CONNECT_SECONDS
    ) -> AppSocket:
        """A connected socket that blocks; `timeout_seconds` is for connecting only.

        Raises: as `connect`.
        """
        from mdx.library.sockets import open_socket

        return open_socket(self._caller, host, port, timeout_seconds=timeout_seconds)

    @functools.cached_property
    def aio(self) -> AsyncioConnections:
        """For asyncio: `await app.aio.open_connection(host, port)` gives reader and writer."""
        from mdx.library.asyncio_streams import AsyncioConnections

        return AsyncioConnections(self._caller)

    def http(self) -> HTTPClient:
        """An HTTP client: `with app.http() as http:`, or `async with` under trio and asyncio."""
        from mdx.library.http import HTTPClient

        return HTTPClient(self._caller)

    def patched(self) -> Patched:
        """A block (`with`) in which the socket module goes by the routes of the app.

        Threads and tasks that begin in it belong to it. See docs/library.md for its limits.
        """
        from mdx.library.patching import Patched

        return Patched(self._caller)

    def wrapped(self, function: Callable[P, R]) -> Callable[P, R]:
        """A decorator: the function, sync or async, runs inside of `patched()`.

        Raises: TypeError for a generator, whose caller would run inside the block, too.
        """
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError("a generator cannot be wrapped; wrap the function that uses it")
        given: object = function
        if not inspect.isroutine(given):
            raise TypeError("only functions can be wrapped")
        if inspect.iscoroutinefunction(function):
            asynchronous = cast("Callable[P, Awaitable[Any]]", function)

            @functools.wraps(function)
            async def run_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                await _in_thread(granted, self._caller)  # what takes its time, outside the loop
                with self.patched():
                    return await asynchronous(*args, **kwargs)

            return cast("Callable[P, R]", run_async)  # R is what calling it gives: an awaitable

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            with self.patched():
                return function(*args, **kwargs)

        return run

    @property
    def ca_bundle(self) -> str | None:
        """A file with the policy's `ca_file` and the system's authorities; None without the first.

        For TLS of one's own: `ssl.create_default_context(cafile=app.ca_bundle)`.
        Raises: Locked, KeyExpired, ConfigError.
        """
        return granted(self._caller).bundle

    def environment(self) -> dict[str, str]:
        """`os.environ` with the variables that point a program at this app, as `mdx run` sets them.

        For programs that this one starts; the tunnel is theirs as long as this process lives.
        Raises: Locked, KeyExpired, ConfigError.
        """
        from mdx.container import pointed

        run = granted(self._caller)
        variables = pointed.proxy_variables(*run.address)
        if run.bundle is not None and run.extra is not None:
            variables |= pointed.trust_variables(run.bundle, run.extra)
        return dict(os.environ) | variables


async def _in_thread(work: Callable[..., R], *arguments: Any) -> R:
    import trio

    if trio.lowlevel.in_trio_task():
        return await trio.to_thread.run_sync(work, *arguments)
    import asyncio

    return await asyncio.to_thread(work, *arguments)
