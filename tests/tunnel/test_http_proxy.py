"""CONNECT and plain http through a proxy: what is understood, sent on, and answered."""

from __future__ import annotations

import json
import os
import re
import sys
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tunnel.destinations import Destination
from tunnel.errors import RefusalCode, Refused
from tunnel.http_head import parse_head
from tunnel.http_proxy import HttpProxyHandshake, RequestBody, connect_destination, refusal_answer

HERE = Path(__file__).parent
URLS = HERE.parent / "vectors" / "url" / "urltestdata.json"
EXAMPLES = 20_000 if os.environ.get("MDX_SOAK") else 300
SECOND = b"CONNECT second.test:443 HTTP/1.1\r\nHost: second.test:443\r\n\r\n"


def pieces_of(data: list[str | list[object]]) -> bytes:
    """The bytes of a row of the hostile corpus."""
    text = "".join(
        piece if isinstance(piece, str) else str(piece[0]) * int(str(piece[1])) for piece in data
    )
    return text.encode("latin-1")


CORPUS = [
    pytest.param(pieces_of(row["data"]), RefusalCode[row["code"]], id=row["name"])
    for row in json.loads((HERE / "hostile" / "connect.json").read_text())
]


def run(pieces: list[bytes], *, absolute_form: bool = True) -> tuple[str, HttpProxyHandshake]:
    """What a handshake came to, as text, and the handshake. Like a server, stops at the end."""
    handshake = HttpProxyHandshake(absolute_form=absolute_form)
    for piece in pieces:
        try:
            found = handshake.receive(piece)
        except Refused as refused:
            return refused.code.value, handshake
        if found is not None:
            return str(found), handshake
    return "more", handshake


def single_bytes(data: bytes) -> list[bytes]:
    """The same bytes, one at a time."""
    return [data[i : i + 1] for i in range(len(data))]


def request(line: str, *fields: str) -> bytes:
    """A head with these lines."""
    return "".join(f"{text}\r\n" for text in (line, *fields, "")).encode()


# CONNECT


def test_conversation_of_a_connect() -> None:
    outcome, handshake = run(
        [request("CONNECT Git.Corp:22 HTTP/1.1", "Host: git.corp:22") + b"SSH"]
    )
    assert outcome == "git.corp:22"
    assert handshake.data_to_send() == b""
    assert handshake.accept() == b"HTTP/1.1 200 Connection established\r\n\r\n"
    assert handshake.leftover == b"SSH"
    assert handshake.forward_head == b""
    assert handshake.request is not None
    assert handshake.request.method == "CONNECT"


@pytest.mark.parametrize("absolute_form", [True, False])
@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (request("CONNECT a.test:443 HTTP/1.1", "Host: a.test:443"), "a.test:443"),
        (request("CONNECT a.test:443 HTTP/1.1", "hOST:A.test:443"), "a.test:443"),
        (request("CONNECT a.test:443 HTTP/1.1", "Host: a.test"), "a.test:443"),  # Java, Node
        (request("CONNECT a.test:80 HTTP/1.1", "Host: a.test"), "a.test:80"),
        (request("CONNECT a.test:6379 HTTP/1.0"), "a.test:6379"),  # ncat, Python before 3.12
        (request("CONNECT a.test:6379 HTTP/1.0", "Host: a.test:6379"), "a.test:6379"),
        (
            request("CONNECT [2001:DB8::1]:443 HTTP/1.1", "Host: [2001:db8::1]:443"),
            "[2001:db8::1]:443",
        ),
        (request("CONNECT 10.1.2.3:5432 HTTP/1.1", "Host: 10.1.2.3:5432"), "10.1.2.3:5432"),
        (request("CONNECT home_0.test:00443 HTTP/1.1", "Host: home_0.test:443"), "home_0.test:443"),
        (
            request(
                "CONNECT a.test:443 HTTP/1.1", "Host: a.test:443", "Proxy-Connection: Keep-Alive"
            ),
            "a.test:443",
        ),
    ],
)
def test_connects_that_real_clients_send(raw: bytes, expected: str, absolute_form: bool) -> None:
    for pieces in ([raw], single_bytes(raw), [raw + b"early"]):
        assert run(pieces, absolute_form=absolute_form)[0] == expected


