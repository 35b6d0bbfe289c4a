"""Work for trio from elsewhere: results, errors, giving up, and a portal that outlives them all."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest
import trio

from mdx.library import portal


async def double(number: int) -> int:
    await trio.lowlevel.checkpoint()
    return 2 * number


async def fail() -> None:
    await trio.lowlevel.checkpoint()
    raise LookupError("as it should")


def test_results_and_errors_come_back() -> None:
    assert portal.run(double, 4) == 8
    with pytest.raises(LookupError, match="as it should"):
        portal.run(fail)
    assert portal.run(double, 5) == 10


def test_many_threads_share_one() -> None:
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda n: portal.run(double, n), range(100))) == [*range(0, 200, 2)]
    assert sum(thread.name == "mdx" for thread in threading.enumerate()) == 1


def test_what_is_given_up_ends_there_and_harms_nobody() -> None:
    ended = threading.Event()

    async def wait() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    job = portal.submit(wait)
    portal.run(double, 1)
    job.abandon()
    assert ended.wait(10)
    with pytest.raises(CancelledError):
        job.result(10)

    async def give_up_in_asyncio() -> None:
        waiting = asyncio.wrap_future(portal.submit(wait))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    for _ in range(20):
        asyncio.run(give_up_in_asyncio())
    assert portal.run(double, 3) == 6


def test_a_forked_child_has_one_of_its_own() -> None:
    portal.run(double, 1)
    child = os.fork()
    if child == 0:
        os._exit(0 if portal.run(double, 21) == 42 else 1)
    assert os.waitpid(child, 0)[1] == 0
