"""What an HTTP server answered, and where the work of asking is done."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import trio

from mdx.errors import BadStatus
from mdx.library import portal

__all__ = ["Download", "Headers", "Response", "here"]

T = TypeVar("T")
Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An answer, whatever its status. Header names are lower case."""

    status: int
    headers: Headers = field(repr=False)
    body: bytes = field(repr=False)

    def header(self, name: str) -> str | None:
        """The first header of that name, or None."""
        return _header(self.headers, name)

    @property
    def text(self) -> str:
        """The body as UTF-8; what is none of it is replaced."""
        return self.body.decode(errors="replace")

    def json(self) -> Any:
        """The body as JSON. Raises: ValueError."""
        return json.loads(self.body)

    def check(self) -> Response:
        """Itself. Raises: BadStatus unless the status is 200 to 299."""
        if not 200 <= self.status <= 299:
            raise BadStatus(f"the server answered with status {self.status}", status=self.status)
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """An answer whose body is taken piece by piece. In async code iterate with `async for`."""

    status: int
    headers: Headers = field(repr=False)
    _next: Callable[[], Awaitable[bytes]] = field(repr=False)

    def header(self, name: str) -> str | None:
        """The first header of that name, or None."""
        return _header(self.headers, name)

    def __iter__(self) -> Iterator[bytes]:
        while piece := portal.run(self._next):
            yield piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while piece := await here(self._next):
            yield piece


async def here(work: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    """Do it where the program runs: in its own trio run, or for asyncio in the portal."""
    if trio.lowlevel.in_trio_task():
        return await work(*arguments)
    job = portal.submit(work, *arguments)
    try:
        return await asyncio.wrap_future(job)
    except asyncio.CancelledError:
        job.abandon()
        raise


def _header(headers: Headers, name: str) -> str | None:
    return next((value for known, value in headers if known == name.lower()), None)
