"""Routes: the clever table is the slow, obvious one; the guard; split modes; why."""

from __future__ import annotations

import os
from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunnel.addresses import Address, guarded
from tunnel.destinations import Destination, parse_destination
from tunnel.errors import BadRule, RefusalCode
from tunnel.patterns import Pattern
from tunnel.routes import Route, RouteTable, Rule, SplitMode, Verb, split_table

EXAMPLES = 10_000 if os.environ.get("MDX_SOAK") else 300
OWN: list[Address] = [ip_address("10.0.0.5")]


def rule(text: str, origin: str = "mdx.toml:1") -> Rule:
    """A rule from `VERB PATTERN`."""
    verb, _, pattern = text.partition(" ")
    proxy = Destination("proxy.corp", 3128) if verb == "PROXY" else None
    return Rule(pattern=Pattern.parse(pattern), verb=Verb(verb), origin=origin, proxy=proxy)


def table(*texts: str, default: str = "BLOCK", own: Sequence[Address] = ()) -> RouteTable:
    """A table of rules whose origins are their ranks."""
    rules = [rule(text, f"rank {rank}") for rank, text in enumerate(texts)]
    return RouteTable(rules, default=rule(f"{default} *", "default"), own=own)


def chosen(routes: RouteTable, destination: str, at: str | None = None) -> str:
    """`VERB` and the origin, and `guard` where that decided."""
    where = parse_destination(destination)
    route = routes.choose(where) if at is None else routes.choose_address(where, ip_address(at))
    return f"{route.verb.value} {route.rule.origin}" + (" guard" if route.guard else "")


# Ranks


def test_the_first_rule_that_matches_decides() -> None:
    routes = table("BLOCK b.corp", "TUNNEL *.corp", "DIRECT *:443", "TUNNEL b.corp")
    assert chosen(routes, "b.corp:443") == "BLOCK rank 0"
    assert chosen(routes, "a.b.corp:443") == "TUNNEL rank 1"
    assert chosen(routes, "corp:443") == "DIRECT rank 2"
    assert chosen(routes, "corp:80") == "BLOCK default"


def test_ports_narrow_a_rule() -> None:
    routes = table("TUNNEL a.corp:443", "BLOCK a.corp:1-1024", "TUNNEL a.corp")
    assert chosen(routes, "a.corp:443") == "TUNNEL rank 0"
    assert chosen(routes, "a.corp:80") == "BLOCK rank 1"
    assert chosen(routes, "a.corp:8080") == "TUNNEL rank 2"


def test_names_meet_no_address_rules_and_addresses_no_name_rules() -> None:
    routes = table("BLOCK 0.0.0.0/0", "TUNNEL a.corp", "BLOCK a.corp")
    assert chosen(routes, "a.corp:1") == "TUNNEL rank 1"
    assert chosen(routes, "8.8.8.8:1") == "BLOCK rank 0"


@pytest.mark.parametrize(
    "text", ["8.8.8.8", "[::ffff:8.8.8.8]", "[64:ff9b::808:808]", "[2002:808:808::]"]
)
def test_addresses_are_judged_by_the_ipv4_inside(text: str) -> None:
    assert chosen(table("BLOCK 8.0.0.0/8", default="TUNNEL"), f"{text}:53") == "BLOCK rank 0"


# Dialling


def test_looking_up_only_tightens() -> None:
    routes = table("DIRECT *.test", "BLOCK 93.0.0.0/8:80", "DIRECT 10.1.2.3", default="BLOCK")
    assert chosen(routes, "a.test:80", "8.8.8.8") == "DIRECT rank 0"
    assert chosen(routes, "a.test:80", "93.1.1.1") == "BLOCK rank 1"
    assert chosen(routes, "a.test:443", "93.1.1.1") == "DIRECT rank 0"
    assert chosen(routes, "a.other:80", "10.1.2.3") == "BLOCK default"  # an address allows no name


def test_a_block_of_everything_behind_an_allowed_name_does_not_undo_it() -> None:
    assert chosen(table("DIRECT a.test", "BLOCK *"), "a.test:80", "8.8.8.8") == "DIRECT rank 0"


@pytest.mark.parametrize(
    "at", ["127.0.0.1", "::1", "169.254.169.254", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "10.0.0.5"]
)
@pytest.mark.parametrize("verb", ["DIRECT", "TUNNEL", "PROXY"])
def test_guard_refuses_what_a_name_turned_out_to_be(at: str, verb: str) -> None:
    routes = table(f"{verb} *", own=OWN)
    assert chosen(routes, "a.test:80", at) == "BLOCK rank 0 guard"
    if "." in at or ":" in at:
        text = f"[{at}]:80" if ":" in at else f"{at}:80"
        assert chosen(routes, text) == "BLOCK rank 0 guard"


