"""The JSON client against real TLS servers that answer well, badly, too much, late or never."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import trio
import trustme
from cryptography import x509

from tunnel import (
    BadAnswer,
    ClientCertificate,
    ConnectionCut,
    Destination,
    HandshakeFailed,
    JSONAnswer,
    RefusalCode,
    Refused,
    TLSStream,
    WrongCertificate,
    client_context,
    request_json,
    server_context,
)

Talk = Callable[[TLSStream], Awaitable[None]]
Ask = Callable[..., Awaitable[JSONAnswer]]
Serve = Callable[..., AbstractAsyncContextManager[Ask]]

HEAD_200 = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


@pytest.fixture
def serve(ca: trustme.CA) -> Serve:
    """A server that does `talk` on each connection, and a client that asks it."""
    leaf = ca.issue_cert("control.test", key_type=trustme.KeyType.ECDSA)
    own = client_leaf(ca)

    @asynccontextmanager
    async def start(
        talk: Talk, *, certificate: ClientCertificate = ClientCertificate.OPTIONAL
    ) -> AsyncIterator[Ask]:
        context = server_context(
            certificate=b"".join(blob.bytes() for blob in leaf.cert_chain_pems),
            key=leaf.private_key_pem.bytes(),
            client_ca=ca.cert_pem.bytes(),
            client_certificate=certificate,
        )
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        to = Destination("127.0.0.1", listeners[0].socket.getsockname()[1])

        async def one(transport: trio.SocketStream) -> None:
            stream = TLSStream(transport, context)
            try:
                await stream.do_handshake()
                await talk(stream)
                await stream.aclose()
            except (HandshakeFailed, trio.BrokenResourceError):
                return
            finally:
                await trio.aclose_forcefully(stream)

        async def ask(
            target: str = "/v1/thing",
            body: dict[str, object] | None = None,
            *,
            method: str = "POST",
            server_name: str = "control.test",
            mutual: bool = True,
            check: Callable[[TLSStream], None] | None = None,
            timeout_seconds: float = 5,
        ) -> JSONAnswer:
            trusted = client_context(
                ca=ca.cert_pem.bytes(),
                certificate=own.cert_chain_pems[0].bytes() if mutual else None,
                key=own.private_key_pem.bytes() if mutual else None,
            )
            return await request_json(
                method,
                target,
                body,
                to=to,
                context=trusted,
                server_name=server_name,
                check=check,
                timeout_seconds=timeout_seconds,
                max_answer_bytes=10_000,
            )

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, one, listeners)
            yield ask
            nursery.cancel_scope.cancel()

    return start


def client_leaf(ca: trustme.CA) -> trustme.LeafCert:
    return ca.issue_cert("client.test", key_type=trustme.KeyType.ECDSA)


async def read_request(stream: TLSStream) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        received += await stream.receive_some()
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += await stream.receive_some()
    return head + b"\r\n\r\n" + body


def saying(answer: bytes) -> Talk:
    async def talk(stream: TLSStream) -> None:
        await read_request(stream)
        await stream.send_all(answer)

    return talk


def with_body(body: bytes, head: bytes = HEAD_200) -> bytes:
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def test_it_sends_exactly_this_and_reads_the_object(serve: Serve) -> None:
    heard: list[bytes] = []

    async def talk(stream: TLSStream) -> None:
        heard.append(await read_request(stream))
        await stream.send_all(with_body(b'{"a": "\\u00fc"}'))

    async with serve(talk) as ask:
        answer = await ask(body={"app": "payroll"})
        assert answer == JSONAnswer(status=200, value={"a": "ü"})
        await ask("/v1/status", method="GET")
    head, _, body = heard[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /v1/thing HTTP/1.1"
    assert body == b'{"app": "payroll"}'
    names = {line.split(b":")[0].lower() for line in lines[1:]}
    assert names == {b"host", b"accept", b"content-length", b"content-type", b"connection"}
    assert heard[1].startswith(b"GET /v1/status HTTP/1.1\r\n")


async def test_any_status_is_an_answer(serve: Serve) -> None:
    refused = with_body(b'{"error": {}}', b"HTTP/1.1 403 Forbidden\r\n")
    async with serve(saying(refused)) as ask:
        assert await ask() == JSONAnswer(status=403, value={"error": {}})


async def test_a_redirect_is_not_followed(serve: Serve) -> None:
    there = b"HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1:1/\r\n"
    async with serve(saying(with_body(b"{}", there))) as ask:
        assert (await ask()).status == 302


@pytest.mark.parametrize(
    "answer",
    [
        with_body(b"[]"),
        with_body(b"null"),
        with_body(b"\xff"),
        with_body(b"[" * 9_000),
        with_body(b'{"a": '),
        b"hello\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}",
        HEAD_200 + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"",
    ],
    ids=[
        "array",
        "null",
        "not UTF-8",
        "deep",
        "cut JSON",
        "not HTTP",
        "endless head",
        "short body",
        "bad chunk",
        "nothing",
    ],
)
async def test_bad_answers_are_one_kind_of_error(serve: Serve, answer: bytes) -> None:
    async with serve(saying(answer)) as ask:
        with pytest.raises(BadAnswer):
            await ask()


@pytest.mark.parametrize("head", [with_body(b"{" + b" " * 20_000 + b"}"), HEAD_200 + b"\r\n{"])
async def test_an_answer_has_a_limit_announced_or_not(serve: Serve, head: bytes) -> None:
    async def talk(stream: TLSStream) -> None:
        await read_request(stream)
        await stream.send_all(head)
        await stream.send_all(b" " * 20_000 + b"}")

    async with serve(talk) as ask:
        with pytest.raises(BadAnswer, match="larger"):
            await ask()


async def test_a_cut_is_a_cut(serve: Serve) -> None:
    async def talk(stream: TLSStream) -> None:
        await read_request(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n{}")
        await stream.transport.aclose()

    async with serve(talk) as ask:
        with pytest.raises(ConnectionCut):
            await ask()


async def test_a_silent_server_costs_the_time_limit(
    serve: Serve, autojump_clock: trio.testing.MockClock
) -> None:
    async def talk(stream: TLSStream) -> None:
        await trio.sleep_forever()

    async with serve(talk) as ask:
        begun = trio.current_time()
        with pytest.raises(Refused) as caught:
            await ask(timeout_seconds=60)
        assert caught.value.code is RefusalCode.TIMED_OUT
        assert trio.current_time() - begun < 62


async def test_nobody_there_is_a_refusal(serve: Serve) -> None:
    async with serve(saying(b"")) as ask:
        pass
    with pytest.raises(Refused) as caught:
        await ask()
    assert caught.value.code is RefusalCode.CONNECTION_REFUSED


async def test_another_name_is_refused_before_anything_is_sent(serve: Serve) -> None:
    async with serve(saying(b"")) as ask:
        with pytest.raises(HandshakeFailed):
            await ask(server_name="other.test")


async def test_the_servers_reason_for_refusing_us_arrives(serve: Serve) -> None:
    async with serve(saying(b""), certificate=ClientCertificate.REQUIRED) as ask:
        with pytest.raises(HandshakeFailed, match="certificate required"):
            await ask(mutual=False)


async def test_the_check_comes_before_the_request(serve: Serve) -> None:
    heard: list[bytes] = []

    async def talk(stream: TLSStream) -> None:
        async for data in stream:
            heard.append(bytes(data))

    seen: list[x509.Certificate | None] = []

    def no(stream: TLSStream) -> None:
        seen.append(stream.peer_certificate)
        raise WrongCertificate("not that one")

    async with serve(talk) as ask:
        with pytest.raises(WrongCertificate):
            await ask(check=no)
    assert isinstance(seen[0], x509.Certificate)
    assert heard == []


async def test_cancelled_it_leaves_nothing_open(serve: Serve) -> None:
    closed = trio.Event()
    reached = trio.Event()

    async def talk(stream: TLSStream) -> None:
        await read_request(stream)
        reached.set()
        try:
            await stream.receive_some()
        except trio.BrokenResourceError:
            closed.set()
            raise
        closed.set()

    async with serve(talk) as ask, trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await reached.wait()
        nursery.cancel_scope.cancel()
    with trio.fail_after(5):
        await closed.wait()
