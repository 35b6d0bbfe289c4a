import errno
import itertools
import socket

import pytest

from mdx.run_listener import run_listener


def test_it_listens_on_loopback() -> None:
    with run_listener() as listener, socket.create_connection(listener.getsockname()):
        assert listener.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("host", "options"),
    list(
        itertools.product(
            ["127.0.0.1", "0.0.0.0"],
            [(), (socket.SO_REUSEADDR,), (socket.SO_REUSEPORT,)],
        )
    ),
)
def test_its_port_stays_taken_when_it_is_shut_down(host: str, options: tuple[int, ...]) -> None:
    with run_listener() as listener, socket.socket() as other:
        address = listener.getsockname()
        listener.shutdown(socket.SHUT_RDWR)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        for option in options:
            other.setsockopt(socket.SOL_SOCKET, option, 1)
        with pytest.raises(OSError, match="in use") as caught:
            other.bind((host, address[1]))
        assert caught.value.errno == errno.EADDRINUSE
