"""The agent's client against a live gateway, and against gateways that misbehave."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tunnel import gateway_client
from tunnel.destinations import parse_destination
from tunnel.errors import HandshakeFailed, RefusalCode, Refused
from tunnel.gateway_client import GatewayClient, SessionToken
from tunnel.limits import Limits
from tunnel.tickets import new_session_token, new_ticket
from tunnel.tls import ClientContext, client_context
from tunnel.tls_stream import TLSStream

if TYPE_CHECKING:
    from tests.tunnel.conftest import TLS, Authority, Gateway, Issued, Serve

    EchoServer = Callable[[], AbstractAsyncContextManager[int]]
    TCPServer = Callable[[Serve], AbstractAsyncContextManager[int]]

ECHO = parse_destination("echo.test:7")
FLOW = "0123456789abcdef"
GRANTED = json.dumps({"token": new_session_token(), "expires_in": 60}).encode()


def client_of(tls: TLS, port: int, *, name: str = "gateway.test") -> GatewayClient:
    """A client of whatever serves on this port."""

    async def context() -> ClientContext:
        await trio.lowlevel.checkpoint()
        return tls.client

    async def ticket() -> str:
        await trio.lowlevel.checkpoint()
        return new_ticket("desk")

    return GatewayClient(host="127.0.0.1", port=port, name=name, context=context, ticket=ticket)


async def refused(client: GatewayClient, to: str = "echo.test:7") -> Refused:
    """How opening a stream is refused."""
    with pytest.raises(Refused) as caught:
        await client.open_(parse_destination(to), flow=FLOW)
    return caught.value


@asynccontextmanager
async def scripted(
    tls: TLS, tcp_server: TCPServer, answers: list[bytes | None]
) -> AsyncIterator[tuple[int, list[bytes]]]:
    """(port, requests) of a gateway that gives these answers in turn; None is a cut."""
    requests: list[bytes] = []

    async def serve(tcp: trio.SocketStream) -> None:
        stream = TLSStream(tcp, tls.server)
        try:
            await stream.do_handshake()
            requests.append(await stream.receive_some())
        except HandshakeFailed:
            return
        answer = answers[len(requests) - 1]
        if answer is None:
            await trio.aclose_forcefully(stream)
            return
        await stream.send_all(answer)
        await stream.aclose()

    async with tcp_server(serve) as port:
        yield port, requests


def ok(body: bytes) -> bytes:
    """A 200 with this body."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def no(code: str, status: int, body: bytes) -> bytes:
    """A refusal."""
    return (
        b"HTTP/1.1 %d No\r\nMdx-Refused: %b\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
        % (status, code.encode(), len(body), body)
    )


async def test_one_ticket_serves_many_streams(gateway: Gateway, echo_server: EchoServer) -> None:
    async with echo_server() as port, gateway(hosts={"echo.test:7": port}) as live:
        client = live.client()

        async def one() -> None:
            opened = await client.open_(ECHO, flow=FLOW)
            await opened.stream.send_all(b"hello")
            assert await opened.stream.receive_some() == b"hello"
            await opened.stream.send_eof()
            assert await opened.stream.receive_some() == b""
            await opened.stream.aclose()

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(one)
        assert live.desk.redeemed == 1
        assert live.events("flow.allowed")[0]["flow"] == FLOW
        assert client.negotiated is not None
        assert client.negotiated.group == "X25519MLKEM768"


async def test_nothing_is_asked_for_before_the_first_need(gateway: Gateway) -> None:
    async with gateway() as live:
        live.client()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert live.desk.tickets == {}


async def test_407_means_a_new_ticket_once(gateway: Gateway, echo_server: EchoServer) -> None:
    limits = Limits(session_idle_seconds=100)
    async with echo_server() as port, gateway(hosts={"echo.test:7": port}, limits=limits) as live:
        client = live.client()
        await (await client.open_(ECHO, flow=FLOW)).stream.aclose()
        live.clock.now += 101
        async with trio.open_nursery() as nursery:  # two at once share the new ticket

            async def one() -> None:
                await (await client.open_(ECHO, flow=FLOW)).stream.aclose()

            with trio.fail_after(5):
                while len(live.events("flow.ended")) < 1:
                    await trio.testing.wait_all_tasks_blocked(0.01)
            live.clock.now += 101
            nursery.start_soon(one)
            nursery.start_soon(one)
        assert live.desk.redeemed == 2


