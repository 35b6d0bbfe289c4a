"""Relays: half-closes, cuts, limits, and what is told about them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tunnel.errors import RefusalCode, Refused
from tunnel.relay import Ended, Relayed, abort, relay

if TYPE_CHECKING:
    from tests.tunnel.conftest import TLS, Connection

    Pair = Callable[[], Awaitable[Connection]]

PENDING = bytes(range(256)) * 157


async def receive_all(stream: trio.abc.ReceiveStream) -> bytes:
    """All up to the clean end."""
    received = bytearray()
    while data := await stream.receive_some():
        received += data
    return bytes(received)


async def test_each_direction_ends_by_itself(tcp_pair: Pair) -> None:
    app, a = await tcp_pair()
    b, host = await tcp_pair()
    results: list[Relayed] = []
    told: list[Relayed] = []

    async def run() -> None:
        results.append(await relay(a, b, ended=told.append))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await app.send_all(b"PING\r\n")
        await app.send_eof()
        assert await receive_all(host) == b"PING\r\n"
        await host.send_all(PENDING)  # after the other direction has ended
        await host.send_eof()
        assert await receive_all(app) == PENDING
    expected = Relayed(bytes_up=6, bytes_down=len(PENDING), ended=Ended.CLEAN)
    assert results == told == [expected]
    await app.aclose()
    await host.aclose()


async def test_host_may_end_first(tcp_pair: Pair) -> None:
    app, a = await tcp_pair()
    b, host = await tcp_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay, a, b)
        await host.send_eof()
        assert await app.receive_some() == b""
        await app.send_all(PENDING)
        await app.send_eof()
        assert await receive_all(host) == PENDING
    await app.aclose()
    await host.aclose()


@pytest.mark.parametrize("who", ["app", "host"])
async def test_cut_of_one_side_is_a_reset_for_the_other(tcp_pair: Pair, who: str) -> None:
    app, a = await tcp_pair()
    b, host = await tcp_pair()
    cut, other = (app, host) if who == "app" else (host, app)
    told: list[Relayed] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: relay(a, b, ended=told.append))
        await cut.send_all(b"the first half")
        assert await other.receive_some() == b"the first half"
        await abort(cut)
        with pytest.raises(trio.BrokenResourceError):
            await other.receive_some()
    assert told[0].ended is Ended.CUT
    await other.aclose()


async def test_tls_that_ends_without_goodbye_is_a_reset_for_the_app(
    tls: TLS, tcp_pair: Pair
) -> None:
    app, a = await tcp_pair()
    b, host = await tls.pair()
    assert isinstance(host.transport, trio.SocketStream)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay, a, b)
        await host.send_all(b"half of a download")
        assert await app.receive_some() == b"half of a download"
        await host.transport.send_eof()  # the end of TCP, but not of TLS
        with pytest.raises(trio.BrokenResourceError):
            await app.receive_some()
    await app.aclose()
    await trio.aclose_forcefully(host)


async def test_what_was_read_before_goes_first_and_is_counted_but_not_the_answer(
    tcp_pair: Pair,
) -> None:
    app, a = await tcp_pair()
    b, host = await tcp_pair()
    told: list[Relayed] = []

    async def run() -> None:
        await relay(a, b, answer=b"200\n", first_up=b"up ", first_down=b"down ", ended=told.append)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await app.send_all(b"more")
        await app.send_eof()
        await host.send_all(b"even more")
        await host.send_eof()
        assert await receive_all(host) == b"up more"
        assert await receive_all(app) == b"200\ndown even more"
    assert told == [Relayed(bytes_up=7, bytes_down=14, ended=Ended.CLEAN)]
    await app.aclose()
    await host.aclose()


async def test_answer_that_cannot_be_given_is_a_cut(tcp_pair: Pair) -> None:
    app, a = await tcp_pair()
    b, host = await tcp_pair()
    await abort(app)
    with trio.fail_after(5):
        relayed = await relay(a, b, answer=b"200\n" * 1000)
    assert relayed == Relayed(bytes_up=0, bytes_down=0, ended=Ended.CUT)
    with pytest.raises(trio.BrokenResourceError):
        await host.receive_some()
    await host.aclose()


async def test_take_up_decides_what_goes_on(tcp_pair: Pair) -> None:
    app, a = await tcp_pair()
    b, host = await tcp_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: relay(a, b, take_up=lambda data: data.replace(b"x", b"")))
        await app.send_all(b"axbxc")
        assert await host.receive_some() == b"abc"
        await app.send_all(b"xxx")  # nothing of that: no end either
        await app.send_all(b"d")
        assert await host.receive_some() == b"d"
        await app.send_eof()
        assert await host.receive_some() == b""
        await host.send_eof()
    await app.aclose()
    await host.aclose()


async def test_take_up_that_refuses_is_a_cut(tcp_pair: Pair) -> None:
    def take(data: bytes) -> bytes:
        raise Refused(RefusalCode.MALFORMED, "no")

    app, a = await tcp_pair()
    b, host = await tcp_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: relay(a, b, take_up=take))
        await app.send_all(b"bad")
        with pytest.raises(trio.BrokenResourceError):
            await host.receive_some()
    await app.aclose()
    await host.aclose()


async def test_cancelled_relay_aborts_both_and_says_what_it_carried(tcp_pair: Pair) -> None:
    app, a = await tcp_pair()
    b, host = await tcp_pair()
    told: list[Relayed] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: relay(a, b, ended=told.append))
        await app.send_all(b"12345")
        assert await host.receive_some() == b"12345"
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert told == [Relayed(bytes_up=5, bytes_down=0, ended=Ended.STOPPED)]
    for stream in (app, host):
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        await stream.aclose()


async def test_idle_pair_is_aborted_and_a_busy_one_is_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    app, a = trio.testing.memory_stream_pair()
    b, host = trio.testing.memory_stream_pair()
    told: list[Relayed] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: relay(a, b, idle_seconds=60, ended=told.append))
        for _ in range(5):
            await trio.sleep(50)
            await app.send_all(b"x")
            assert await host.receive_some() == b"x"
        started = trio.current_time()
        assert await host.receive_some() == b""
        assert trio.current_time() - started == pytest.approx(60)
    assert told == [Relayed(bytes_up=5, bytes_down=0, ended=Ended.IDLE)]


async def test_slow_reader_holds_the_writer_back(tcp_pair: Pair) -> None:
    app, a = await tcp_pair()
    b, host = await tcp_pair()
    sent = 0

    async def pour() -> None:
        nonlocal sent
        while True:
            await app.send_all(bytes(64 * 1024))
            sent += 64 * 1024

    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay, a, b)
        nursery.start_soon(pour)
        before = -1
        while before != sent:  # until all buffers of the kernel are full
            before = sent
            await trio.testing.wait_all_tasks_blocked(0.05)
        assert sent < 64 * 1024 * 1024
        nursery.cancel_scope.cancel()
    await app.aclose()
    await host.aclose()
