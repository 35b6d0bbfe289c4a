"""Routes as plain data: what a policy says is what the agent's table does."""

from __future__ import annotations

import json
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdx.policy import load
from mdx.route_data import route_rules, table_from_data
from tunnel import BadRule, RouteTable, Verb, parse_destination

ROUTES = """\
routes = [
    { tunnel = "*.corp.internal:443" },
    { block = "*.corp.internal", reason = "HTTPS only" },
    { direct = "10.1.2.3:22" },
]
"""


def data_of(tmp_path: Path, text: str, app: str = "payroll") -> dict[str, Any]:
    """The data of an app, as it is after a journey through JSON."""
    path = tmp_path / "mdx.toml"
    path.write_text(f"[apps.payroll]\n{text}")
    path.chmod(0o600)
    found: dict[str, Any] = json.loads(json.dumps(route_rules(app, load(path).app(app))))
    return found


def verdicts(table: RouteTable, *destinations: str) -> list[Verb]:
    return [table.choose(parse_destination(text)).verb for text in destinations]


def verdict(data: dict[str, Any], destination: str) -> tuple[Verb, str]:
    route = table_from_data(data).choose(parse_destination(destination))
    return route.verb, route.text


def test_a_blocked_app_reaches_nothing(tmp_path: Path) -> None:
    data = data_of(tmp_path, 'network_access = "blocked"\n' + ROUTES)
    text = "BLOCK * (mdx.toml:2 apps.payroll.network_access): network access is blocked"
    for destination in ("a.corp.internal:443", "10.1.2.3:22", "example.com:443", "[2001:db8::1]:1"):
        assert verdict(data, destination) == (Verb.BLOCK, text)


def test_an_app_without_settings_is_blocked(tmp_path: Path) -> None:
    verb, text = verdict(data_of(tmp_path, ""), "example.com:443")
    assert verb is Verb.BLOCK
    assert "(mdx.toml:1 apps.payroll.network_access)" in text


def test_an_unrestricted_app_goes_direct_but_for_its_routes(tmp_path: Path) -> None:
    data = data_of(tmp_path, 'network_access = "unrestricted"\n' + ROUTES)
    assert verdict(data, "a.corp.internal:443") == (
        Verb.TUNNEL,
        "TUNNEL *.corp.internal:443 (mdx.toml:4 apps.payroll.routes[0])",
    )
    assert verdict(data, "a.corp.internal:80") == (
        Verb.BLOCK,
        "BLOCK *.corp.internal (mdx.toml:5 apps.payroll.routes[1]): HTTPS only",
    )
    assert verdict(data, "example.com:443") == (
        Verb.DIRECT,
        "DIRECT * (mdx.toml:2 apps.payroll.network_access): network access is unrestricted",
    )


@pytest.mark.parametrize(
    ("settings", "other", "origin"),
    [
        ("", Verb.BLOCK, "mdx.toml:1 apps.payroll.split_tunnel"),
        ('split_tunnel = "on"\n', Verb.BLOCK, "mdx.toml:3 apps.payroll.split_tunnel"),
        ('split_tunnel = "off"\n', Verb.TUNNEL, "mdx.toml:3 apps.payroll.split_tunnel"),
        ('split_tunnel = "reverse"\n', Verb.TUNNEL, "mdx.toml:3 apps.payroll.split_tunnel"),
    ],
)
def test_a_tunneled_app_goes_by_its_split_mode(
    tmp_path: Path, settings: str, other: Verb, origin: str
) -> None:
    data = data_of(tmp_path, f'network_access = "tunneled"\n{settings}{ROUTES}')
    table = table_from_data(data)
    listed = ["a.corp.internal:443", "a.corp.internal:80", "10.1.2.3:22"]
    assert verdicts(table, *listed) == [Verb.TUNNEL, Verb.BLOCK, Verb.DIRECT]
    assert verdicts(table, "example.com:443", "corp.internal:443") == [other, other]
    assert table.explain(parse_destination("example.com:443")).origin == origin


def test_exclusions_go_direct_after_the_routes(tmp_path: Path) -> None:
    data = data_of(
        tmp_path,
        'network_access = "tunneled"\nsplit_tunnel = "reverse"\n'
        'exclusions = [\n  "example.com:443",\n  "*.corp.internal",\n]\n' + ROUTES,
    )
    assert verdict(data, "example.com:443") == (
        Verb.DIRECT,
        "DIRECT example.com:443 (mdx.toml:5 apps.payroll.exclusions[0])",
    )
    assert verdict(data, "a.corp.internal:80")[0] is Verb.BLOCK
    assert verdict(data, "example.com:80")[0] is Verb.TUNNEL


@pytest.mark.parametrize(
    ("settings", "verb"),
    [
        ('network_access = "unrestricted"\n', Verb.DIRECT),
        ('network_access = "tunneled"\nsplit_tunnel = "off"\n', Verb.TUNNEL),
    ],
)
def test_the_guard_knows_the_addresses_of_this_machine(
    tmp_path: Path, settings: str, verb: Verb
) -> None:
    data = data_of(tmp_path, settings)
    there = parse_destination("9.9.9.9:443")
    assert table_from_data(data).choose(there).verb is verb
    route = table_from_data(data, own=[ip_address("9.9.9.9")]).choose(there)
    assert (route.verb, route.guard) == (Verb.BLOCK, "9.9.9.9 is an address of this machine")


GOOD: dict[str, Any] = {
    "network_access": "tunneled",
    "split_tunnel": "reverse",
    "origin": "mdx.toml:1 here",
    "routes": [{"verb": "BLOCK", "pattern": "a.example", "reason": "", "origin": "x"}],
    "exclusions": [{"verb": "DIRECT", "pattern": "b.example", "reason": "", "origin": "x"}],
}


@pytest.mark.parametrize(
    "change",
    [
        {"network_access": "open"},
        {"network_access": None},
        {"split_tunnel": "sometimes"},
        {"split_tunnel": "on"},
        {"split_tunnel": []},
        {"routes": None},
        {"routes": ["a.example"]},
        {"routes": [{}]},
        {"routes": [GOOD["routes"][0] | {"verb": "ALLOW"}]},
        {"routes": [GOOD["routes"][0] | {"verb": "PROXY"}]},
        {"routes": [GOOD["routes"][0] | {"pattern": "127.1"}]},
        {"routes": [GOOD["routes"][0] | {"pattern": 5}]},
        {"exclusions": [GOOD["exclusions"][0] | {"verb": "TUNNEL"}]},
    ],
)
def test_odd_data_makes_no_table(change: dict[str, Any]) -> None:
    assert table_from_data(GOOD).default.verb is Verb.TUNNEL
    with pytest.raises(BadRule):
        table_from_data(GOOD | change)


@pytest.mark.parametrize("missing", sorted(GOOD))
def test_incomplete_data_makes_no_table(missing: str) -> None:
    with pytest.raises(BadRule, match=missing):
        table_from_data({key: value for key, value in GOOD.items() if key != missing})


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["on", "*"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["verb", "pattern", "origin", "reason"]), inner)
    ),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(GOOD)), anything))
def test_any_data_is_a_table_or_refused(change: dict[str, Any]) -> None:
    try:
        table = table_from_data(GOOD | change)
    except BadRule:
        return
    assert table.default.verb in (Verb.BLOCK, Verb.TUNNEL, Verb.DIRECT)


def test_the_agent_does_not_pay_for_pydantic() -> None:
    code = "import sys, mdx.route_data; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
