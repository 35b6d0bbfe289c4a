"""Explanations: what people complain about most is not knowing which destination went where."""

from __future__ import annotations

import json
from ipaddress import ip_address

import pytest

from tunnel.destinations import parse_destination
from tunnel.explanations import MAX_STEPS, Explanation
from tunnel.patterns import Pattern
from tunnel.routes import RouteTable, Rule, Verb

DEFAULT = Rule(pattern=Pattern.parse("*"), verb=Verb.BLOCK, origin="mdx.toml:2", reason="mode on")


def explain(*texts: str, about: str, at: str | None = None) -> Explanation:
    """The explanation of a destination by rules in the form `VERB PATTERN`."""
    rules = []
    for line, text in enumerate(texts, start=3):
        verb, _, pattern = text.partition(" ")
        rules.append(
            Rule(pattern=Pattern.parse(pattern), verb=Verb(verb), origin=f"mdx.toml:{line}")
        )
    routes = RouteTable(rules, default=DEFAULT)
    return routes.explain(parse_destination(about), address=None if at is None else ip_address(at))


def test_everything_that_led_to_a_verdict() -> None:
    told = explain(
        "TUNNEL 10.0.0.0/8",
        "TUNNEL *.corp",
        "TUNNEL git.corp:22",
        "TUNNEL other.test",
        about="corp:443",
    )
    assert told.verb == "BLOCK"
    assert (told.rule, told.origin, told.reason) == ("BLOCK *", "mdx.toml:2", "mode on")
    assert [(step.origin, step.why) for step in told.steps] == [
        ("mdx.toml:3", "it is about addresses, and a name is not looked up to decide"),
        ("mdx.toml:4", "it is about names below corp, not about that name itself"),
        ("mdx.toml:5", "it is about port 22"),
        ("mdx.toml:6", "it is about another host"),
    ]
    assert told.change == 'a rule about it, such as "TUNNEL corp:443"'
    assert json.loads(json.dumps(told.to_dict()))["destination"] == "corp:443"


def test_names_are_not_for_addresses() -> None:
    told = explain("TUNNEL git.corp", about="10.1.2.3:22")
    assert told.steps[0].why == "it is about names, and the destination is an address"


@pytest.mark.parametrize(
    ("rules", "about", "at", "change"),
    [
        (["DIRECT *"], "127.0.0.1:80", None, 'a rule that names the address: "DIRECT 127.0.0.1"'),
        (["DIRECT *"], "[::1]:80", None, 'a rule that names the address: "DIRECT [::1]"'),
        (["DIRECT *"], "a.test:80", "::ffff:127.0.0.1", '"DIRECT 127.0.0.1"'),
        (["DIRECT *", "BLOCK 8.0.0.0/8"], "a.test:80", "8.8.8.8", "removing mdx.toml:4"),
        (["TUNNEL a.test"], "a.test:80", None, "changing mdx.toml:3, or a rule about a.test:80"),
        (["DIRECT a.test"], "a.test:80", None, "once looked up"),
    ],
)
def test_what_would_change_it(rules: list[str], about: str, at: str | None, change: str) -> None:
    assert change in explain(*rules, about=about, at=at).change


def test_the_advice_for_the_guard_is_right() -> None:
    for text, address in (("127.0.0.1", None), ("a.test", "::1"), ("a.test", "64:ff9b::7f00:1")):
        told = explain("DIRECT *", about=f"{text}:80", at=address)
        assert told.guard
        advice = told.change.split('"')[1]
        assert explain("DIRECT *", advice, about=f"{text}:80", at=address).verb == "DIRECT"


def test_steps_are_no_longer_than_anyone_reads_and_the_rest_is_counted() -> None:
    rules = [f"TUNNEL host{n}.test" for n in range(MAX_STEPS + 20)]
    told = explain(*rules, about="a.test:80")
    assert len(told.steps) == MAX_STEPS
    assert told.steps_left_out == 20
