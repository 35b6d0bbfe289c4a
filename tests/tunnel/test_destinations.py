"""Destinations: one spelling each, and every disguise refused."""

from __future__ import annotations

import json
import os
import socket
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunnel.destinations import Destination, destination, parse_destination, parse_host
from tunnel.errors import RefusalCode, Refused

TO_ASCII = Path(__file__).parents[1] / "vectors" / "url" / "toascii.json"
EXAMPLES = 20_000 if os.environ.get("MDX_SOAK") else 300

DISGUISES = {
    "decimal": "2130706433",
    "octal": "0177.0.0.1",
    "octal, all of it": "017700000001",
    "hex": "0x7f.1",
    "hex, all of it": "0x7f000001",
    "hex in capitals": "0X7F.0.0.1",
    "hex prefix alone": "a.0x",
    "one number": "127",
    "two numbers": "127.1",
    "three numbers": "127.0.1",
    "five numbers": "127.0.0.0.1",
    "leading zeros": "00000127.0.0.1",
    "leading zero at the end": "127.0.0.01",
    "above 255": "127.0.0.256",
    "trailing dot": "127.0.0.1.",
    "name that ends in a number": "a.test.1",
    "NUL": "127.0.0.1\0.ok.test",
    "NUL at the end": "127.0.0.1\0",
    "circled digits": "①②⑦.⓪.⓪.①",
    "full-width digits": "１２７.0.0.1",
    "Arabic digits": "١٢٧.٠.٠.١",
    "superscript": "127.0.0.¹",
    "ideographic full stops": "127。0。0。1",
    "half-width full stops": "127｡0｡0｡1",
    "full-width full stops": "127．0．0．1",
    "full-width letters": "ｌｏｃａｌｈｏｓｔ",
    "letters of mathematics": "𝓁ocalhost",
    "ligature": "o\ufb03ce.test",
    "Kelvin sign": "\u212aube.test",
    "soft hyphen": "local\u00adhost",
    "zero-width joiner": "local\u200dhost",
    "zero-width space": "local\u200bhost",
    "byte order mark": "\ufefflocalhost",
    "right-to-left override": "a\u202eb.test",
    "mixed directions": "aא.test",
    "lone surrogate": "a\ud800.test",
    "emoji": "💩.test",
    "A-label of no name": "xn--a.test",
    "A-label of ASCII": "xn--abc-.test",
    "A-label of a disguise": "xn--127-y74b.test",
    "percent": "a%2etest",
    "space": "a test",
    "space before": " a.test",
    "line feed after": "a.test\n",
    "tab": "a\t.test",
    "slash": "a/b.test",
    "backslash": "a\\b.test",
    "comma": "a,b.test",
    "wildcard": "*.test",
    "user information": "user:secret@a.test",
    "hyphen first": "-a.test",
    "hyphen last": "a-.test",
    "empty": "",
    "dot": ".",
    "dot first": ".a.test",
    "two dots": "a..test",
    "two dots at the end": "a.test..",
    "label of 64": "a" * 64 + ".test",
    "name of 254": "a." * 126 + "aa",
    "300 characters": "a" * 300,
    "300 characters in labels": "a." * 150,
    "long Unicode": "ü" * 300,
    "IPv6 with a zone": "fe80::1%eth0",
    "IPv6 in brackets": "[::1]",
    "IPv6 of nine groups": "1:2:3:4:5:6:7:8:9",
    "IPv6 with two gaps": "1::2::3",
    "IPv6 with leading zeros in its quad": "::ffff:127.0.0.01",
    "IPv6 in full-width digits": "::１",
    "three colons": ":::",
}


@pytest.mark.parametrize("text", DISGUISES.values(), ids=DISGUISES.keys())
def test_disguises_are_refused(text: str) -> None:
    with pytest.raises(Refused) as caught:
        parse_host(text)
    assert caught.value.code is RefusalCode.BAD_DESTINATION
    message = str(caught.value)
    assert message.isascii()
    assert message.isprintable()
    assert len(message) < 500
    assert "secret" not in message
    with pytest.raises(Refused):
        Destination(text, 443)
    if not text.startswith("["):
        with pytest.raises(Refused):
            parse_destination(f"{text}:443")


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("a.test", "a.test"),
        ("A.Test", "a.test"),
        ("a.test.", "a.test"),
        ("localhost", "localhost"),
        ("_srv._tcp.a.test", "_srv._tcp.a.test"),
        ("3com.test", "3com.test"),
        ("1.2.3.4.test", "1.2.3.4.test"),
        ("a--b.test", "a--b.test"),
        ("Bücher.test", "xn--bcher-kva.test"),
        ("bu\u0308cher.test", "xn--bcher-kva.test"),
        ("XN--BCHER-KVA.test", "xn--bcher-kva.test"),
        ("straße.test", "xn--strae-oqa.test"),
        ("日本語.test", "xn--wgv71a119e.test"),
        ("пример.испытание", "xn--e1afmkfd.xn--80akhbyknj4f"),
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "0.0.0.0"),
        ("255.255.255.255", "255.255.255.255"),
        ("::", "::"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("2001:DB8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1"),
        ("::FFFF:7f00:1", "::ffff:127.0.0.1"),
        ("64:ff9b::7f00:1", "64:ff9b::7f00:1"),
        ("a" * 63 + ".test", "a" * 63 + ".test"),
        ("a." * 126 + "a", "a." * 126 + "a"),
    ],
)
def test_spellings_of_one_host(text: str, canonical: str) -> None:
    assert parse_host(text) == canonical
    assert parse_host(canonical) == canonical
    found = destination(text, 443)
    assert found.host == canonical
    assert (found.address is not None) == canonical.replace(".", "").isdigit() or ":" in canonical