def test_guard_gives_way_to_a_rule_that_names_the_one_address() -> None:
    named = table("DIRECT localhost", "DIRECT 127.0.0.1:8080")
    assert chosen(named, "localhost:8080", "127.0.0.1") == "DIRECT rank 0"
    assert chosen(named, "localhost:8080", "::ffff:127.0.0.1") == "DIRECT rank 0"
    assert chosen(named, "localhost:8081", "127.0.0.1") == "BLOCK rank 0 guard"
    assert chosen(named, "localhost:8080", "127.0.0.2") == "BLOCK rank 0 guard"
    assert chosen(named, "127.0.0.1:8080") == "DIRECT rank 1"


def test_guard_does_not_give_way_to_a_network_nor_to_another_verb() -> None:
    assert chosen(table("DIRECT 127.0.0.0/8"), "127.0.0.1:80") == "BLOCK rank 0 guard"
    other = table("DIRECT localhost", "TUNNEL 127.0.0.1")
    assert chosen(other, "localhost:80", "127.0.0.1") == "BLOCK rank 0 guard"


def test_refusals_say_which_of_the_two_decided() -> None:
    routes = table("BLOCK a.test", "DIRECT *")
    refused = routes.choose(parse_destination("a.test:80")).refusal("hint")
    assert refused.code is RefusalCode.BLOCKED_BY_RULE
    assert (refused.rule, refused.hint) == ("BLOCK a.test (rank 0)", "hint")
    refused = routes.choose(parse_destination("127.0.0.1:80")).refusal()
    assert refused.code is RefusalCode.ADDRESS_GUARD
    assert refused.rule == "address guard: 127.0.0.1 is a loopback address"


# Tables and split modes


def test_a_default_is_about_everything() -> None:
    for text in ("BLOCK a.test", "BLOCK *:443"):
        with pytest.raises(BadRule):
            RouteTable([], default=rule(text))


def test_a_proxy_belongs_to_its_verb() -> None:
    with pytest.raises(BadRule):
        Rule(pattern=Pattern.parse("*"), verb=Verb.PROXY, origin="here")
    with pytest.raises(BadRule):
        Rule(pattern=Pattern.parse("*"), verb=Verb.DIRECT, origin="here", proxy=Destination("a", 1))
    assert rule("PROXY *").text == "PROXY * via proxy.corp:3128"


def test_reason_is_in_the_text() -> None:
    why = Rule(pattern=Pattern.parse("*"), verb=Verb.BLOCK, origin="mdx.toml:3", reason="no games")
    assert Route(verb=Verb.BLOCK, rule=why).text == "BLOCK * (mdx.toml:3): no games"


@pytest.mark.parametrize(
    ("mode", "listed", "excluded", "other"),
    [
        (SplitMode.ON, "TUNNEL r", None, "BLOCK mode"),
        (SplitMode.OFF, "TUNNEL r", None, "TUNNEL mode"),
        (SplitMode.REVERSE, "TUNNEL r", "DIRECT x", "TUNNEL mode"),
    ],
)
def test_split_modes(mode: SplitMode, listed: str, excluded: str | None, other: str) -> None:
    exclusions = [rule("DIRECT *.cdn.test", "x")] if excluded is not None else []
    routes = split_table(mode, [rule("TUNNEL own.cdn.test", "r")], exclusions, origin="mode")
    assert chosen(routes, "own.cdn.test:443") == listed  # ranked before the exclusions
    assert chosen(routes, "a.test:443") == other
    if excluded is not None:
        assert chosen(routes, "b.cdn.test:443") == excluded
    assert routes.default.reason == f"the default of split mode {mode.value}"


def test_exclusions_belong_to_reverse_and_go_direct() -> None:
    for mode, verb in (
        (SplitMode.ON, "DIRECT"),
        (SplitMode.OFF, "DIRECT"),
        (SplitMode.REVERSE, "BLOCK"),
    ):
        with pytest.raises(BadRule):
            split_table(mode, [], [rule(f"{verb} a.test")], origin="mode")


# The obvious definition of the same


def slow_choose(routes: RouteTable, where: Destination) -> Route:
    """`RouteTable.choose` by `Pattern.matches`, rule after rule."""
    found = next((r for r in routes.rules if r.pattern.matches(where)), routes.default)
    if where.address is None:
        return Route(verb=found.verb, rule=found)
    return slow_guard(routes, found, where.address, where.port)


