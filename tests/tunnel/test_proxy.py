"""The agent's listener with real sockets and real programs: SOCKS5 and HTTP on one port."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tunnel import proxy
from tunnel.destinations import Destination
from tunnel.errors import RefusalCode, Refused
from tunnel.gateway_client import Opened
from tunnel.proxy import serve_proxy
from tunnel.relay import Ended, Relayed, abort

if TYPE_CHECKING:
    from tests.tunnel.conftest import Connection, Gateway, LiveGateway, Serve

    Program = Callable[..., Awaitable[tuple[int, bytes, bytes]]]
    TCPServer = Callable[[Serve], AbstractAsyncContextManager[int]]
    EchoServer = Callable[[], AbstractAsyncContextManager[int]]
    Pair = Callable[[], Awaitable[Connection]]

PENDING = bytes(range(256)) * 157
GREETING = b"\x05\x01\x00"
REQUEST = b"\x05\x01\x00\x03\x09echo.test\x00\x07"
CONNECT = b"CONNECT echo.test:7 HTTP/1.1\r\nHost: echo.test:7\r\n\r\n"
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
SOCKS_YES = b"\x05\x00" + b"\x05\x00\x00\x01" + bytes(6)


@dataclass(kw_only=True)
class Live:
    """A listener that serves, and what it was asked and told."""

    port: int
    asked: list[str] = field(default_factory=list)
    malformed: list[Refused] = field(default_factory=list)
    ended: list[tuple[str, Relayed]] = field(default_factory=list)
    failed: list[BaseException] = field(default_factory=list)

    async def connect(self) -> trio.SocketStream:
        """A connection of an app's."""
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def ask(self, data: bytes) -> bytes:
        """All that is answered to these bytes, up to the clean end."""
        async with await self.connect() as stream:
            await stream.send_all(data)
            answer = bytearray()
            with trio.fail_after(5):
                while received := await stream.receive_some():
                    answer += received
        return bytes(answer)

    async def told(self, count: int = 1) -> None:
        """Wait until so many flows have ended."""
        with trio.fail_after(5):
            while len(self.ended) < count:
                await trio.testing.wait_all_tasks_blocked(0.005)


Connect = Callable[[Destination, str], Awaitable[Opened]]


