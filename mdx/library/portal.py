"""A trio run in a thread beside the program, for its parts that are not on trio.

Our TLS is written for trio; what blocks, and what runs on asyncio, gives its work to this thread
and waits. There is one for each process, begun on first need; it ends with the process.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future
from contextvars import Context
from typing import Any, TypeVar

import trio

__all__ = ["Job", "run", "submit"]

T = TypeVar("T")


class Job(Future[T]):
    """Work in the portal. `abandon` cancels it there, at whatever it is doing."""

    def __init__(self) -> None:
        super().__init__()
        self.scope = trio.CancelScope()
        self.token: trio.lowlevel.TrioToken | None = None

    def abandon(self) -> None:
        if self.token is not None:
            self.token.run_sync_soon(self.scope.cancel)


class _Portal:
    def __init__(self) -> None:
        self.pid = os.getpid()
        self._ready = threading.Event()
        self._nursery: trio.Nursery | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        thread = threading.Thread(target=trio.run, args=[self._main], name="mdx", daemon=True)
        # In a context of its own: it is no part of a `patched` block that happens to be open.
        Context().run(thread.start)
        self._ready.wait()

    def submit(self, work: Callable[..., Awaitable[T]], *arguments: Any) -> Job[T]:
        job: Job[T] = Job()
        token, nursery = self._token, self._nursery
        if token is None or nursery is None:
            raise RuntimeError("the portal did not begin")
        job.token = token
        token.run_sync_soon(nursery.start_soon, _carry_out, job, work, arguments)
        return job

    async def _main(self) -> None:
        async with trio.open_nursery() as self._nursery:
            self._token = trio.lowlevel.current_trio_token()
            self._ready.set()
            await trio.sleep_forever()


async def _carry_out(
    job: Job[Any], work: Callable[..., Awaitable[Any]], arguments: tuple[Any, ...]
) -> None:
    # No error may leave this task: the portal serves others besides.
    if not job.set_running_or_notify_cancel():
        return  # asyncio gave it up before it began
    try:
        with job.scope:
            job.set_result(await work(*arguments))
    except Exception as error:
        job.set_exception(error)
    finally:
        if not job.done():
            job.set_exception(CancelledError())


_lock = threading.Lock()
_portal: _Portal | None = None


def submit(work: Callable[..., Awaitable[T]], *arguments: Any) -> Job[T]:
    """Begin `await work(*arguments)` in the portal; do not wait."""
    global _portal
    with _lock:
        if _portal is None or _portal.pid != os.getpid():
            _portal = _Portal()
        portal = _portal
    return portal.submit(work, *arguments)


def run(work: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    """`await work(*arguments)` in the portal; wait for it. Ctrl-C ends it there, too."""
    job = submit(work, *arguments)
    try:
        return job.result()
    except BaseException:
        job.abandon()
        raise


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
