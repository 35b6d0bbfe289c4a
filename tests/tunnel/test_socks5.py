"""SOCKS5: the conversation, byte for byte, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from ipaddress import IPv6Address
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tunnel.destinations import Destination
from tunnel.errors import RefusalCode, Refused
from tunnel.socks5 import Socks5Handshake

HOSTILE = Path(__file__).parent / "hostile" / "socks5.json"
EXAMPLES = 20_000 if os.environ.get("MDX_SOAK") else 300
GREETING = b"\x05\x01\x00"
SUCCEEDED = b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"


def pieces_of(data: list[str | list[object]]) -> bytes:
    """The bytes of a row of the hostile corpus."""
    text = "".join(
        piece if isinstance(piece, str) else str(piece[0]) * int(str(piece[1])) for piece in data
    )
    return text.encode("latin-1")


CORPUS = [
    pytest.param(pieces_of(row["data"]), RefusalCode[row["code"]], id=row["name"])
    for row in json.loads(HOSTILE.read_text())
]


def named(name: bytes, port: int = 443) -> bytes:
    """A request for a name."""
    return b"\x05\x01\x00\x03" + bytes([len(name)]) + name + port.to_bytes(2, "big")


def run(pieces: list[bytes]) -> tuple[str, bytes, Socks5Handshake]:
    """What a handshake came to, all that the client got for it, and the handshake."""
    handshake = Socks5Handshake()
    sent = b""
    for piece in pieces:
        try:
            found = handshake.receive(piece)
        except Refused as refused:
            return refused.code.value, sent + handshake.refuse(refused), handshake
        sent += handshake.data_to_send()
        if found is not None:
            return str(found), sent + handshake.accept(), handshake
    return "more", sent, handshake


def single_bytes(data: bytes) -> list[bytes]:
    """The same bytes, one at a time."""
    return [data[i : i + 1] for i in range(len(data))]


def test_conversation_step_by_step() -> None:
    handshake = Socks5Handshake()
    assert handshake.receive(b"\x05\x02\x00\x02") is None
    assert handshake.data_to_send() == b"\x05\x00"
    assert handshake.data_to_send() == b""
    assert handshake.receive(named(b"Git.Corp", 22)) == Destination("git.corp", 22)
    assert handshake.data_to_send() == b""
    assert handshake.accept() == SUCCEEDED
    assert handshake.leftover == b""


def test_greeting_request_and_payload_in_one_segment() -> None:
    handshake = Socks5Handshake()
    assert handshake.receive(GREETING + named(b"a.test") + b"PING") == Destination("a.test", 443)
    assert handshake.accept() == b"\x05\x00" + SUCCEEDED  # nobody asked for data_to_send
    assert handshake.leftover == b"PING"
    with pytest.raises(RuntimeError):
        handshake.receive(b"more")


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (b"\x05\x01\x00\x01\x0a\x01\x02\x03\x00\x50", "10.1.2.3:80"),
        (b"\x05\x01\x00\x04" + IPv6Address("fd12::5").packed + b"\xff\xff", "[fd12::5]:65535"),
        (
            b"\x05\x01\x00\x04" + IPv6Address("::ffff:127.0.0.1").packed + b"\x00\x01",
            "[::ffff:127.0.0.1]:1",
        ),
        (named(b"a.test"), "a.test:443"),
        (named(b"A.TEST."), "a.test:443"),
        (named("bücher.test".encode()), "xn--bcher-kva.test:443"),
        (named(b"127.0.0.1"), "127.0.0.1:443"),  # an address all the same, judged as one
        (named(b"::1"), "[::1]:443"),
        (named(b"a." * 126 + b"b"), "a." * 126 + "b:443"),
    ],
)
def test_destinations(request_: bytes, expected: str) -> None:
    data = GREETING + request_
    for pieces in ([data], single_bytes(data), [GREETING, request_], [data + b"early"]):
        outcome, sent, _ = run(pieces)
        assert outcome == expected
        assert sent == b"\x05\x00" + SUCCEEDED


@pytest.mark.parametrize(("data", "code"), CORPUS)
def test_hostile_messages_are_refused(data: bytes, code: RefusalCode) -> None:
    wanted = b"\x05\x00" + bytes([5, code.socks_reply]) + SUCCEEDED[2:]
    if data[0] != 5 or 0 not in data[2 : 2 + data[1]]:
        wanted = b"\x05\xff"  # RFC 1928, section 3: no acceptable methods, and no request is read
    for pieces in ([data], single_bytes(data), [data + GREETING + named(b"second.test")]):
        outcome, sent, handshake = run(pieces)
        assert outcome == code.value
        assert sent == wanted
        with pytest.raises(RuntimeError):
            handshake.receive(GREETING)


def test_corpus_is_large_enough() -> None:
    assert len(CORPUS) >= 20


def test_what_the_client_sent_is_not_in_the_message_unquoted() -> None:
    for parameters in CORPUS:
        data = parameters.values[0]
        assert isinstance(data, bytes)
        with pytest.raises(Refused) as caught:
            Socks5Handshake().receive(data)
        assert str(caught.value).isascii()
        assert str(caught.value).isprintable()
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("code", list(RefusalCode))
def test_every_refusal_has_its_reply(code: RefusalCode) -> None:
    handshake = Socks5Handshake()
    handshake.receive(GREETING + named(b"a.test"))
    handshake.data_to_send()
    answer = handshake.refuse(Refused(code, "rule"))
    assert answer == bytes([5, code.socks_reply, 0, 1]) + bytes(6)


async def serve_one(listener: trio.SocketListener, found: list[Destination]) -> None:
    """Play SOCKS server and Redis for one connection."""
    stream = await listener.accept()
    handshake = Socks5Handshake()
    async with stream:
        while (destination := handshake.receive(await stream.receive_some())) is None:
            await stream.send_all(handshake.data_to_send())
        found.append(destination)
        await stream.send_all(handshake.accept())
        ping = handshake.leftover or await stream.receive_some()
        await stream.send_all(b"+PONG\r\n" if ping == b"PING\r\n" else b"?")
        await stream.send_eof()
        while await stream.receive_some():
            pass


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (
            ["ncat", "--proxy", "127.0.0.1:{}", "--proxy-type", "socks5", "redis.corp", "6379"],
            "redis.corp",
        ),
        (["curl", "-sS", "-x", "socks5h://127.0.0.1:{}", "telnet://redis.corp:6379"], "redis.corp"),
        (["curl", "-sS", "-x", "socks5://127.0.0.1:{}", "telnet://10.1.2.3:6379"], "10.1.2.3"),
    ],
)
async def test_real_clients(command: list[str], expected: str) -> None:
    found: list[Destination] = []
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    with trio.fail_after(20):
        async with listener, trio.open_nursery() as nursery:
            nursery.start_soon(serve_one, listener, found)
            done = await trio.run_process(
                [part.format(port) for part in command],
                stdin=b"PING\r\n",
                capture_stdout=True,
                env={"PATH": os.environ["PATH"]},
            )
    assert done.stdout == b"+PONG\r\n"
    assert found == [Destination(expected, 6379)]


REQUESTS: st.SearchStrategy[bytes] = st.builds(
    lambda greeting, head, address, port: greeting + head + address + port,
    st.sampled_from([GREETING, b"\x05\x00", b"\x05\x02\x02\x00", b"\x04\x01\x00"]),
    st.sampled_from(
        [b"\x05\x01\x00\x01", b"\x05\x01\x00\x03", b"\x05\x01\x00\x04", b"\x05\x02\x00\x01"]
    ),
    st.binary(max_size=20) | st.binary(max_size=20).map(lambda name: bytes([len(name)]) + name),
    st.binary(max_size=4),
)


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.binary(max_size=40) | REQUESTS, cuts=st.lists(st.integers(0, 60), max_size=6))
def test_any_bytes_give_a_destination_or_a_refusal_however_they_are_cut(
    data: bytes, cuts: list[int]
) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in pairwise(edges)]
    whole = run([data])[:2]
    assert run(pieces)[:2] == whole
    assert run(single_bytes(data))[:2] == whole


@settings(max_examples=EXAMPLES, deadline=None)
@given(name=st.binary(max_size=255) | st.text("aA0-_.:[]\u3002①ü", max_size=20).map(str.encode))
def test_a_name_that_is_taken_is_canonical(name: bytes) -> None:
    receive: Callable[[bytes], Destination | None] = Socks5Handshake().receive
    try:
        found = receive(GREETING + named(name))
    except Refused:
        return
    assert found is not None
    assert Destination(found.host, found.port) == found
    assert "\0" not in found.host