@asynccontextmanager
async def listening(
    connect: Connect, *, admit: Callable[[trio.SocketStream], Awaitable[bool]] | None = None
) -> AsyncIterator[Live]:
    """Serve for as long as the block runs."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    live = Live(port=listener.socket.getsockname()[1])

    async def anyone(stream: trio.SocketStream) -> bool:
        await trio.lowlevel.checkpoint()
        return True

    async def remembering(destination: Destination, flow: str) -> Opened:
        live.asked.append(str(destination))
        return await connect(destination, flow)

    async def serve() -> None:
        await serve_proxy(
            listener,
            admit=admit or anyone,
            connect=remembering,
            malformed=lambda flow, refused: live.malformed.append(refused),
            ended=lambda flow, relayed: live.ended.append((flow, relayed)),
            failed=live.failed.append,
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield live
        nursery.cancel_scope.cancel()


def to(port: int, early: bytes = b"") -> Connect:
    """Every destination leads to this port on loopback."""

    async def connect(destination: Destination, flow: str) -> Opened:
        return Opened(stream=await trio.open_tcp_stream("127.0.0.1", port), early=early)

    return connect


def refusing(refused: Refused) -> Connect:
    """Every destination is refused."""

    async def connect(destination: Destination, flow: str) -> Opened:
        await trio.lowlevel.checkpoint()
        raise refused

    return connect


async def receive_exactly(stream: trio.SocketStream, count: int) -> bytes:
    """So many bytes."""
    received = bytearray()
    while len(received) < count:
        data = await stream.receive_some(count - len(received))
        assert data, bytes(received)
        received += data
    return bytes(received)


async def receive_all(stream: trio.abc.ReceiveStream) -> bytes:
    """All up to the clean end."""
    received = bytearray()
    while data := await stream.receive_some():
        received += data
    return bytes(received)


@pytest.mark.parametrize(
    ("opening", "answer"), [(GREETING + REQUEST, SOCKS_YES), (CONNECT, ESTABLISHED)]
)
@pytest.mark.parametrize("pieces", ["whole", "byte by byte", "with payload"])
async def test_both_protocols_on_one_port(
    echo_server: EchoServer, opening: bytes, answer: bytes, pieces: str
) -> None:
    async with echo_server() as port, listening(to(port)) as live:
        stream = await live.connect()
        payload = b"payload"
        if pieces == "byte by byte":
            for index in range(len(opening)):
                await stream.send_all(opening[index : index + 1])
        else:
            await stream.send_all(opening + (payload if pieces == "with payload" else b""))
        assert await receive_exactly(stream, len(answer)) == answer
        if pieces != "with payload":
            await stream.send_all(payload)
        assert await receive_exactly(stream, len(payload)) == payload
        await stream.send_eof()
        assert await stream.receive_some() == b""
        await live.told()
        await stream.aclose()
    assert live.asked == ["echo.test:7"]
    [(flow, relayed)] = live.ended
    assert len(flow) == 16
    assert relayed == Relayed(bytes_up=7, bytes_down=7, ended=Ended.CLEAN)
    assert live.failed == []


@pytest.mark.parametrize(
    ("opening", "answer"), [(GREETING + REQUEST, SOCKS_YES), (CONNECT, ESTABLISHED)]
)
@pytest.mark.parametrize("first", ["app", "host"])
async def test_half_close_loses_nothing(
    tcp_server: TCPServer, opening: bytes, answer: bytes, first: str
) -> None:
    heard: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        if first == "host":
            await stream.send_all(PENDING)
            await stream.send_eof()
        heard.append(await receive_all(stream))
        if first == "app":
            await stream.send_all(PENDING)
        await stream.aclose()

    async with tcp_server(serve) as port, listening(to(port)) as live:
        stream = await live.connect()
        await stream.send_all(opening)
        assert await receive_exactly(stream, len(answer)) == answer
        if first == "app":
            await stream.send_all(PENDING)
            await stream.send_eof()
            assert await receive_all(stream) == PENDING
        else:
            assert await receive_all(stream) == PENDING
            await stream.send_all(PENDING)
            await stream.send_eof()
        await live.told()
        await stream.aclose()
    assert heard == [PENDING]
    assert live.ended[0][1].ended is Ended.CLEAN


async def test_early_bytes_of_the_host_come_after_the_answer(echo_server: EchoServer) -> None:
    async with echo_server() as port, listening(to(port, b"220 hello\r\n")) as live:
        stream = await live.connect()
        await stream.send_all(CONNECT)
        expected = ESTABLISHED + b"220 hello\r\n"
        assert await receive_exactly(stream, len(expected)) == expected
        await stream.aclose()


async def test_cut_of_the_host_is_a_reset_for_the_app(tcp_server: TCPServer) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await abort(stream)

    async with tcp_server(serve) as port, listening(to(port)) as live:
        stream = await live.connect()
        await stream.send_all(CONNECT)
        await receive_exactly(stream, len(ESTABLISHED))
        await stream.send_all(b"go")
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        await live.told()
        await stream.aclose()
    assert live.ended[0][1].ended is Ended.CUT


async def test_host_that_broke_before_the_relay_is_a_reset(
    tcp_pair: Pair,
) -> None:
    async def connect(destination: Destination, flow: str) -> Opened:
        near, far = await tcp_pair()
        await abort(far)
        return Opened(stream=near)

    async with listening(connect) as live:
        stream = await live.connect()
        await stream.send_all(CONNECT + b"payload")
        with pytest.raises(trio.BrokenResourceError):
            await receive_all(stream)
        await live.told()
        await stream.aclose()
    assert live.ended[0][1].ended is Ended.CUT


@pytest.mark.parametrize("code", list(RefusalCode))
async def test_refusals_have_the_right_reply_in_both_protocols(code: RefusalCode) -> None:
    refused = Refused(code, "the rule that said so", "what to do")
    async with listening(refusing(refused)) as live:
        socks = await live.ask(GREETING + REQUEST + b"payload")
        assert socks == b"\x05\x00" + bytes([5, code.socks_reply, 0, 1]) + bytes(6)
        http = await live.ask(CONNECT + CONNECT)
        assert http.startswith(f"HTTP/1.1 {code.http_status} ".encode())
        assert f"\r\nMdx-Refused: {code.name}\r\n".encode() in http
        assert http.endswith(f"{code.name}: the rule that said so (what to do)\n".encode())
        assert http.count(b"Mdx-Refused") == 1
    assert live.asked == ["echo.test:7"] * 2
    assert live.ended == []


async def test_stranger_gets_no_answer(echo_server: EchoServer) -> None:
    async def admit(stream: trio.SocketStream) -> bool:
        await trio.lowlevel.checkpoint()
        return False

    async with echo_server() as port, listening(to(port), admit=admit) as live:
        for opening in (GREETING + REQUEST, CONNECT):
            stream = await live.connect()
            try:
                await stream.send_all(opening)
                assert await stream.receive_some() == b""
            except trio.BrokenResourceError:
                assert live.asked == []
            await stream.aclose()
    assert live.asked == []


def hostile(name: str) -> list[bytes]:
    """The messages of one hostile corpus."""
    rows = json.loads((Path(__file__).parent / "hostile" / name).read_text())
    return [
        b"".join(
            (piece if isinstance(piece, str) else piece[0] * piece[1]).encode("latin-1")
            for piece in row["data"]
        )
        for row in rows
    ]


@pytest.mark.parametrize("corpus", ["connect.json", "socks5.json"])
async def test_hostile_messages_open_nothing_and_the_same_listener_still_serves(
    echo_server: EchoServer, corpus: str
) -> None:
    async with echo_server() as port, listening(to(port)) as live:
        for data in hostile(corpus):
            async with await live.connect() as stream:
                await stream.send_all(data)
                await stream.send_eof()
                with trio.fail_after(5):
                    answer = await receive_all(stream)
            assert not answer.startswith(b"HTTP/1.1 200"), data
            assert b"\x05\x00\x00\x01" not in answer, data
        assert live.asked == []
        stream = await live.connect()
        await stream.send_all(CONNECT)
        assert await receive_exactly(stream, len(ESTABLISHED)) == ESTABLISHED
        await stream.aclose()
    assert live.failed == []


async def test_app_that_leaves_or_dawdles(
    echo_server: EchoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "HANDSHAKE_SECONDS", 0.1)
    async with echo_server() as port, listening(to(port)) as live:
        for data in (b"", b"\x05", b"CONN"):
            stream = await live.connect()
            if data:
                await stream.send_all(data)
            await abort(stream)
        assert await live.ask(b"CONNECT ec") == b""  # cut without an answer, after a while
        assert await live.ask(b"") == b""
    assert live.failed == []
    assert live.asked == []


async def test_too_many_connections_are_closed_at_once(
    echo_server: EchoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "MAX_CONNECTIONS", 2)
    async with echo_server() as port, listening(to(port)) as live:
        flows = []
        for _ in range(2):
            stream = await live.connect()
            await stream.send_all(CONNECT)
            await receive_exactly(stream, len(ESTABLISHED))
            flows.append(stream)
        assert await live.ask(b"") == b""
        await flows[0].aclose()
        await live.told()
        stream = await live.connect()
        await stream.send_all(CONNECT)
        await receive_exactly(stream, len(ESTABLISHED))
        for open_one in (stream, flows[1]):
            await open_one.aclose()


async def test_fault_in_a_connection_is_told_and_the_others_are_served(
    echo_server: EchoServer,
) -> None:
    async with echo_server() as port:
        good = to(port)

        async def connect(destination: Destination, flow: str) -> Opened:
            if destination.port == 8:
                raise KeyError("a bug")
            return await good(destination, flow)

        async with listening(connect) as live:
            bad = CONNECT.replace(b":7", b":8")
            assert await live.ask(bad) == b""
            stream = await live.connect()
            await stream.send_all(CONNECT)
            await receive_exactly(stream, len(ESTABLISHED))
            await stream.aclose()
    assert [type(error) for error in live.failed] == [KeyError]


async def test_cancelled_listener_resets_its_flows_and_tells_what_they_carried(
    echo_server: EchoServer,
) -> None:
    async with echo_server() as port:
        async with listening(to(port)) as live:
            stream = await live.connect()
            await stream.send_all(CONNECT + b"12345")
            await receive_exactly(stream, len(ESTABLISHED) + 5)
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        await stream.aclose()
    assert live.ended[0][1] == Relayed(bytes_up=5, bytes_down=5, ended=Ended.STOPPED)


# Plain http in absolute form ------------------------------------------------------------------


async def test_absolute_form_is_one_request_and_nothing_behind_it(tcp_server: TCPServer) -> None:
    heard: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        received = bytearray()
        while b"body" not in received:
            received += await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await stream.send_eof()
        received += await receive_all(stream)
        heard.append(bytes(received))
        await stream.aclose()

    async with tcp_server(serve) as port, listening(to(port)) as live:
        stream = await live.connect()
        await stream.send_all(
            b"POST http://a.test/path?q HTTP/1.1\r\nHost: a.test\r\nContent-Length: 8\r\n"
            b"Proxy-Connection: keep-alive\r\n\r\nthe "
        )
        # The rest of the body, and behind it a request for another host.
        await stream.send_all(b"body" + b"GET http://b.test/ HTTP/1.1\r\nHost: b.test\r\n\r\n")
        assert (await receive_all(stream)).endswith(b"ok")
        await stream.send_all(b"GET http://b.test/ HTTP/1.1\r\nHost: b.test\r\n\r\n")
        await stream.send_eof()
        await live.told()
        await stream.aclose()
    head, _, body = heard[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /path?q HTTP/1.1\r\nHost: a.test\r\n")
    assert b"Connection: close" in head
    assert b"Proxy-" not in head
    assert body == b"the body"
    assert live.asked == ["a.test:80"]


async def test_bad_body_is_cut(echo_server: EchoServer) -> None:
    async with echo_server() as port, listening(to(port)) as live:
        stream = await live.connect()
        await stream.send_all(
            b"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        assert (await stream.receive_some()).startswith(b"POST / HTTP/1.1\r\n")  # the echo
        await stream.send_all(b"zz\r\n")
        with pytest.raises(trio.BrokenResourceError):
            await receive_all(stream)
        await stream.aclose()


# Real programs -----------------------------------------------------------------------------------


def through(live: LiveGateway) -> Connect:
    """By way of a live gateway, as an agent would."""
    client = live.client()

    async def connect(destination: Destination, flow: str) -> Opened:
        return await client.open_(destination, flow=flow)

    return connect


async def site(stream: trio.SocketStream) -> None:
    """A web server of few words."""
    await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nprivate\n")
    await stream.send_eof()
    await stream.aclose()


@pytest.mark.parametrize(
    "how",
    [
        ("--proxy", "http://127.0.0.1:{}"),
        ("--proxy", "http://127.0.0.1:{}", "--proxytunnel"),
        ("--proxy", "socks5h://127.0.0.1:{}"),
    ],
)
async def test_real_curl_through_agent_and_gateway(
    gateway: Gateway, tcp_server: TCPServer, program: Program, how: tuple[str, ...]
) -> None:
    async with (
        tcp_server(site) as port,
        gateway(hosts={"site.test:80": port}) as live,
        listening(through(live)) as agent,
    ):
        options = [option.format(agent.port) for option in how]
        done = await program("curl", "--silent", "--max-time", "10", *options, "http://site.test/")
        assert done[:2] == (0, b"private\n")
        status, output, _ = await program(
            *("curl", "--silent", "--max-time", "10", "--fail-with-body"),
            *(*options, "http://unknown.test/"),
        )
        assert status != 0
        assert b"unknown.test" in output or "socks5h" in how[1] or "--proxytunnel" in how
        await agent.told()
    # The flow id joins both audits.
    assert agent.ended[0][0] == live.events("flow.ended")[0]["flow"]


@pytest.mark.parametrize("kind", ["http", "socks5"])
async def test_redis_ping_by_ncat_with_half_close(
    gateway: Gateway, tcp_server: TCPServer, program: Program, kind: str
) -> None:
    async def redis(stream: trio.SocketStream) -> None:
        asked = await receive_all(stream)  # to the end, which comes by the half-close
        await stream.send_all(b"+PONG\r\n" * asked.count(b"PING\r\n"))
        await stream.aclose()

    async with (
        tcp_server(redis) as port,
        gateway(hosts={"redis.test:6379": port}) as live,
        listening(through(live)) as agent,
    ):
        status, output, errors = await program(
            *("ncat", "--proxy-type", kind, "--proxy", f"127.0.0.1:{agent.port}"),
            *("--proxy-dns", "remote", "redis.test", "6379"),
            stdin=b"PING\r\n",
        )
    assert (status, output) == (0, b"+PONG\r\n"), errors


async def test_gateway_down_is_said_to_socks_and_http(
    tls: object, gateway: Gateway, unused_port: int
) -> None:
    async with gateway() as live:
        live.port = unused_port
        async with listening(through(live)) as agent:
            assert (await agent.ask(GREETING + REQUEST))[3] == 3  # network unreachable
            answer = await agent.ask(CONNECT)
            assert answer.startswith(b"HTTP/1.1 502 ")
            assert b"Mdx-Refused: GATEWAY_DOWN\r\n" in answer
            assert b"mdx up" in answer


async def test_what_is_no_request_is_told_too() -> None:
    async def never(destination: Destination, flow: str) -> Opened:
        raise AssertionError(f"{destination} was asked for")

    async with listening(never) as live:
        await live.ask(b"CONNECT echo.test:99999 HTTP/1.1\r\nHost: echo.test:99999\r\n\r\n")
        await live.ask(b"\x05\x01\x00\x05\x01\x00\x03\x00\x00\x50")

    assert [refused.code for refused in live.malformed] == [
        RefusalCode.BAD_DESTINATION,
        RefusalCode.BAD_DESTINATION,
    ]
