"""Heads: what one may look like, and that nothing else is ever read."""

from __future__ import annotations

import os
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunnel.errors import RefusalCode, Refused
from tunnel.http_head import MAX_FIELDS, MAX_HEAD_BYTES, Head, HeadReader, find_head_end, parse_head

SAMPLES = Path(__file__).parents[1] / "vectors" / "llhttp" / "request"
EXAMPLES = 20_000 if os.environ.get("MDX_SOAK") else 300
GOOD = b"GET /a?b HTTP/1.1\r\nHost: a.test\r\nX-Odd:\t v\xe4lue \r\nEmpty:\r\n\r\n"


def outcome(pieces: list[bytes]) -> Head | RefusalCode | None:
    """What a reader makes of the pieces; None when it wants more."""
    reader = HeadReader()
    for piece in pieces:
        try:
            head = reader.receive(piece)
        except Refused as refused:
            return refused.code
        if head is not None:
            return head
    return None


def single_bytes(data: bytes) -> list[bytes]:
    """The same bytes, one at a time."""
    return [data[i : i + 1] for i in range(len(data))]


def refused_code(raw: bytes) -> RefusalCode:
    """The code with which a head is refused, whole and byte by byte."""
    whole, bytewise = outcome([raw]), outcome(single_bytes(raw))
    assert whole == bytewise
    assert isinstance(whole, RefusalCode), raw
    return whole


def test_good_head_whole_byte_by_byte_and_with_trailing_bytes() -> None:
    head = parse_head(GOOD)
    assert (head.method, head.target, head.version) == ("GET", "/a?b", "1.1")
    assert head.headers == (("host", "a.test"), ("x-odd", "v\xe4lue"), ("empty", ""))
    assert head.raw_headers[1] == (b"X-Odd", b"v\xe4lue")
    assert head.raw == GOOD
    for pieces in ([GOOD], single_bytes(GOOD), [GOOD + b"\x00\nbehind"]):
        assert outcome(pieces) == head


def test_what_came_behind_the_head_is_left_over_unread() -> None:
    reader = HeadReader()
    assert reader.receive(GOOD[:-1]) is None
    assert reader.leftover == b""
    assert reader.receive(GOOD[-1:] + b"\x00body") is not None
    assert reader.leftover == b"\x00body"
    with pytest.raises(RuntimeError):
        reader.receive(b"more")


def test_no_secret_in_repr() -> None:
    head = parse_head(
        b"GET /secret HTTP/1.1\r\nHost: a.test\r\nProxy-Authorization: secret\r\n\r\n"
    )
    assert "secret" not in repr(head)


def test_header_wants_the_field_to_be_the_only_one() -> None:
    head = parse_head(b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\nx: 2\r\n\r\n")
    assert head.header("host") == "a"
    assert head.header("y") is None
    assert head.values("x") == ("1", "2")
    with pytest.raises(Refused) as caught:
        head.header("x")
    assert caught.value.code is RefusalCode.MALFORMED


def test_host_may_be_left_out_with_http_1_0_only() -> None:
    assert parse_head(b"CONNECT a.test:1 HTTP/1.0\r\n\r\n").version == "1.0"
    assert refused_code(b"CONNECT a.test:1 HTTP/1.1\r\n\r\n") is RefusalCode.MALFORMED


@pytest.mark.parametrize("over", [0, 1])
def test_limit_of_bytes(over: int) -> None:
    start = b"GET / HTTP/1.1\r\nHost: a\r\nX: "
    raw = start + b"x" * (MAX_HEAD_BYTES - len(start) - 4 + over) + b"\r\n\r\n"
    if over:
        assert refused_code(raw) is RefusalCode.MALFORMED
        with pytest.raises(Refused):
            parse_head(raw)
    else:
        assert outcome([raw]) == outcome(single_bytes(raw)) == parse_head(raw)


@pytest.mark.parametrize("over", [0, 1])
def test_limit_of_fields(over: int) -> None:
    raw = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * (MAX_FIELDS - 1 + over) + b"\r\n"
    if over:
        assert refused_code(raw) is RefusalCode.MALFORMED
    else:
        assert len(parse_head(raw).headers) == MAX_FIELDS


def test_a_head_without_end_is_refused_and_not_collected() -> None:
    reader = HeadReader()
    for _ in range(MAX_HEAD_BYTES):
        assert reader.receive(b"x") is None
    with pytest.raises(Refused):
        reader.receive(b"x")


@pytest.mark.parametrize(
    "faulty", [b"GET / HTTP/1.1\n", b"\x16\x03", b"GET / HTTP/1.1\r\n X", b"GET /\rX", b"GET \0"]
)
def test_faults_are_refused_before_the_head_has_ended(faulty: bytes) -> None:
    assert refused_code(faulty) is RefusalCode.MALFORMED


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: +5\r\n",
        b"Content-Length: 5, 5\r\n",
        b"Content-Length: 5\r\nContent-Length: 5\r\n",
        b"Content-Length:\r\n",
        b"Content-Length: 1000000000000000000000\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"Transfer-Encoding: identity\r\n",
    ],
)
def test_a_body_whose_length_is_not_certain_is_refused(fields: bytes) -> None:
    raw = b"POST / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n"
    assert refused_code(raw) is RefusalCode.MALFORMED


