"""Dialling: one look-up, every address checked, what was checked is dialled."""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from ipaddress import IPv4Address, ip_address
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tunnel import dialing
from tunnel.addresses import Address
from tunnel.destinations import Destination
from tunnel.dialing import dial, system_resolve
from tunnel.errors import RefusalCode, Refused

if TYPE_CHECKING:
    from tests.tunnel.conftest import Serve

LOOPBACK = IPv4Address("127.0.0.1")


def answering(*addresses: str) -> Callable[[str], Awaitable[Sequence[Address]]]:
    """A resolver that gives these addresses, and may be asked once only."""
    asked: list[str] = []

    async def resolve(host: str) -> Sequence[Address]:
        await trio.lowlevel.checkpoint()
        assert not asked, "a second look-up"
        asked.append(host)
        return [ip_address(address) for address in addresses]

    return resolve


def allow(address: Address) -> None:
    """Any address."""


async def refused(port: int, **more: object) -> Refused:
    """How dialling name.test ends."""
    with pytest.raises(Refused) as caught:
        await dial(
            Destination("name.test", port),
            **{"resolve": answering("127.0.0.1"), "check": allow} | more,  # type: ignore[arg-type]
        )
    return caught.value


async def test_the_checked_address_is_dialled(
    echo_server: Callable[[], AbstractAsyncContextManager[int]],
) -> None:
    checked: list[Address] = []
    told: list[Sequence[Address]] = []
    async with echo_server() as port:
        stream = await dial(
            Destination("name.test", port),
            resolve=answering("127.0.0.1"),
            check=checked.append,
            chosen=told.append,
        )
        async with stream:
            assert stream.socket.getpeername() == ("127.0.0.1", port)
    assert checked == [LOOPBACK]
    assert told == [[LOOPBACK]]


async def test_an_address_is_not_looked_up(
    echo_server: Callable[[], AbstractAsyncContextManager[int]],
) -> None:
    async def resolve(host: str) -> Sequence[Address]:
        raise AssertionError

    async with echo_server() as port:
        stream = await dial(Destination("127.0.0.1", port), resolve=resolve, check=allow)
        await stream.aclose()


async def test_refused_addresses_are_left_out(
    echo_server: Callable[[], AbstractAsyncContextManager[int]],
) -> None:
    def check(address: Address) -> None:
        if address != LOOPBACK:
            raise Refused(RefusalCode.ADDRESS_GUARD, f"{address} may not be")

    told: list[Sequence[Address]] = []
    async with echo_server() as port:
        stream = await dial(
            Destination("name.test", port),
            resolve=answering("127.0.0.2", "127.0.0.3", "127.0.0.1"),
            check=check,
            chosen=told.append,
        )
        async with stream:
            assert stream.socket.getpeername()[0] == "127.0.0.1"
        assert told == [[LOOPBACK]]
        with pytest.raises(Refused, match=r"127\.0\.0\.2 may not be"):
            await dial(
                Destination("name.test", port),
                resolve=answering("127.0.0.2", "127.0.0.3"),
                check=check,
            )


async def test_chosen_that_refuses_means_that_nothing_is_dialled(
    tcp_server: Callable[[Serve], AbstractAsyncContextManager[int]],
) -> None:
    came: list[trio.SocketStream] = []

    async def serve(stream: trio.SocketStream) -> None:
        came.append(stream)
        await stream.aclose()

    def no(addresses: Sequence[Address]) -> None:
        raise Refused(RefusalCode.AUDIT_UNWRITABLE, "no")

    async with tcp_server(serve) as port:
        assert (await refused(port, chosen=no)).code is RefusalCode.AUDIT_UNWRITABLE
        await trio.testing.wait_all_tasks_blocked(0.02)
    assert came == []


async def test_dead_addresses_are_passed_over(
    echo_server: Callable[[], AbstractAsyncContextManager[int]],
) -> None:
    async with echo_server() as port:
        stream = await dial(
            Destination("name.test", port),
            resolve=answering("127.0.0.9", "127.0.0.1"),  # nobody listens at .9
            check=allow,
        )
        async with stream:
            assert stream.socket.getpeername()[0] == "127.0.0.1"


async def test_what_the_network_says_becomes_a_code(unused_port: int) -> None:
    cases = {
        RefusalCode.CONNECTION_REFUSED: answering("127.0.0.1"),
        RefusalCode.NAME_NOT_FOUND: answering(),
        RefusalCode.UNREACHABLE: answering("255.255.255.255"),
    }
    for code, resolve in cases.items():
        assert (await refused(unused_port, resolve=resolve)).code is code


async def test_silence_ends_in_time_out() -> None:
    # A listener whose queue is full answers no one: its kernel drops what asks for a connection.
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        address = deaf.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            assert filler.connect_ex(address) in (0, errno.EINPROGRESS)
        late = await refused(address[1], timeout_seconds=0.2)
        for filler in fillers:
            filler.close()
    assert late.code is RefusalCode.TIMED_OUT
    assert "0.2 s" in late.rule


async def test_slow_name_server_ends_in_time_out(autojump_clock: trio.testing.MockClock) -> None:
    async def resolve(host: str) -> Sequence[Address]:
        await trio.sleep_forever()
        raise AssertionError

    assert (await refused(1, resolve=resolve)).code is RefusalCode.TIMED_OUT


async def test_long_answers_are_cut(unused_port: int) -> None:
    checked: list[Address] = []
    many = answering(*(f"127.0.1.{number}" for number in range(1, 250)))
    await refused(unused_port, resolve=many, check=checked.append, stagger_seconds=0)
    assert len(checked) == dialing.MAX_ADDRESSES


async def test_losers_of_the_race_are_closed(
    tcp_server: Callable[[Serve], AbstractAsyncContextManager[int]],
) -> None:
    ends: list[bytes] = []
    done = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            ends.append(await stream.receive_some())
            if len(ends) == 2:
                done.set()

    async with tcp_server(serve) as port:
        # Both addresses lead to the one server; with no stagger both connections may come to be.
        stream = await dial(
            Destination("name.test", port),
            resolve=answering("127.0.0.1", "127.0.0.1"),
            check=allow,
            stagger_seconds=0,
        )
        await stream.send_all(b"winner")
        await stream.aclose()
        with trio.move_on_after(0.5):
            await done.wait()
    assert b"winner" in ends
    assert set(ends) <= {b"winner", b""}


async def test_cancelled_dial_leaves_no_socket_behind(unused_port: int) -> None:
    async def resolve(host: str) -> Sequence[Address]:
        await trio.sleep_forever()
        raise AssertionError

    with trio.move_on_after(0.01) as scope:
        await dial(Destination("name.test", unused_port), resolve=resolve, check=allow)
    assert scope.cancelled_caught  # a leaked socket is a warning, and warnings are errors here


async def test_system_resolver() -> None:
    found = await system_resolve("localhost")
    assert LOOPBACK in found
    assert len(found) == len(set(found))
    with pytest.raises(Refused) as caught:
        await system_resolve("name.invalid")  # RFC 6761: never there
    assert caught.value.code is RefusalCode.NAME_NOT_FOUND
