"""A device that was revoked is refused by its gateway, and what it has open is cut."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tunnel.revocations import Revocations

if TYPE_CHECKING:
    from tests.tunnel.conftest import TLS, Gateway

    EchoServer = Callable[[], AbstractAsyncContextManager[int]]

ECHO = "echo.test:7"


def connect(token: str) -> bytes:
    head = f"CONNECT {ECHO} HTTP/1.1\r\nHost: {ECHO}\r\nProxy-Authorization: Bearer {token}"
    return f"{head}\r\n\r\n".encode()


async def test_open_flows_of_a_revoked_device_are_cut_at_once_and_only_those(
    gateway: Gateway, tls: TLS, echo_server: EchoServer
) -> None:
    revoked = Revocations()
    other = tls.authority.issue(uris=["mdx://acme/device/d2/app/payroll"])
    async with echo_server() as port, gateway(hosts={ECHO: port}, revoked=revoked) as live:
        flows = []
        for who in (tls.app, other):
            stream = await live.connect(who)
            await stream.send_all(connect(await live.token(who)))
            assert b" 200 " in await stream.receive_some()
            flows.append(stream)

        assert revoked.replace({"d1"}) == {"d1"}

        with trio.fail_after(2), pytest.raises(trio.BrokenResourceError):
            await flows[0].receive_some()
        await flows[1].send_all(b"still here")
        assert await flows[1].receive_some() == b"still here"
        for stream in flows:
            await stream.aclose()
    ended = {record["device"]: record["ended"] for record in live.events("flow.ended")}
    assert ended["d1"] == "stopped"


async def test_a_revoked_device_gets_nothing_by_what_it_had(
    gateway: Gateway, tls: TLS, echo_server: EchoServer
) -> None:
    revoked = Revocations()
    async with echo_server() as port, gateway(hosts={ECHO: port}, revoked=revoked) as live:
        token, ticket = await live.token(), live.ticket()
        revoked.replace({"d1"})
        for request in (
            connect(token),
            connect(ticket),
            b"GET /.well-known/mdx/status HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
        ):
            with trio.fail_after(5):
                answer = await live.ask(request)
            assert answer.startswith(b"HTTP/1.1 403 "), answer
            assert b"Mdx-Refused: NOT_ALLOWED" in answer
            assert b"the device was revoked" in answer
    (first, *_) = live.events("connection.refused")
    assert "revoked" in first["reason"]
    assert not live.events("flow.allowed")
    assert token not in json.dumps(live.records)


async def test_waiting_ends_when_a_device_is_added_and_not_when_one_goes() -> None:
    revoked = Revocations({"a"})
    woken: list[int] = []

    async def wait() -> None:
        await revoked.changed()
        woken.append(len(revoked))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert revoked.replace([]) == frozenset()
        await trio.testing.wait_all_tasks_blocked()
        assert not woken
        assert revoked.replace(["b", "c"]) == {"b", "c"}
    assert woken == [2]
    assert "b" in revoked
    assert "a" not in revoked
