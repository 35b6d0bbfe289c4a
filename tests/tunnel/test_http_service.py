"""The small HTTP/1.1 server, over real sockets: what it answers, what it refuses, how it ends."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import h11
import pytest
import trio

from tunnel.http_service import Request, Response, error_response, serve_requests

Answer = Callable[[Request], Awaitable[Response]]
GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /z HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@dataclass
class Served:
    """A client's stream to one served connection, what was asked, and how serving it ended."""

    stream: trio.SocketStream
    requests: list[Request] = field(default_factory=list)
    ended: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    failure: Exception | None = None

    async def read_all(self) -> bytes:
        """Everything up to the end, after which the client closes, too."""
        collected = bytearray()
        while data := await self.stream.receive_some():
            collected += data
        await self.stream.aclose()
        return bytes(collected)


async def echo(request: Request) -> Response:
    body = f"{request.method} {request.target} {len(request.body)}".encode()
    return Response(status=200, body=body, content_type="text/plain")


@asynccontextmanager
async def serving(
    answer: Answer = echo, *, max_body_bytes: int = 1000, idle_seconds: float = 20.0
) -> AsyncIterator[Served]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    client = await trio.open_tcp_stream(*listener.socket.getsockname())
    served = Served(stream=client)

    async def noted(request: Request) -> Response:
        served.requests.append(request)
        return await answer(request)

    async def serve_one() -> None:
        stream = await listener.accept()
        try:
            with served.scope:
                await serve_requests(
                    stream, noted, max_body_bytes=max_body_bytes, idle_seconds=idle_seconds
                )
        except Exception as error:
            served.failure = error
        assert stream.socket.fileno() == -1, "serve_requests closes the stream"
        served.ended.set()

    with trio.fail_after(20):
        async with listener, client, trio.open_nursery() as nursery:
            nursery.start_soon(serve_one)
            yield served
            nursery.cancel_scope.cancel()


def parse(raw: bytes, *methods: bytes) -> list[tuple[int, dict[bytes, bytes], bytes]]:
    """The answers in `raw` to requests of these methods, read by h11's client side."""
    connection = h11.Connection(h11.CLIENT)
    connection.receive_data(raw)
    connection.receive_data(b"")
    answers = []
    for method in methods:
        request = h11.Request(method=method, target="/", headers=[("Host", "x")])
        connection.send(request)
        connection.send(h11.EndOfMessage())
        event = connection.next_event()
        while isinstance(event, h11.InformationalResponse):
            event = connection.next_event()
        assert isinstance(event, h11.Response)
        body = bytearray()
        while isinstance(data := connection.next_event(), h11.Data):
            body += data.data
        assert isinstance(data, h11.EndOfMessage), data
        answers.append((event.status_code, dict(event.headers), bytes(body)))
        if connection.our_state is h11.DONE and connection.their_state is h11.DONE:
            connection.start_next_cycle()
    return answers


async def test_several_requests_use_one_connection() -> None:
    async with serving() as served:
        post = b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"
        for request in (GET, post, LAST):
            await served.stream.send_all(request)
        answers = parse(await served.read_all(), b"GET", b"POST", b"GET")
        assert [body for _, _, body in answers] == [b"GET /a 0", b"POST /b 4", b"GET /z 0"]
        assert served.requests[1].body == b"body"


async def test_pipelined_requests_are_answered_in_order_one_by_one() -> None:
    running = 0

    async def slow(request: Request) -> Response:
        nonlocal running
        running += 1
        assert running == 1
        await trio.testing.wait_all_tasks_blocked()
        running -= 1
        return await echo(request)

    async with serving(slow) as served:
        await served.stream.send_all(GET + GET.replace(b"/a", b"/b") + LAST)
        answers = parse(await served.read_all(), b"GET", b"GET", b"GET")
        assert [body for _, _, body in answers] == [b"GET /a 0", b"GET /b 0", b"GET /z 0"]


async def test_a_request_may_come_byte_by_byte() -> None:
    async with serving() as served:
        for byte in LAST:
            await served.stream.send_all(bytes([byte]))
        assert parse(await served.read_all(), b"GET")[0][2] == b"GET /z 0"