def test_what_getaddrinfo_takes_for_an_address_is_no_name_here() -> None:
    flags = socket.AI_NUMERICHOST  # asks no server
    for text in DISGUISES.values():
        try:
            socket.getaddrinfo(text, 443, flags=flags)
        except (OSError, ValueError):
            continue
        with pytest.raises(Refused):
            parse_host(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.test:443", ("a.test", 443)),
        ("A.TEST.:1", ("a.test", 1)),
        ("a.test:65535", ("a.test", 65535)),
        ("a.test:00080", ("a.test", 80)),
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("[::1]:80", ("::1", 80)),
        ("[::FFFF:127.0.0.1]:80", ("::ffff:127.0.0.1", 80)),
    ],
)
def test_host_and_port(text: str, expected: tuple[str, int]) -> None:
    found = parse_destination(text)
    assert (found.host, found.port) == expected
    assert parse_destination(str(found)) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.test",
        "a.test:",
        "a.test:0",
        "a.test:65536",
        "a.test:65979",
        "a.test:+443",
        "a.test:-1",
        "a.test: 443",
        "a.test:443 ",
        "a.test:4_43",
        "a.test:000443",
        "a.test:４４３",
        "a.test:443:443",
        "a.test:0x1bb",
        "a.test:http",
        ":443",
        "::1:443",
        "[::1]",
        "[::1]443",
        "[::1]:",
        "[::1]x:443",
        "[::1:443",
        "[]:443",
        "[a.test]:443",
        "[127.0.0.1]:443",
        "[::1%lo]:443",
        "[[::1]]:443",
        "a.test/:443",
        "http://a.test:443",
        "user:secret@a.test:443",
    ],
)
def test_host_and_port_that_are_refused(text: str) -> None:
    with pytest.raises(Refused) as caught:
        parse_destination(text)
    assert caught.value.code is RefusalCode.BAD_DESTINATION
    assert "secret" not in str(caught.value)


def test_default_port_is_for_a_port_that_is_left_out() -> None:
    assert parse_destination("a.test", default_port=80) == Destination("a.test", 80)
    assert parse_destination("[::1]", default_port=80) == Destination("::1", 80)
    for text in ("a.test:", "[::1]:", "[::1]x"):
        with pytest.raises(Refused):
            parse_destination(text, default_port=80)


@pytest.mark.parametrize(
    ("host", "port"),
    [("A.test", 1), ("a.test.", 1), ("::FFFF:1.2.3.4", 1), ("a.test", 0), ("a", 65536)],
)
def test_a_destination_that_exists_is_canonical(host: str, port: int) -> None:
    with pytest.raises(Refused):
        Destination(host, port)


def test_equal_destinations_are_one_key() -> None:
    assert len({parse_destination(text) for text in ("A.test:1", "a.test.:1", "a.test:01")}) == 1
    assert Destination("::1", 1).address == ip_address("::1")
    assert str(Destination("::1", 1)) == "[::1]:1"


def test_web_platform_tests() -> None:
    """What both take is one host; what browsers refuse is refused."""
    taken = 0
    for row in json.loads(TO_ASCII.read_text()):
        if isinstance(row, str):
            continue
        try:
            host = parse_host(row["input"])
        except Refused:
            continue
        taken += 1
        assert row["output"] is not None, row
        assert host == row["output"].removesuffix("."), row
    assert taken >= 15


@settings(max_examples=EXAMPLES, deadline=None)
@given(text=st.text(max_size=40) | st.from_regex(r"[0-9a-fxA-F.:\[\]%-]{1,30}", fullmatch=True))
def test_any_text_is_canonical_or_refused(text: str) -> None:
    try:
        host = parse_host(text)
    except Refused as refused:
        caught = refused
    else:
        assert parse_host(host) == host
        assert host.isascii()
        assert len(host) <= 253
        assert destination(host, 1).host == host
        return
    assert caught.code is RefusalCode.BAD_DESTINATION
    assert str(caught).isprintable()


@settings(max_examples=EXAMPLES, deadline=None)
@given(number=st.integers(0, 2**128 - 1) | st.integers(0, 2**32 - 1))
def test_every_spelling_of_an_address_is_the_same(number: int) -> None:
    address = ip_address(number)
    for text in (str(address), address.exploded, address.exploded.upper()):
        host = parse_host(text)
        assert ip_address(host) == address
        assert parse_host(host) == host