@pytest.mark.parametrize("absolute_form", [True, False])
@pytest.mark.parametrize(("raw", "code"), CORPUS)
def test_hostile_connects_are_refused(raw: bytes, code: RefusalCode, absolute_form: bool) -> None:
    expected = code.value
    if not absolute_form and raw.startswith(b"connect "):
        expected = "UNSUPPORTED"  # to a gateway it is merely another method
    for pieces in ([raw], single_bytes(raw), [raw + SECOND]):
        outcome, handshake = run(pieces, absolute_form=absolute_form)
        assert outcome == expected
        assert handshake.leftover == b""
        assert handshake.forward_head == b""


@pytest.mark.parametrize(("raw", "code"), CORPUS)
def test_refused_and_a_second_request_behind_it_is_one_answer(
    raw: bytes, code: RefusalCode
) -> None:
    handshake = HttpProxyHandshake(absolute_form=True)
    with pytest.raises(Refused) as caught:
        handshake.receive(raw + SECOND)
    answer = handshake.refuse(caught.value)
    assert len(re.findall(rb"HTTP/1\.1 [0-9]", answer)) == 1
    assert answer.startswith(b"HTTP/1.1 %d " % code.http_status)
    assert b"\r\nConnection: close\r\n" in answer
    assert b"secret" not in answer
    with pytest.raises(RuntimeError):
        handshake.receive(SECOND)


def test_corpus_is_large_enough() -> None:
    assert len(CORPUS) >= 40


def test_connect_destination_of_a_head() -> None:
    assert connect_destination(
        parse_head(request("CONNECT a.test:1 HTTP/1.1", "Host: a.test:1"))
    ) == Destination("a.test", 1)


def test_a_gateway_understands_connect_only() -> None:
    raw = request("GET http://a.test/ HTTP/1.1", "Host: a.test")
    assert run([raw], absolute_form=False)[0] == "UNSUPPORTED"


# Absolute form


def test_conversation_of_a_request_in_absolute_form() -> None:
    raw = request(
        "POST http://A.test:8080/p?q=1 HTTP/1.1",
        "Host: a.test:8080",
        "User-Agent: x",
        "Proxy-Authorization: Basic secret",
        "Proxy-Connection: keep-alive",
        "Mdx-Flow: 0123456789abcdef",
        "Connection: keep-alive, X-Hop",
        "X-Hop: 1",
        "Keep-Alive: timeout=5",
        "TE: trailers",
        "Upgrade: h2c",
        "HTTP2-Settings: x",
        "Content-Length: 5",
        "Cookie: a=b",
    )
    outcome, handshake = run([raw + b"hello" + SECOND])
    assert outcome == "a.test:8080"
    assert handshake.accept() == b""
    assert handshake.forward_head == request(
        "POST /p?q=1 HTTP/1.1",
        "Host: a.test:8080",
        "User-Agent: x",
        "Content-Length: 5",
        "Cookie: a=b",
        "Connection: close",
    )
    assert handshake.leftover == b"hello"
    assert handshake.body is not None
    assert handshake.body.ended


@pytest.mark.parametrize(
    ("line", "host", "first"),
    [
        ("GET http://a.test HTTP/1.1", "a.test", b"GET / HTTP/1.1\r\nHost: a.test\r\n"),
        ("GET HTTP://a.test:80?q HTTP/1.1", "a.test", b"GET /?q HTTP/1.1\r\nHost: a.test\r\n"),
        ("OPTIONS http://a.test HTTP/1.1", "a.test:80", b"OPTIONS * HTTP/1.1\r\nHost: a.test\r\n"),
        ("OPTIONS http://a.test/ HTTP/1.1", "a.test", b"OPTIONS / HTTP/1.1\r\nHost: a.test\r\n"),
        ("GET http://[::1]:80/ HTTP/1.1", "[::1]", b"GET / HTTP/1.1\r\nHost: [::1]\r\n"),
        ("GET http://a.test/b@c:d HTTP/1.1", "a.test", b"GET /b@c:d HTTP/1.1\r\nHost: a.test\r\n"),
        ("GET http://a.test//b HTTP/1.1", "a.test", b"GET //b HTTP/1.1\r\nHost: a.test\r\n"),
    ],
)
def test_origin_form(line: str, host: str, first: bytes) -> None:
    raw = request(line, f"Host: {host}")
    for pieces in ([raw], single_bytes(raw)):
        _, handshake = run(pieces)
        assert handshake.forward_head == first + b"Connection: close\r\n\r\n"


