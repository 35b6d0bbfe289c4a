import json
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mdx.errors import HubRefused, HubUnreachable, MdxError
from mdx.hub import wire


def served(path: Path, answer: Callable[[socket.socket], None]) -> threading.Thread:
    """A listener at `path` that gives one connection to `answer`."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(os.fspath(path))
    listening.listen()

    def run() -> None:
        connection, _ = listening.accept()
        with connection, listening:
            answer(connection)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def read_request(connection: socket.socket) -> dict[str, Any]:
    (length,) = struct.unpack(">I", connection.recv(4, socket.MSG_WAITALL))
    request: dict[str, Any] = json.loads(connection.recv(length, socket.MSG_WAITALL))
    return request


def test_a_call_gets_the_result_of_its_request(tmp_path: Path) -> None:
    seen = []

    def answer(connection: socket.socket) -> None:
        seen.append(read_request(connection))
        connection.sendall(wire.encode({"ok": [1, 2]}))

    thread = served(tmp_path / "s", answer)
    with wire.connect(tmp_path / "s") as connection:
        assert wire.call(connection, {"op": "ps"}) == [1, 2]
    thread.join()
    assert seen == [{"op": "ps"}]


def test_an_error_arrives_with_hint_exit_code_and_what_would_help(tmp_path: Path) -> None:
    refused = HubRefused("locked", hint="mdx unlock", exit_code=77, needs="passphrase")

    def answer(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(wire.encode(wire.error_message(refused)))

    thread = served(tmp_path / "s", answer)
    with (
        wire.connect(tmp_path / "s") as connection,
        pytest.raises(HubRefused, match="locked") as caught,
    ):
        wire.call(connection, {"op": "run"})
    thread.join()
    assert (caught.value.hint, caught.value.exit_code, caught.value.needs) == (
        "mdx unlock",
        77,
        "passphrase",
    )


def test_descriptors_travel_beside_the_request(tmp_path: Path) -> None:
    def answer(connection: socket.socket) -> None:
        data, (received,), _, _ = socket.recv_fds(connection, 65536, 4)
        with os.fdopen(received, "wb") as file:
            file.write(b"hello")
        connection.sendall(wire.encode({"ok": len(data)}))

    thread = served(tmp_path / "s", answer)
    reading, writing = os.pipe()
    with wire.connect(tmp_path / "s") as connection:
        wire.call(connection, {"op": "run"}, [writing])
    os.close(writing)
    thread.join()
    assert os.read(reading, 16) == b"hello"
    os.close(reading)


@pytest.mark.parametrize("sent", [b"", b"\0\0", wire.encode({"ok": 1})[:-1]])
def test_a_hub_that_goes_away_midway_is_unreachable(tmp_path: Path, sent: bytes) -> None:
    def answer(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(sent)

    thread = served(tmp_path / "s", answer)
    with wire.connect(tmp_path / "s") as connection, pytest.raises(HubUnreachable):
        wire.call(connection, {"op": "ps"})
    thread.join()


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(HubUnreachable, match="no hub answers"):
        wire.connect(tmp_path / "nobody")


def test_a_stale_socket_is_nobody(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(os.fspath(tmp_path / "stale"))
    with pytest.raises(HubUnreachable):
        wire.connect(tmp_path / "stale")


def test_the_peer_is_known_by_the_kernel() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert wire.peer_of(ours) == (os.getpid(), os.getuid())


def test_a_message_too_large_is_refused_on_both_sides() -> None:
    with pytest.raises(MdxError, match="at most"):
        wire.encode({"value": "x" * wire.MAX_FRAME_BYTES})
    with pytest.raises(MdxError, match="at most"):
        wire.length_of(b"\xff\xff\xff\xff")