async def test_restarted_gateway_is_served_by_a_new_ticket(
    gateway: Gateway, echo_server: EchoServer, tls: TLS
) -> None:
    async with echo_server() as port, gateway(hosts={"echo.test:7": port}) as live:
        client = live.client()
        client._token = SessionToken(token=new_session_token(), expires_in=60)  # of a life before
        client._token_ends = trio.current_time() + 60
        await (await client.open_(ECHO, flow=FLOW)).stream.aclose()
        assert [record["event"] for record in live.records][:2] == [
            "flow.refused",
            "session.granted",
        ]


async def test_gateway_that_always_says_407_ends_in_a_refusal_that_is_no_407(
    tls: TLS, tcp_server: TCPServer
) -> None:
    unauthenticated = no("NOT_AUTHENTICATED", 407, b"NOT_AUTHENTICATED: not known here\n")
    script: list[bytes | None] = [ok(GRANTED), unauthenticated, ok(GRANTED), unauthenticated]
    async with scripted(tls, tcp_server, script) as (port, requests):
        found = await refused(client_of(tls, port))
    assert found.code is RefusalCode.GATEWAY_REFUSED
    assert found.rule == "gateway: not known here"
    assert len(requests) == 4


async def test_refused_ticket_is_the_gateways_no(gateway: Gateway, tls: TLS) -> None:
    async with gateway() as live:
        found = await refused(client_of(tls, live.port))  # its tickets are of no desk
        assert found.code is RefusalCode.GATEWAY_REFUSED
        assert "the ticket is not good" in found.rule


async def test_gateways_reasons_are_passed_on(gateway: Gateway) -> None:
    async with gateway(allow={"payroll": ["*.corp.test", "169.254.0.0/16"]}) as live:
        client = live.client()
        cases = {
            "echo.test:7": RefusalCode.NOT_ALLOWED,
            "a.corp.test:1": RefusalCode.NAME_NOT_FOUND,
            "169.254.169.254:80": RefusalCode.ADDRESS_GUARD,
        }
        for to, code in cases.items():
            found = await refused(client, to)
            assert found.code is code
            assert found.rule.startswith("gateway: ")
            assert "allow list" in found.rule or code is not RefusalCode.NOT_ALLOWED
        assert live.desk.redeemed == 1


async def test_gateway_down(tls: TLS, unused_port: int) -> None:
    found = await refused(client_of(tls, unused_port))
    assert found.code is RefusalCode.GATEWAY_DOWN
    assert f"127.0.0.1:{unused_port}" in found.rule
    assert "mdx up" in found.hint


@pytest.mark.parametrize(
    "answer",
    [
        None,
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"\x00\x01\x02\x03 nonsense\r\n\r\n",
        b"SSH-2.0-something\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 40_000,
        b"HTTP/1.1 403 No\r\nContent-Length: 99999\r\n\r\n" + b"y" * 99_999,
    ],
)
async def test_gateway_that_breaks_off_or_raves(
    tls: TLS, tcp_server: TCPServer, answer: bytes | None
) -> None:
    for script in ([answer], [ok(GRANTED), answer]):
        async with scripted(tls, tcp_server, script) as (port, _):
            assert (await refused(client_of(tls, port))).code is RefusalCode.GATEWAY_DOWN


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b'{"token": "x", "expires_in": 1}',
        b'{"token": 7, "expires_in": 1}',
        json.dumps({"token": f"mdxs1.{'A' * 43}", "expires_in": "soon"}).encode(),
        json.dumps({"token": f"mdxs1.{'A' * 43}\r\nX: y", "expires_in": 1}).encode(),
    ],
)
async def test_senseless_session_is_refused(tls: TLS, tcp_server: TCPServer, body: bytes) -> None:
    async with scripted(tls, tcp_server, [ok(body)]) as (port, _):
        found = await refused(client_of(tls, port))
    assert found.code is RefusalCode.GATEWAY_REFUSED
    assert "makes no sense" in found.rule


async def test_unknown_refusal_and_long_or_odd_text(tls: TLS, tcp_server: TCPServer) -> None:
    body = b"line one\nline \x1b[31mtwo\xff " + b"z" * 2000
    script: list[bytes | None] = [ok(GRANTED), no("SOMETHING_NEW", 418, body)]
    async with scripted(tls, tcp_server, script) as (port, _):
        found = await refused(client_of(tls, port))
    assert found.code is RefusalCode.GATEWAY_REFUSED
    assert len(found.rule) < 600
    assert "\n" not in found.rule


