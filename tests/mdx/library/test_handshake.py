"""The client's CONNECT against the proxy's own side of it, and against whatever else may answer."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdx.errors import BlockedByRule, ConnectionFailed, GatewayDown, LeaseEnded
from mdx.library.handshake import MAX_ANSWER_BYTES, ConnectHandshake
from tunnel import Destination, RefusalCode, Refused, destination
from tunnel.http_proxy import HttpProxyHandshake, refusal_answer

YES = b"HTTP/1.1 200 Connection established\r\n\r\n"


def feed(ours: ConnectHandshake, *pieces: bytes) -> None:
    """Answers in pieces, none of which is a yes, and the end."""
    for piece in filter(None, pieces):
        assert not ours.receive(piece)
    ours.receive(b"")


hosts = st.sampled_from(["intranet.corp.internal", "10.0.0.1", "::1", "xn--bcher-kva.example"])


@given(hosts, st.integers(1, 65535))
def test_the_proxy_reads_where_to(host: str, port: int) -> None:
    theirs = HttpProxyHandshake(absolute_form=True)
    found = theirs.receive(ConnectHandshake(host, port).request)
    assert found == destination(host, port)
    assert isinstance(found, Destination)


@given(st.binary(max_size=40), st.lists(st.integers(1, 30), max_size=10))
def test_what_comes_behind_a_yes_is_left(behind: bytes, cuts: list[int]) -> None:
    """However the bytes are cut: what is not taken is exactly what the destination sent."""
    ours = ConnectHandshake("host.test", 443)
    data = YES + behind
    taken = 0
    while True:
        seen = data[taken : taken + (cuts.pop() if cuts else len(data))]
        connected = ours.receive(seen)
        taken += len(seen) - len(ours.leftover)
        if connected:
            break
    assert taken == len(YES)


@pytest.mark.parametrize("code", RefusalCode)
@pytest.mark.parametrize("bytewise", [False, True])
def test_every_refusal_has_its_error(code: RefusalCode, bytewise: bool) -> None:
    refused = Refused(code, "BLOCK *.test (mdx.toml:4)", "mdx up (all on one machine)")
    answer = refusal_answer(refused)
    ours = ConnectHandshake("host.test", 443)
    pieces = [answer[i : i + 1] for i in range(len(answer))] if bytewise else [answer]
    with pytest.raises(ConnectionFailed) as caught:
        feed(ours, *pieces)
    error = caught.value
    assert str(error) == "host.test:443: BLOCK *.test (mdx.toml:4)"
    assert error.hint == "mdx up (all on one machine)"
    assert error.code == code.value
    assert error.errno
    expected: dict[str, Any] = {
        "GATEWAY_DOWN": GatewayDown,
        "LEASE_ENDED": LeaseEnded,
        "BLOCKED_BY_RULE": BlockedByRule,
        "NOT_ALLOWED": BlockedByRule,
        "ADDRESS_GUARD": BlockedByRule,
    }
    assert type(error) is expected.get(code.value, ConnectionFailed)


def test_a_refusal_without_hint() -> None:
    ours = ConnectHandshake("host.test", 443)
    with pytest.raises(BlockedByRule) as caught:
        ours.receive(refusal_answer(Refused(RefusalCode.NOT_ALLOWED, "not on the list")))
    assert (str(caught.value), caught.value.hint) == ("host.test:443: not on the list", "")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200",
        b"\x05\x00",
        b"HTTP/1.1 200 OK\nX: y",
        b"HTTP/1.1 403 No\r\nContent-Length: 9\r\n\r\nshort",
        b"HTTP/1.1 403 No\r\nContent-Length: -1\r\n\r\n",
        b"A: " + b"x" * MAX_ANSWER_BYTES,
    ],
)
def test_what_is_no_answer_is_an_agent_that_is_gone(answer: bytes) -> None:
    ours = ConnectHandshake("host.test", 443)
    with pytest.raises(ConnectionFailed) as caught:
        feed(ours, answer)
    assert caught.value.code == "AGENT_GONE"


@given(st.binary(max_size=200))
def test_any_answer_is_a_yes_or_an_error_of_ours(answer: bytes) -> None:
    ours = ConnectHandshake("host.test", 443)
    said = "connected"
    try:
        if not (answer and ours.receive(answer)):
            ours.receive(b"")
            said = ""  # neither a yes nor a no
    except ConnectionFailed as error:
        said = str(error)
    assert said
    assert said.isprintable()


@pytest.mark.parametrize("host", ["", "a b", "a\r\nb", "a\0", "é" * 300, "-a.test", "host:1"])
def test_what_is_no_destination_is_sent_to_nobody(host: str) -> None:
    with pytest.raises(ConnectionFailed) as caught:
        ConnectHandshake(host, 443)
    assert caught.value.code == "BAD_DESTINATION"
    assert caught.value.errno == errno.ECONNREFUSED
    assert str(caught.value).isprintable()
    with pytest.raises(ConnectionFailed):
        ConnectHandshake("host.test", 0)
