"""Opening listeners: the port that was got, or an error that says what to do."""

from __future__ import annotations

import socket

import pytest

from mdx.errors import MdxError
from mdx.listening import open_listeners, port_of


async def test_port_0_is_any_free_port() -> None:
    listeners = await open_listeners("127.0.0.1", 0)
    port = port_of(listeners)
    assert port > 0
    with socket.create_connection(("127.0.0.1", port)):
        pass
    for listener in listeners:
        await listener.aclose()


async def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        with pytest.raises(MdxError, match=f"port {port} on 127.0.0.1 is taken") as caught:
            await open_listeners("127.0.0.1", port)
        assert f"sport = :{port}" in caught.value.hint


async def test_an_address_of_another_machine_cannot_be_listened_on() -> None:
    with pytest.raises(MdxError, match=r"cannot listen on 203\.0\.113\.1 port 1"):
        await open_listeners("203.0.113.1", 1)