async def test_early_bytes_of_the_host_are_kept(tls: TLS, tcp_server: TCPServer) -> None:
    granted = b"HTTP/1.1 200 Connection established\r\n\r\n220 welcome\r\n"
    async with scripted(tls, tcp_server, [ok(GRANTED), granted]) as (port, _):
        opened = await client_of(tls, port).open_(ECHO, flow=FLOW)
        assert opened.early == b"220 welcome\r\n"
        assert "welcome" not in repr(opened)
        await opened.stream.aclose()


async def test_not_a_byte_before_the_yes(tls: TLS, tcp_server: TCPServer) -> None:
    granted = b"HTTP/1.1 200 OK\r\n\r\n"
    async with scripted(tls, tcp_server, [ok(GRANTED), granted]) as (port, requests):
        opened = await client_of(tls, port).open_(ECHO, flow=FLOW)
        await opened.stream.aclose()
    assert requests[0].startswith(b"POST /.well-known/mdx/session HTTP/1.1\r\n")
    assert requests[1].startswith(b"CONNECT echo.test:7 HTTP/1.1\r\nHost: echo.test:7\r\n")
    assert requests[1].endswith(b"Mdx-Flow: 0123456789abcdef\r\n\r\n")
    assert b"Bearer mdx1." not in requests[1]


async def test_gateway_with_the_wrong_name_or_authority_gets_no_ticket(
    gateway: Gateway, tls: TLS, new_authority: Callable[[], Authority]
) -> None:
    async with gateway() as live:
        found = await refused(client_of(tls, live.port, name="other.test"))
        assert found.code is RefusalCode.GATEWAY_REFUSED
        assert "not good for other.test" in found.rule
        stranger = new_authority()

        async def context() -> ClientContext:
            await trio.lowlevel.checkpoint()
            return client_context(ca=stranger.pem, certificate=tls.app.certificate, key=tls.app.key)

        client = client_of(tls, live.port)
        client._context = context
        assert "unknown ca" in (await refused(client)).rule
        assert live.records == []


async def test_own_expired_certificate_is_said_in_words(gateway: Gateway, tls: TLS) -> None:
    expired: Issued = tls.authority.issue(
        uris=["mdx://acme/device/d1/app/payroll"], ends_seconds=-1
    )
    async with gateway() as live:
        found = await refused(live.client(expired))
        assert found.code is RefusalCode.GATEWAY_REFUSED
        assert "certificate expired" in found.rule


async def test_silent_gateway_ends_in_time_out(
    tls: TLS, tcp_server: TCPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve(tcp: trio.SocketStream) -> None:
        stream = TLSStream(tcp, tls.server)
        await stream.do_handshake()
        while await stream.receive_some():
            pass
        await stream.aclose()

    async def mute(tcp: trio.SocketStream) -> None:
        while await tcp.receive_some():
            pass
        await tcp.aclose()

    monkeypatch.setattr(gateway_client, "ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(gateway_client, "CONNECT_SECONDS", 0.1)
    async with tcp_server(mute) as port:
        assert (await refused(client_of(tls, port))).code is RefusalCode.GATEWAY_DOWN
    monkeypatch.setattr(gateway_client, "CONNECT_SECONDS", 10)
    async with tcp_server(serve) as port:
        assert (await refused(client_of(tls, port))).code is RefusalCode.TIMED_OUT


async def test_what_the_callables_refuse_is_passed_on(gateway: Gateway) -> None:
    async def ticket() -> str:
        await trio.lowlevel.checkpoint()
        raise Refused(RefusalCode.GATEWAY_REFUSED, "control is down", "try later")

    async with gateway() as live:
        client = live.client()
        client._ticket = ticket
        assert (await refused(client)).rule == "control is down"


async def test_cancelled_open_closes_its_connection(tls: TLS, tcp_server: TCPServer) -> None:
    ended = trio.Event()

    async def serve(tcp: trio.SocketStream) -> None:
        try:
            stream = TLSStream(tcp, tls.server)
            await stream.do_handshake()
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError:
            ended.set()
            raise

    async with tcp_server(serve) as port:
        with trio.move_on_after(0.2) as scope:
            await client_of(tls, port).open_(ECHO, flow=FLOW)
        assert scope.cancelled_caught
        with trio.fail_after(5):
            await ended.wait()


def test_no_secret_in_a_repr() -> None:
    token = new_session_token()
    assert token not in repr(SessionToken(token=token, expires_in=1))