def test_http_1_0_stays_http_1_0() -> None:
    _, handshake = run([request("GET http://a.test/ HTTP/1.0")])
    assert handshake.forward_head == request("GET / HTTP/1.0", "Host: a.test", "Connection: close")


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (request("GET / HTTP/1.1", "Host: a.test"), "MALFORMED"),
        (request("OPTIONS * HTTP/1.1", "Host: a.test"), "MALFORMED"),
        (request("GET a.test:80 HTTP/1.1", "Host: a.test"), "MALFORMED"),
        (request("GET http:/a.test/ HTTP/1.1", "Host: a.test"), "MALFORMED"),
        (request("GET http:\\\\a.test/ HTTP/1.1", "Host: a.test"), "MALFORMED"),
        (request("GET http://a.test/#x HTTP/1.1", "Host: a.test"), "MALFORMED"),
        (request("GET https://a.test/ HTTP/1.1", "Host: a.test"), "UNSUPPORTED"),
        (request("GET ftp://a.test/ HTTP/1.1", "Host: a.test"), "UNSUPPORTED"),
        (request("GET http:/// HTTP/1.1", "Host: a.test"), "BAD_DESTINATION"),
        (request("GET http://:80/ HTTP/1.1", "Host: a.test"), "BAD_DESTINATION"),
        (request("GET http://a.test:/ HTTP/1.1", "Host: a.test"), "BAD_DESTINATION"),
        (request("GET http://user:secret@a.test/ HTTP/1.1", "Host: a.test"), "BAD_DESTINATION"),
        (request("GET http://a.test\\@b.test/ HTTP/1.1", "Host: a.test"), "BAD_DESTINATION"),
        (request("GET http://0x7f.1/ HTTP/1.1", "Host: a.test"), "BAD_DESTINATION"),
        (request("GET http://a.test/ HTTP/1.1", "Host: b.test"), "MALFORMED"),
        (request("GET http://a.test:81/ HTTP/1.1", "Host: a.test"), "MALFORMED"),
        (request("GET http://a.test/ HTTP/1.1", "Host: a.test", "Connection: Host"), "MALFORMED"),
        (
            request(
                "POST http://a.test/ HTTP/1.1",
                "Host: a.test",
                "Content-Length: 5",
                "Connection: close, content-length",
            ),
            "MALFORMED",
        ),
        (
            request("POST http://a.test/ HTTP/1.1", "Host: a.test", "Transfer-Encoding: chunked")
            + b"xyz\r\n",
            "MALFORMED",
        ),
    ],
)
def test_requests_that_are_refused(raw: bytes, code: str) -> None:
    outcome, handshake = run([raw])
    assert outcome == code
    assert handshake.leftover == b""
    if b"xyz" not in raw:  # that one is a good head with a bad body behind it
        assert run(single_bytes(raw))[0] == code


def test_refused_body_leaves_nothing_to_send_on() -> None:
    head = parse_head(
        request("POST http://a.test/ HTTP/1.1", "Host: a.test", "Transfer-Encoding: chunked")
    )
    body = RequestBody(head)
    with pytest.raises(Refused):
        body.take(b"-1\r\n")


# The one request's body

CHUNKED = b"5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nTrailer: x\r\n\r\n"


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("Content-Length: 0", b""),
        ("Content-Length: 11", b"hello\r\n\r\nxy"),
        ("Transfer-Encoding: chunked", CHUNKED),
        ("X: no body", b""),
    ],
)
def test_only_the_one_requests_body_is_sent_on(field: str, body: bytes) -> None:
    raw = request("POST http://a.test/ HTTP/1.1", "Host: a.test", field)
    everything = body + SECOND
    for cut in range(len(everything) + 1):
        _, handshake = run([raw + everything[:cut]])
        assert handshake.body is not None
        sent = handshake.leftover + handshake.body.take(everything[cut:])
        assert sent == body
        assert handshake.body.ended
        assert handshake.body.take(SECOND) == b""
    _, handshake = run([raw])
    assert handshake.body is not None
    taken = [handshake.body.take(byte) for byte in single_bytes(everything)]
    assert b"".join(taken) == body


# Answers