def test_chunked_is_not_for_http_1_0() -> None:
    raw = b"POST / HTTP/1.%b\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n"
    assert parse_head(raw % b"1").header("transfer-encoding") == "chunked"
    assert refused_code(raw % b"0") is RefusalCode.MALFORMED


def test_parse_head_reads_exactly_one_head() -> None:
    for raw in (b"", GOOD[:-1], GOOD + b"x", GOOD + GOOD):
        with pytest.raises(Refused) as caught:
            parse_head(raw)
        assert caught.value.code is RefusalCode.MALFORMED


def test_find_head_end() -> None:
    assert find_head_end(GOOD + b"x") == len(GOOD)
    assert find_head_end(GOOD[:-1]) is None
    assert find_head_end(bytearray(GOOD), len(GOOD) - 4) == len(GOOD)


def refused_by_llhttp() -> list[tuple[str, bytes]]:
    """(name, request) of every sample whose head llhttp refuses in its strict mode."""
    found = []
    text = "((?:(?!```).)*?)"
    sample = re.compile(rf"##+ ([^\n]*)\n([^`#]*)```http\n{text}```\s*```log\n{text}```", re.S)
    for path in sorted(SAMPLES.glob("*.md")):
        for name, about, request, log in sample.findall(path.read_text()):
            strict = re.search(r'"type": ?"request"', about)
            fault = log.partition("error code=")[2]
            # A pause is no fault, and which methods there are is not a matter of heads.
            other = re.search("Pause|method|Expected space after method", fault)
            if strict and fault and not other and "headers complete" not in log:
                found.append((f"{path.stem}: {name}", unescape(request)))
    return found


def unescape(text: str) -> bytes:
    """The bytes that a sample stands for."""
    joined = text.removesuffix("\n").replace("\\\n", "").replace("\n", "\r\n")
    for escape, character in (("\\r", "\r"), ("\\n", "\n"), ("\\t", "\t"), ("\\f", "\f")):
        joined = joined.replace(escape, character)
    return joined.encode()


def test_there_are_samples() -> None:
    assert len(refused_by_llhttp()) >= 35


@pytest.mark.parametrize(("name", "raw"), refused_by_llhttp(), ids=lambda value: str(value)[:60])
def test_heads_that_llhttp_refuses_are_refused(name: str, raw: bytes) -> None:
    if b"\r\nHost:" not in raw:  # so that the fault is the one that the sample is about
        line, end, rest = raw.partition(b"\r\n")
        raw = line + (end or b"\r\n") + b"Host: a.test\r\n" + rest
    assert refused_code(raw + b"\r\n\r\n") in (RefusalCode.MALFORMED, RefusalCode.UNSUPPORTED), name


@pytest.mark.parametrize(("name", "raw"), refused_by_llhttp(), ids=lambda value: str(value)[:60])
def test_their_fields_are_refused_behind_a_connect_too(name: str, raw: bytes) -> None:
    line, _, rest = raw.partition(b"\r\n")
    if not re.fullmatch(rb"[A-Z]+ [!-~]+ HTTP/1\.[01]", line):
        return  # the fault is in the line that is replaced
    rest = re.sub(rb"(?m)^Host:.*\r\n", b"", rest)
    head = b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n" + rest + b"\r\n\r\n"
    assert refused_code(head) is RefusalCode.MALFORMED, name


FRAGMENTS = st.sampled_from(
    b"GET|CONNECT| |/|a.test:443|HTTP/1.1|HTTP/1.0|\r\n|\n|\r|\r\n\r\n|\t|\0|\xff".split(b"|")
    + b"Host: a.test:443|X: y|:|Content-Length: 1".split(b"|")
)
MOSTLY_HEADS = st.lists(FRAGMENTS | st.binary(max_size=3), max_size=30).map(b"".join)


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=MOSTLY_HEADS, cuts=st.lists(st.integers(0, 200), max_size=5))
def test_any_bytes_give_a_head_or_a_refusal_however_they_are_cut(
    data: bytes, cuts: list[int]
) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in pairwise(edges)]
    assert outcome(pieces) == outcome([data]) == outcome(single_bytes(data))


@settings(max_examples=EXAMPLES, deadline=None)
@given(at=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255), insert=st.booleans())
def test_a_good_head_with_one_wrong_byte(at: int, byte: int, insert: bool) -> None:
    data = GOOD[:at] + bytes([byte]) + GOOD[at + (not insert) :]
    got = outcome([data])
    assert got == outcome(single_bytes(data))
    if isinstance(got, Head):  # then it means what it says, and is no other head in disguise
        assert got.raw == data[: len(got.raw)]
        assert b"\n" not in got.raw.replace(b"\r\n", b"")
