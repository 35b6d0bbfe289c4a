"""Patterns: how a rule names destinations, and what they match."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunnel.destinations import parse_destination
from tunnel.errors import BadRule
from tunnel.patterns import ALL_PORTS, Pattern, PatternKind

EXAMPLES = 20_000 if os.environ.get("MDX_SOAK") else 300


@pytest.mark.parametrize(
    ("text", "kind", "canonical"),
    [
        ("*", PatternKind.ANY, "*"),
        ("*:443", PatternKind.ANY, "*:443"),
        ("*:*", PatternKind.ANY, "*"),
        ("Git.Corp.", PatternKind.NAME, "git.corp"),
        ("git.corp:22", PatternKind.NAME, "git.corp:22"),
        ("bücher.test", PatternKind.NAME, "xn--bcher-kva.test"),
        ("*.corp:8000-8100", PatternKind.SUFFIX, "*.corp:8000-8100"),
        ("*.corp:80-80", PatternKind.SUFFIX, "*.corp:80"),
        ("*.corp:1-65535", PatternKind.SUFFIX, "*.corp"),
        ("10.1.2.3", PatternKind.NETWORK, "10.1.2.3"),
        ("10.1.2.3/32:22", PatternKind.NETWORK, "10.1.2.3:22"),
        ("10.0.0.0/8", PatternKind.NETWORK, "10.0.0.0/8"),
        ("0.0.0.0/0", PatternKind.NETWORK, "0.0.0.0/0"),
        ("[FD12::5]", PatternKind.NETWORK, "[fd12::5]"),
        ("[fd12::/16]:443", PatternKind.NETWORK, "[fd12::/16]:443"),
        ("[::/0]", PatternKind.NETWORK, "[::/0]"),
    ],
)
def test_canonical_spelling(text: str, kind: PatternKind, canonical: str) -> None:
    pattern = Pattern.parse(text)
    assert pattern.kind is kind
    assert pattern.text == canonical
    assert Pattern.parse(canonical) == pattern


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":443",
        "*.",
        "**",
        "*.*",
        "a.*",
        "a*.test",
        "*a.test",
        "*.*.test",
        "*.10.1.2.3",
        "a b",
        "127.1",
        "0x7f.1",
        "2130706433",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "10.0.0.0/08",
        "10.0.0.0/",
        "10.0.0.0/255.0.0.0",
        "10.0.0/8",
        "git.corp/8",
        "fd12::5",
        "fd12::/16",
        "[fd12::5",
        "[]",
        "[10.0.0.0/8]",
        "[git.corp]",
        "[::1]443",
        "[::1]:",
        "[::1%lo]",
        "[fd12::1/16]",
        "a.test:",
        "a.test:0",
        "a.test:65536",
        "a.test:080",
        "a.test:9-1",
        "a.test:-1",
        "a.test:1-",
        "a.test:1-2-3",
        "a.test:80,443",
        "a.test:http",
        "a.test:+80",
        "a.test: 80",
        "a.test:８０",
        "[::ffff:10.0.0.1]",
        "[::ffff:0:0/96]",
        "[64:ff9b::7f00:1]",
        "[2002:a00::/24]",
        "http://a.test",
        "user@a.test",
        "*.:443",
    ],
)
def test_patterns_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(BadRule) as caught:
        Pattern.parse(text)
    assert str(caught.value).isascii()


@pytest.mark.parametrize(
    ("pattern", "destination", "expected"),
    [
        ("*", "a.test:1", True),
        ("*", "[::1]:1", True),
        ("*:443", "a.test:80", False),
        ("a.test", "a.test:1", True),
        ("a.test", "b.a.test:1", False),
        ("*.a.test", "a.test:1", False),
        ("*.a.test", "b.a.test:1", True),
        ("*.a.test", "c.b.a.test:1", True),
        ("*.a.test", "xa.test:1", False),
        ("*.a.test:8000-8100", "b.a.test:8100", True),
        ("*.a.test:8000-8100", "b.a.test:8101", False),
        ("10.0.0.0/8", "10.1.2.3:1", True),
        ("10.0.0.0/8", "[::ffff:10.1.2.3]:1", True),
        ("10.0.0.0/8", "[64:ff9b::a01:203]:1", True),
        ("10.0.0.0/8", "[2002:a01:203::1]:1", True),
        ("10.0.0.0/8", "11.1.2.3:1", False),
        ("10.0.0.0/8", "a.test:1", False),
        ("0.0.0.0/0", "[fd12::1]:1", False),
        ("[::/0]", "10.1.2.3:1", False),
        ("[fd12::/16]", "[fd12:1::1]:1", True),
    ],
)
def test_matches(pattern: str, destination: str, expected: bool) -> None:
    assert Pattern.parse(pattern).matches(parse_destination(destination)) is expected


def test_naming_an_address_is_more_than_naming_a_network_around_it() -> None:
    loopback = parse_destination("127.0.0.1:80").address
    mapped = parse_destination("[::ffff:127.0.0.1]:80").address
    assert loopback is not None
    assert mapped is not None
    assert Pattern.parse("127.0.0.1").names_address(loopback, 80)
    assert Pattern.parse("127.0.0.1:80").names_address(mapped, 80)
    assert not Pattern.parse("127.0.0.1:81").names_address(loopback, 80)
    assert not Pattern.parse("127.0.0.0/31").names_address(loopback, 80)
    assert not Pattern.parse("*").names_address(loopback, 80)


def test_ports_in_words() -> None:
    assert Pattern.parse("a:443").ports_text == "443"
    assert Pattern.parse("a:1-2").ports_text == "1-2"
    assert Pattern.parse("a").ports_text == "*"
    assert Pattern.parse("a").ports == ALL_PORTS


@settings(max_examples=EXAMPLES, deadline=None)
@given(text=st.text(max_size=30) | st.from_regex(r"[*a-z0-9.:/\[\]-]{1,25}", fullmatch=True))
def test_any_text_is_a_pattern_or_a_bad_rule(text: str) -> None:
    try:
        pattern = Pattern.parse(text)
    except BadRule:
        return
    assert Pattern.parse(pattern.text) == pattern