async def test_a_client_that_ended_its_side_still_gets_the_answer() -> None:
    async with serving() as served:
        await served.stream.send_all(GET)
        await served.stream.send_eof()
        assert parse(await served.read_all(), b"GET")[0][0] == 200
        await served.ended.wait()
        assert served.failure is None


async def test_headers_reach_the_answer_in_lower_case() -> None:
    async with serving() as served:
        await served.stream.send_all(LAST.replace(b"Host: x", b"Host: x\r\nX-Word: B\xe9"))
        await served.read_all()
        (request,) = served.requests
        assert request.header("x-word") == "Bé"
        assert request.header("X-Word") is None
        assert request.header("missing") is None


def test_secrets_are_not_in_the_repr() -> None:
    request = Request(
        method="GET", target="/", headers=(("authorization", "s3cret"),), body=b"s3cret"
    )
    response = Response(status=200, headers=(("x", "s3cret"),), body=b"s3cret")
    assert "s3cret" not in repr(request) + repr(response)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xff" * 40 + b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/3.7\r\nHost: x\r\n\r\n", 505),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +4\r\n\r\nbody", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n", 413),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"100\r\n" + b"b" * 256 + b"\r\n" + b"3e9\r\n" + b"b" * 1001 + b"\r\n",
            413,
        ),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 40_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 64 + b"\r\n", 431),
        (b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n", 501),
    ],
)  # fmt: skip
async def test_bad_input_gets_one_clean_answer_and_the_end(raw: bytes, status: int) -> None:
    async with serving() as served:
        # What is pipelined behind it must not be served.
        await served.stream.send_all(raw + GET + GET)
        answer = await served.read_all()
        ((found, headers, body),) = parse(answer, b"GET")
        assert found == status
        assert answer.count(b"HTTP/1.1 ") == 1
        assert headers[b"connection"] == b"close"
        assert json.loads(body)["error"]["message"]
        await served.ended.wait()
        assert served.requests == []
        assert served.failure is None


async def test_limits_are_reached_but_not_passed() -> None:
    async with serving() as served:
        fields = b"X: y\r\n" * 62
        head = b"POST / HTTP/1.1\r\nHost: x\r\n" + fields + b"Content-Length: 1000\r\n\r\n"
        await served.stream.send_all(head + b"b" * 1000)
        await served.stream.send_eof()
        assert parse(await served.read_all(), b"POST")[0][2] == b"POST / 1000"


async def test_a_request_cut_short_is_refused() -> None:
    for raw in (GET[:-4], b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbo"):
        async with serving() as served:
            await served.stream.send_all(raw)
            await served.stream.send_eof()
            assert parse(await served.read_all(), b"GET")[0][0] == 400
            assert served.requests == []


async def test_a_client_that_says_nothing_is_let_go_without_an_answer() -> None:
    async with serving(idle_seconds=0.05) as served:
        assert await served.read_all() == b""


async def test_a_client_that_dribbles_gets_408() -> None:
    async with serving(idle_seconds=0.05) as served:
        await served.stream.send_all(GET[:-3])
        assert parse(await served.read_all(), b"GET")[0][0] == 408


async def test_a_client_that_does_not_read_is_cut() -> None:
    async def flood() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1 << 20)

    async def answer(_: Request) -> Response:
        return Response(status=200, stream=flood)

    async with serving(answer, idle_seconds=0.2) as served:
        await served.stream.send_all(GET)
        await served.ended.wait()
        assert served.failure is None


async def test_expect_100_is_answered_before_the_body_comes() -> None:
    async with serving() as served:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
        await served.stream.send_all(head % 3)
        assert (await served.stream.receive_some()).startswith(b"HTTP/1.1 100 ")
        await served.stream.send_all(b"abc")
        await served.stream.send_eof()
        assert parse(await served.read_all(), b"POST")[0][2] == b"POST / 3"
    async with serving() as served:
        await served.stream.send_all(head % 1001)
        assert (await served.read_all()).startswith(b"HTTP/1.1 413 ")


async def three() -> AsyncIterator[bytes]:
    for piece in (b"one", b"", b"two", b"three"):
        yield piece


async def test_a_stream_of_known_length_has_a_content_length() -> None:
    async def answer(_: Request) -> Response:
        return Response(status=200, stream=three, length=11, content_type="text/plain")

    async with serving(answer) as served:
        await served.stream.send_all(GET + LAST)
        for _, headers, body in parse(await served.read_all(), b"GET", b"GET"):
            assert (headers[b"content-length"], body) == (b"11", b"onetwothree")
            assert headers[b"content-type"] == b"text/plain"


