"""Asking a gateway for its status."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import pytest
import trio

from tunnel.errors import RefusalCode, Refused
from tunnel.probing import probe
from tunnel.tls_stream import TLSStream

if TYPE_CHECKING:
    from tests.tunnel.conftest import TLS, Gateway, Serve


async def test_both_sides_tell_the_same(gateway: Gateway, tls: TLS) -> None:
    device = tls.authority.issue(uris=["mdx://acme/device/d1"])
    async with gateway() as live:
        probed = await probe(
            host="127.0.0.1", port=live.port, name="gateway.test", context=live.context(device)
        )
    assert probed.negotiated.group == probed.status["group"] == "X25519MLKEM768"
    assert probed.negotiated.cipher == probed.status["cipher"]
    assert probed.negotiated.version == probed.status["version"] == "TLSv1.3"
    assert probed.status["device"] == "d1"


async def test_reasons(gateway: Gateway, tls: TLS, unused_port: int) -> None:
    wrong = tls.authority.issue(uris=["mdx://acme/gateway/g"])
    async with gateway() as live:
        with pytest.raises(Refused) as caught:
            await probe(
                host="127.0.0.1", port=live.port, name="gateway.test", context=live.context(wrong)
            )
        assert caught.value.code is RefusalCode.NOT_ALLOWED
        assert "a gateway's" in caught.value.rule
    with pytest.raises(Refused) as caught:
        await probe(host="127.0.0.1", port=unused_port, name="gateway.test", context=tls.client)
    assert caught.value.code is RefusalCode.GATEWAY_DOWN


@pytest.mark.parametrize("body", [b"[]", b"no JSON", b""])
async def test_senseless_answer(
    tls: TLS, tcp_server: Callable[[Serve], AbstractAsyncContextManager[int]], body: bytes
) -> None:
    async def serve(tcp: trio.SocketStream) -> None:
        stream = TLSStream(tcp, tls.server)
        await stream.do_handshake()
        await stream.receive_some()
        await stream.send_all(
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        await stream.aclose()

    async with tcp_server(serve) as port:
        with pytest.raises(Refused, match="makes no sense"):
            await probe(host="127.0.0.1", port=port, name="gateway.test", context=tls.client)