@pytest.mark.parametrize("code", list(RefusalCode))
def test_answer_of_every_refusal(code: RefusalCode) -> None:
    answer = refusal_answer(Refused(code, "the rule", "the hint"))
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode("ascii").split("\r\n")
    assert lines[0].startswith(f"HTTP/1.1 {code.http_status} ")
    assert f"Mdx-Refused: {code.value}" in lines
    assert f"Content-Length: {len(body)}" in lines
    assert body.decode() == f"{code.value}: the rule (the hint)\n"
    challenges = sum(line.startswith("Proxy-Authenticate: ") for line in lines)
    assert challenges == (2 if code is RefusalCode.NOT_AUTHENTICATED else 0)


def test_answer_is_one_line_whatever_the_rule_holds() -> None:
    rule = "a\r\nSet-Cookie: x\n\x1b[31m\u202e\u2028\x00\x85ü\ud800"
    body = refusal_answer(Refused(RefusalCode.BLOCKED_BY_RULE, rule)).partition(b"\r\n\r\n")[2]
    assert body.decode() == (
        "BLOCKED_BY_RULE: a\\r\\nSet-Cookie: x\\n\\x1b[31m\\u202e\\u2028\\x00\\x85ü\\ud800\n"
    )
    assert len(refusal_answer(Refused(RefusalCode.MALFORMED, "x" * 100_000))) < 4096


def test_answer_to_head_has_no_body() -> None:
    outcome, handshake = run([request("HEAD http://0x7f.1/ HTTP/1.1", "Host: a.test")])
    assert outcome == "BAD_DESTINATION"
    answer = handshake.refuse(Refused(RefusalCode.BAD_DESTINATION, "rule"))
    assert answer.endswith(b"\r\n\r\n")


# Real clients


async def serve_one(listener: trio.SocketListener, seen: list[HttpProxyHandshake]) -> None:
    """Play proxy and site for one connection: a site answers with the head that reached it."""
    stream = await listener.accept()
    handshake = HttpProxyHandshake(absolute_form=True)
    seen.append(handshake)
    async with stream:
        try:
            while handshake.receive(await stream.receive_some()) is None:
                pass
        except Refused as refused:
            await stream.send_all(handshake.refuse(refused))
        else:
            body = handshake.forward_head
            if not body:
                await stream.send_all(handshake.accept())
                body = handshake.leftover or bytes(await stream.receive_some())
                await stream.send_all(b"+PONG\r\n" if body == b"PING\r\n" else b"")
            head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
            await stream.send_all(b"" if body == b"PING\r\n" else head + body)
        await stream.send_eof()
        while await stream.receive_some():
            pass


async def ask(*command: str, stdin: bytes = b"") -> tuple[bytes, HttpProxyHandshake]:
    """What a program printed that used the proxy (whose port stands for {}), and the handshake."""
    seen: list[HttpProxyHandshake] = []
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    with trio.fail_after(20):
        async with listener, trio.open_nursery() as nursery:
            nursery.start_soon(serve_one, listener, seen)
            done = await trio.run_process(
                [part.format(port) for part in command],
                stdin=stdin,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env={"PATH": os.environ["PATH"]},
            )
    return done.stdout, seen[0]


async def test_ncat_connects_with_http_1_0_and_no_host() -> None:
    printed, handshake = await ask(
        "ncat", "--proxy", "127.0.0.1:{}", "--proxy-type", "http", "redis.corp", "6379",
        stdin=b"PING\r\n",
    )  # fmt: skip
    assert printed == b"+PONG\r\n"
    assert handshake.request is not None
    assert handshake.request.version == "1.0"


async def test_curl_asks_for_plain_http_in_absolute_form() -> None:
    printed, handshake = await ask(
        "curl",
        "-sS",
        "-x",
        "http://user:secret@127.0.0.1:{}",
        "-d",
        "a=b",
        "http://a.test:8080/p?q",
    )
    assert printed.startswith(b"POST /p?q HTTP/1.1\r\nHost: a.test:8080\r\n")
    assert b"proxy" not in printed.lower()
    assert handshake.leftover == b"a=b"


async def test_curl_opens_tunnels() -> None:
    printed, handshake = await ask(
        "curl", "-sS", "--proxytunnel", "-x", "http://127.0.0.1:{}", "http://[::1]:8080/p"
    )
    assert printed.startswith(b"GET /p HTTP/1.1\r\nHost: [::1]:8080\r\n")
    assert handshake.request is not None
    assert handshake.request.target == "[::1]:8080"


