"""The TLS stream: how it ends, how it fails, and that nothing is lost on the way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tunnel.errors import ConnectionCut, HandshakeFailed
from tunnel.relay import abort
from tunnel.tls import client_context
from tunnel.tls_stream import StreamCut, TLSStream

if TYPE_CHECKING:
    from tests.tunnel.conftest import TLS, Authority, Connection

PENDING = bytes(range(256)) * 157  # 40,192 bytes, the size at which a naive half-close lost them


async def receive_all(stream: trio.abc.ReceiveStream) -> bytes:
    """All up to the clean end."""
    received = bytearray()
    while data := await stream.receive_some():
        received += data
    return bytes(received)


async def test_post_quantum_tls_1_3_is_what_comes_out(tls: TLS) -> None:
    client, server = await tls.pair()
    for end in (client, server):
        agreed = end.negotiated
        assert agreed.version == "TLSv1.3"
        assert agreed.cipher == "TLS_AES_256_GCM_SHA384"
        assert agreed.group == "X25519MLKEM768"
        assert agreed.alpn == "http/1.1"
    binding = [end.exporter("EXPORTER-Channel-Binding", 32) for end in (client, server)]
    assert binding[0] == binding[1]
    for end in (client, server):
        await trio.aclose_forcefully(end)


async def test_both_half_closes_keep_pending_bytes(tls: TLS) -> None:
    client, server = await tls.pair()

    async def say_and_end(stream: TLSStream) -> None:
        await stream.send_all(PENDING)
        await stream.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(say_and_end, server)
        # The client ends its direction first and hears the rest afterwards.
        await client.send_eof()
        assert await receive_all(client) == PENDING
        assert await receive_all(server) == b""
    await client.aclose()
    await server.aclose()


@pytest.mark.parametrize("who_ends", ["client", "server"])
async def test_what_was_sent_before_the_end_arrives_whole(tls: TLS, who_ends: str) -> None:
    client, server = await tls.pair()
    ending, other = (client, server) if who_ends == "client" else (server, client)

    async def end_then_listen() -> None:
        await ending.send_all(PENDING)
        await ending.send_eof()
        assert await receive_all(ending) == PENDING[::-1]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_then_listen)
        assert await receive_all(other) == PENDING
        await other.send_all(PENDING[::-1])
        await other.send_eof()
    await ending.aclose()
    await other.aclose()


async def test_close_says_goodbye(tls: TLS) -> None:
    client, server = await tls.pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.aclose)
        assert await server.receive_some() == b""
        nursery.start_soon(server.aclose)


async def test_transport_that_ends_without_goodbye_is_a_cut(tls: TLS) -> None:
    client, server = await tls.pair()
    await client.send_all(b"half of it")
    assert isinstance(client.transport, trio.SocketStream)
    await client.transport.send_eof()
    assert await server.receive_some() == b"half of it"
    for _ in range(2):  # it stays a cut
        with pytest.raises(ConnectionCut) as caught:
            await server.receive_some()
        assert isinstance(caught.value, trio.BrokenResourceError)
    await server.aclose()
    await client.aclose()


async def test_reset_is_a_cut(tls: TLS) -> None:
    client, server = await tls.pair()
    await abort(client)
    with pytest.raises(StreamCut):
        await server.receive_some()
    await server.aclose()


async def test_changed_record_is_a_cut(
    tls: TLS, tcp_pair: Callable[[], Awaitable[Connection]]
) -> None:
    # A middle that flips one bit of the first record after the handshake.
    near, near_far = await tcp_pair()
    far_near, far = await tcp_pair()
    client = TLSStream(near, tls.client, server_name="gateway.test")
    server = TLSStream(far, tls.server)
    flip = trio.Event()

    async def carry(source: trio.SocketStream, sink: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            while data := bytearray(await source.receive_some()):
                if flip.is_set():
                    data[-1] ^= 1
                await sink.send_all(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(carry, near_far, far_near)
        nursery.start_soon(carry, far_near, near_far)
        async with trio.open_nursery() as shaking:
            shaking.start_soon(client.do_handshake)
            shaking.start_soon(server.do_handshake)
        flip.set()
        await client.send_all(b"payload")
        with pytest.raises(StreamCut):
            await server.receive_some()
        await trio.aclose_forcefully(client)
        await trio.aclose_forcefully(server)
        nursery.cancel_scope.cancel()
    for stream in (near_far, far_near):
        await stream.aclose()


async def test_refused_certificate_reaches_the_client_as_words(
    tls: TLS, tcp_pair: Callable[[], Awaitable[Connection]]
) -> None:
    expired = tls.authority.issue(uris=["mdx://acme/device/d1/app/a"], ends_seconds=-60)
    context = client_context(ca=tls.authority.pem, certificate=expired.certificate, key=expired.key)
    near, far = await tcp_pair()
    client, server = (
        TLSStream(near, context, server_name="gateway.test"),
        TLSStream(far, tls.server),
    )

    async def be_refused() -> None:
        await client.do_handshake()  # TLS 1.3: the client is done before the server has judged
        with pytest.raises(HandshakeFailed, match="certificate expired"):
            await client.receive_some()
        await client.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(be_refused)
        with pytest.raises(HandshakeFailed, match="certificate expired"):
            await server.do_handshake()


async def test_plain_http_is_named(tls: TLS, tcp_pair: Callable[[], Awaitable[Connection]]) -> None:
    near, far = await tcp_pair()
    await near.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.aclose)
        with pytest.raises(HandshakeFailed, match="plain HTTP"):
            await TLSStream(far, tls.server).do_handshake()


async def test_tls_inside_tls(tls: TLS, new_authority: Callable[[], Authority]) -> None:
    outer_client, outer_server = await tls.pair()
    inner_client = TLSStream(outer_client, tls.client, server_name="gateway.test")
    inner_server = TLSStream(outer_server, tls.server)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inner_client.do_handshake)
        nursery.start_soon(inner_server.do_handshake)

    async def speak() -> None:
        await inner_client.send_all(PENDING)
        await inner_client.send_eof()
        assert await receive_all(inner_client) == b"done"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(speak)
        assert await receive_all(inner_server) == PENDING
        await inner_server.send_all(b"done")
        await inner_server.send_eof()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inner_client.aclose)
        nursery.start_soon(inner_server.aclose)


async def test_connection_retires_before_its_key_has_done_too_much(tls: TLS) -> None:
    client, server = await tls.pair(max_bytes_per_key=100_000)

    async def drink() -> None:
        with pytest.raises(ConnectionCut):
            await receive_all(server)
        await server.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drink)
        await client.send_all(bytes(90_000))
        with pytest.raises(StreamCut, match="as much as its key may protect"):
            await client.send_all(bytes(20_000))
        await client.aclose()


async def test_receiver_retires_a_peer_that_does_not_count(tls: TLS) -> None:
    client, server = await tls.pair()
    server._max_bytes_per_key = 50_000  # a peer of another make would not stop by itself
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, bytes(60_000))
        with pytest.raises(ConnectionCut, match="as much as its key may protect"):
            await receive_all(server)
        await trio.aclose_forcefully(server)
    await client.aclose()


async def test_cancelled_receive_loses_nothing(tls: TLS) -> None:
    client, server = await tls.pair()
    with trio.move_on_after(0):
        await server.receive_some()
    await client.send_all(b"all of it")
    assert await server.receive_some(3) == b"all"
    assert await server.receive_some() == b" of it"
    for end in (client, server):
        await trio.aclose_forcefully(end)


async def test_cancelled_send_can_only_be_closed_and_is_a_cut_for_the_peer(tls: TLS) -> None:
    client, server = await tls.pair()
    with trio.move_on_after(0.05) as scope:
        await client.send_all(bytes(64 * 1024 * 1024))  # more than all buffers between the two
    assert scope.cancelled_caught
    with pytest.raises(StreamCut):
        await client.send_all(b"more")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.aclose)
        with pytest.raises(ConnectionCut):
            await receive_all(server)
    await server.aclose()


async def test_one_task_each_way(tls: TLS) -> None:
    client, server = await tls.pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.receive_some)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await client.receive_some()
        nursery.cancel_scope.cancel()
    for end in (client, server):
        await trio.aclose_forcefully(end)


async def test_order_of_calls(tls: TLS, tcp_pair: Callable[[], Awaitable[Connection]]) -> None:
    near, far = await tcp_pair()
    stream = TLSStream(near, tls.client, server_name="gateway.test")
    with pytest.raises(RuntimeError, match="do_handshake"):
        await stream.send_all(b"early")
    with pytest.raises(RuntimeError, match="do_handshake"):
        await stream.receive_some()
    with pytest.raises(RuntimeError, match="do_handshake"):
        _ = stream.negotiated
    await trio.aclose_forcefully(stream)
    with pytest.raises(trio.ClosedResourceError):
        await stream.receive_some()
    await far.aclose()


async def test_after_the_end_was_sent_nothing_more_is(tls: TLS) -> None:
    client, server = await tls.pair()
    await client.send_eof()
    await client.send_eof()  # twice is once
    with pytest.raises(trio.ClosedResourceError):
        await client.send_all(b"more")
    for end in (client, server):
        await trio.aclose_forcefully(end)


async def test_peer_that_never_reads_cannot_hold_up_a_close(
    tls: TLS, autojump_clock: trio.testing.MockClock
) -> None:
    # Over memory, so that the virtual clock jumps: the peer neither reads nor answers.
    near, far = trio.testing.memory_stream_pair()
    client = TLSStream(near, tls.client, server_name="gateway.test")
    server = TLSStream(far, tls.server)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.do_handshake)
        nursery.start_soon(server.do_handshake)
    started = trio.current_time()
    await client.aclose()
    assert trio.current_time() - started <= 1.01
    await trio.aclose_forcefully(server)


async def test_checkpoints_and_stream_rules(tls: TLS) -> None:
    async def make() -> tuple[TLSStream, TLSStream]:
        return await tls.pair()

    await trio.testing.check_two_way_stream(make, None)
    await trio.testing.check_half_closeable_stream(make, None)