def slow_guard(routes: RouteTable, found: Rule, address: Address, port: int) -> Route:
    """The guard, asked of every rule."""
    reason = None if found.verb is Verb.BLOCK else guarded(address, own=OWN)
    named = any(
        r.verb is found.verb and r.pattern.names_address(address, port) for r in routes.rules
    )
    if reason is None or named:
        return Route(verb=found.verb, rule=found)
    return Route(verb=Verb.BLOCK, rule=found, guard=reason)


def slow_choose_address(routes: RouteTable, where: Destination, address: Address) -> Route:
    """`RouteTable.choose_address`, rule after rule."""
    route = slow_choose(routes, where)
    if route.verb is Verb.BLOCK or where.address == address:
        return route
    for r in routes.rules:
        about_addresses = r.pattern.network is not None
        if (
            r.verb is Verb.BLOCK
            and about_addresses
            and r.pattern.matches_address(address, where.port)
        ):
            return Route(verb=Verb.BLOCK, rule=r)
    return slow_guard(routes, route.rule, address, where.port)


# Few names, networks and ports, so that rules and destinations meet often.
HOSTS = st.sampled_from(["a.test", "b.a.test", "c.b.a.test", "xa.test", "test", "localhost"])
V4 = st.integers(0, 7).map(lambda n: f"10.0.0.{n}") | st.sampled_from(["127.0.0.1", "8.8.8.8"])
V6 = st.integers(0, 7).map(lambda n: f"fd12::{n}") | st.just("::1")
EMBEDDED = V4.map(lambda text: str(IPv6Address((0xFFFF << 32) | int(ip_address(text)))))
PORTS = st.sampled_from([1, 80, 443, 8080, 65535])
PORT_PATTERNS = st.sampled_from(["", ":443", ":1-443", ":80-8080", ":*"])
HOST_PATTERNS = st.one_of(
    st.just("*"),
    HOSTS,
    HOSTS.map(lambda name: f"*.{name}"),
    V4,
    V6.map(lambda text: f"[{text}]"),
    st.sampled_from(["10.0.0.0/29", "10.0.0.4/30", "10.0.0.0/8", "0.0.0.0/0", "127.0.0.0/8"]),
    st.sampled_from(["[fd12::/125]", "[fd12::4/126]", "[::/0]"]),
)
VERBS = st.sampled_from(["TUNNEL", "DIRECT", "PROXY", "BLOCK"])
RULES = st.builds(
    lambda verb, host, ports: f"{verb} {host}{ports}", VERBS, HOST_PATTERNS, PORT_PATTERNS
)
TABLES = st.builds(
    lambda texts, default: table(*texts, default=default, own=OWN),
    st.lists(RULES, max_size=12),
    st.sampled_from(["BLOCK", "TUNNEL", "DIRECT"]),
)
ADDRESSES = (V4 | V6 | EMBEDDED).map(ip_address)
DESTINATIONS = st.builds(Destination, HOSTS, PORTS) | st.builds(
    lambda address, port: parse_destination(
        f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
    ),
    ADDRESSES,
    PORTS,
)


@settings(max_examples=EXAMPLES, deadline=None)
@given(routes=TABLES, where=st.lists(DESTINATIONS, min_size=1, max_size=20), at=ADDRESSES)
def test_the_table_is_equal_to_the_obvious_matcher(
    routes: RouteTable, where: list[Destination], at: Address
) -> None:
    for destination in where:
        assert routes.choose(destination) == slow_choose(routes, destination)
        dialled = routes.choose_address(destination, at)
        assert dialled == slow_choose_address(routes, destination, at)
        assert dialled.verb in (routes.choose(destination).verb, Verb.BLOCK)  # it only tightens


@settings(max_examples=EXAMPLES, deadline=None)
@given(routes=TABLES, where=DESTINATIONS, at=st.none() | ADDRESSES)
def test_explanations_are_the_decision(
    routes: RouteTable, where: Destination, at: Address | None
) -> None:
    told = routes.explain(where, address=at)
    route = routes.choose(where) if at is None else routes.choose_address(where, at)
    assert (told.verb, told.rule, told.origin) == (
        route.verb.value,
        route.rule.text,
        route.rule.origin,
    )
    assert told.guard == route.guard
    assert told.change
    assert all(step.why for step in told.steps)


def test_many_rules_decide_as_fast_as_few() -> None:
    texts = [f"TUNNEL host{n}.test" for n in range(5000)]
    routes = table(*texts)
    assert chosen(routes, "host4999.test:1") == "TUNNEL rank 4999"
    index = routes._index  # no rule is looked at that names something else
    assert [len(ranked) for ranked in index._by_name("host4999.test")] == [0, 1]