async def test_a_stream_of_unknown_length_goes_in_chunks() -> None:
    async def answer(_: Request) -> Response:
        return Response(status=200, stream=three)

    async with serving(answer) as served:
        await served.stream.send_all(GET + LAST)
        for _, headers, body in parse(await served.read_all(), b"GET", b"GET"):
            assert (headers[b"transfer-encoding"], body) == (b"chunked", b"onetwothree")
    async with serving(answer) as served:
        await served.stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
        raw = await served.read_all()
        assert b"chunked" not in raw
        assert raw.endswith(b"\r\n\r\nonetwothree")


@pytest.mark.parametrize("length", [5, 50, None])
async def test_a_stream_that_goes_wrong_never_looks_complete(length: int | None) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"ten bytes."
        if length is None:
            raise OSError("the disk is gone")

    async def answer(_: Request) -> Response:
        return Response(status=200, stream=broken, length=length)

    async with serving(answer) as served:
        await served.stream.send_all(GET)
        await served.ended.wait()
        assert isinstance(served.failure, OSError if length is None else h11.LocalProtocolError)
        with pytest.raises(trio.BrokenResourceError):  # a reset, which no client takes for the end
            await served.read_all()


async def test_an_answer_that_fails_is_500_and_is_raised_to_the_caller() -> None:
    async def answer(_: Request) -> Response:
        raise LookupError("s3cret detail")

    for method in (b"GET", b"HEAD"):
        async with serving(answer) as served:
            await served.stream.send_all(GET.replace(b"GET", method) + LAST)
            raw = await served.read_all()
            ((status, _, _),) = parse(raw, method)
            assert status == 500
            assert b"s3cret" not in raw
            await served.ended.wait()
            assert isinstance(served.failure, LookupError)
            assert len(served.requests) == 1


async def test_head_has_the_headers_of_get_and_no_body() -> None:
    async def answer(_: Request) -> Response:
        return Response(status=200, stream=three, length=11)

    for chosen, length in ((echo, b"9"), (answer, b"11")):
        async with serving(chosen) as served:
            await served.stream.send_all(GET.replace(b"GET", b"HEAD") + LAST)
            head, get = parse(await served.read_all(), b"HEAD", b"GET")
            assert head[1][b"content-length"] == length
            assert head[2] == b""
            assert get[0] == 200


async def test_204_has_neither_body_nor_type() -> None:
    async def answer(_: Request) -> Response:
        return Response(status=204)

    async with serving(answer) as served:
        await served.stream.send_all(GET + LAST)
        for status, headers, _ in parse(await served.read_all(), b"GET", b"GET"):
            assert (status, set(headers)) in ((204, set()), (204, {b"connection"}))


async def test_a_wish_to_upgrade_is_ignored() -> None:
    async with serving() as served:
        upgrade = GET.replace(b"Host: x", b"Host: x\r\nConnection: upgrade\r\nUpgrade: websocket")
        await served.stream.send_all(upgrade + LAST)
        answers = parse(await served.read_all(), b"GET", b"GET")
        assert [status for status, _, _ in answers] == [200, 200]


async def test_a_response_cannot_smuggle_a_header() -> None:
    async def answer(_: Request) -> Response:
        return Response(status=200, headers=(("X", "a\r\nSet-Cookie: b"),))

    async with serving(answer) as served:
        await served.stream.send_all(GET)
        await served.ended.wait()
        assert isinstance(served.failure, h11.LocalProtocolError)


async def test_cancelled_it_resets_the_connection() -> None:
    asked = trio.Event()

    async def never(_: Request) -> Response:
        asked.set()
        await trio.sleep_forever()
        raise AssertionError

    async with serving(never) as served:
        await served.stream.send_all(GET)
        await asked.wait()
        served.scope.cancel()
        with pytest.raises(trio.BrokenResourceError):
            await served.stream.receive_some()


def test_the_form_of_a_refusal() -> None:
    response = error_response(403, "not yours", "ask for it")
    assert response.status == 403
    assert json.loads(response.body) == {"error": {"message": "not yours", "hint": "ask for it"}}