async def test_curl_shows_why_it_was_refused() -> None:
    printed, _ = await ask("curl", "-sS", "-x", "http://127.0.0.1:{}", "http://a-.test/")
    assert printed.startswith(b"BAD_DESTINATION: ")
    printed, _ = await ask(
        "curl", "-sS", "-x", "http://127.0.0.1:{}", "-H", "Host: b.test", "http://a.test/"
    )
    assert printed.startswith(b"MALFORMED: Host and target differ")


async def test_python_connects() -> None:
    program = """
import http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
connection.set_tunnel("a.test", 8080)
connection.request("GET", "/p")
sys.stdout.buffer.write(connection.getresponse().read())
"""
    printed, handshake = await ask(sys.executable, "-c", program.replace("{", "{{"), "{}")
    assert printed.startswith(b"GET /p HTTP/1.1\r\nHost: a.test:8080\r\n")
    assert handshake.request is not None
    assert handshake.request.target == "a.test:8080"


# Web Platform Tests and fuzz


def url_rows() -> list[dict[str, str]]:
    """The rows about http and https that stand alone, without a base."""
    rows = json.loads(URLS.read_text())
    return [
        row for row in rows if isinstance(row, dict) and row["input"].lower().startswith("http")
    ]


def test_urls_that_must_fail_open_nothing() -> None:
    rows = [row for row in url_rows() if row.get("failure")]
    assert len(rows) == 198
    for row in rows:
        raw = f"GET {row['input']} HTTP/1.0\r\n\r\n".encode("utf-8", "surrogatepass")
        assert run([raw])[0] in ("MALFORMED", "UNSUPPORTED", "BAD_DESTINATION"), row["input"]


def test_urls_that_we_take_name_the_host_that_a_browser_takes() -> None:
    taken = 0
    for row in url_rows():
        if row.get("failure"):
            continue
        raw = f"GET {row['input']} HTTP/1.0\r\n\r\n".encode("utf-8", "surrogatepass")
        outcome, handshake = run([raw])
        if outcome not in ("MALFORMED", "UNSUPPORTED", "BAD_DESTINATION", "more"):
            taken += 1
            url = urlsplit(row["href"])
            assert outcome == f"{row['hostname'].removesuffix('.')}:{url.port or 80}", row["input"]
            assert (
                f"\r\nHost: {row['host'].removesuffix('.')}\r\n".encode() in handshake.forward_head
            )
    assert taken >= 40


FRAGMENTS = st.sampled_from(
    rb"GET |CONNECT |POST |http://|a.test|:443|:80|/|@|[::1]|xn--|127.1|%00".split(b"|")
    + b" HTTP/1.1\r\n| HTTP/1.0\r\n|Host: a.test\r\n|Host: a.test:443\r\n|\r\n|\n|\0".split(b"|")
    + b"Content-Length: 3\r\n|Transfer-Encoding: chunked\r\n|Connection: x\r\n".split(b"|")
    + b"3\r\nabc\r\n|0\r\n\r\n".split(b"|")
)
MOSTLY_REQUESTS = st.lists(FRAGMENTS | st.binary(max_size=3), max_size=20).map(b"".join)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    data=MOSTLY_REQUESTS,
    absolute_form=st.booleans(),
    cuts=st.lists(st.integers(0, 120), max_size=5),
)
def test_any_bytes_give_a_destination_or_a_refusal_however_they_are_cut(
    data: bytes, absolute_form: bool, cuts: list[int]
) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in pairwise(edges)]
    whole, one = run([data], absolute_form=absolute_form)
    cut_up, two = run(pieces, absolute_form=absolute_form)
    if one.request is not None and one.request.method != "CONNECT" and whole == "MALFORMED":
        return  # a bad body may come in a later piece than a good head
    assert cut_up == whole
    assert two.forward_head == one.forward_head


@settings(max_examples=EXAMPLES, deadline=None)
@given(authority=st.text(max_size=20) | st.from_regex(r"[a-z0-9.:@\[\]-]{1,20}", fullmatch=True))
def test_a_connect_that_is_taken_names_one_canonical_destination(authority: str) -> None:
    raw = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode("utf-8", "replace")
    handshake = HttpProxyHandshake(absolute_form=False)
    try:
        found = handshake.receive(raw)
    except Refused:
        return
    assert found is not None
    assert Destination(found.host, found.port) == found
