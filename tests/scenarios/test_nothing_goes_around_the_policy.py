"""The private site without mdx, other hosts, odd spellings, guarded addresses."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.scenarios.conftest import Machine


def curl(machine: Machine, app: str, url: str, *options: str) -> tuple[int, str]:
    """(exit status, what was said) of curl as `app`."""
    command = ["curl", "-sS", "-m", "20", *options, url]
    done = machine.run("mdx", "run", "--quiet", app, "--", *command)
    return done.returncode, done.stdout + done.stderr


def test_the_sites_name_means_nothing_outside_of_the_gateway(machine: Machine, site: str) -> None:
    done = machine.run("curl", "-sS", "-m", "10", f"https://{site}/")

    assert done.returncode == 6
    assert "Could not resolve host" in done.stderr


def test_the_site_talks_to_the_gateway_only(machine: Machine, site: str) -> None:
    """Whoever finds its port still lacks the gateway's certificate."""
    port = machine.ports["site"]
    done = machine.run(
        "curl", "-sSk", "-m", "10", "--connect-to", f"{site}:443:127.0.0.1:{port}",
        f"https://{site}/payroll.json",
    )  # fmt: skip

    assert done.returncode != 0
    assert "salaries" not in done.stdout
    assert "certificate required" in done.stderr


def test_what_is_not_listed_is_blocked_with_the_rule(machine: Machine) -> None:
    status, said = curl(machine, "payroll", "https://example.com/", "-v")

    assert status == 56
    assert "HTTP/1.1 403" in said
    assert "Mdx-Refused: BLOCKED_BY_RULE" in said
    refused = machine.records("flow.refused")[-1]["fields"]
    assert refused["destination"] == "example.com:443"
    assert "BLOCK *" in refused["rule"]
    assert "split_tunnel" in refused["rule"]


def test_plain_http_is_blocked_with_the_rule_in_the_page(machine: Machine) -> None:
    status, said = curl(machine, "payroll", "http://example.com/", "-w", "%{http_code}")

    assert status == 0
    assert said.endswith("403")
    assert "BLOCK *" in said


def test_socks_says_not_allowed_by_ruleset(machine: Machine) -> None:
    script = 'curl -sS --proxy "$ALL_PROXY" https://example.com/'
    done = machine.run("mdx", "run", "--quiet", "payroll", "--", "sh", "-c", script)

    assert done.returncode == 97  # curl: proxy handshake error
    assert "(2)" in done.stderr


def test_an_app_without_network_access_reaches_nothing(machine: Machine, site: str) -> None:
    assert curl(machine, "offline", f"https://{site}/")[0] == 56


def test_the_gateway_decides_again_by_its_own_list(machine: Machine, site: str) -> None:
    """The policy of visitor would tunnel; the gateway's list does not name visitor."""
    status, said = curl(machine, "visitor", f"https://{site}/", "-v")

    assert status == 56
    assert "Mdx-Refused: NOT_ALLOWED" in said
    refused = [record["fields"]["rule"] for record in machine.records("flow.refused")[-2:]]
    assert any(
        rule.startswith("gateway: ") for rule in refused
    )  # the agent's; one is the gateway's


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.9",
        "127.0.0.1",
        "127.9",
        "2130706441",
        "0x7f.9",
        "0177.0.0.9",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "169.254.169.254",
        "[fd00:ec2::254]",
        "168.63.129.16",
        "0.0.0.0",
    ],
)
def test_no_spelling_of_a_guarded_address_gets_past(machine: Machine, address: str) -> None:
    """`direct` may go anywhere, and loopback only as the one literal that its rule names."""
    with socket.create_server(("127.0.0.9", 0)) as listening:
        port = listening.getsockname()[1]
        target = f"{address}:{port}"
        script = (
            f'exec 3<>"/dev/tcp/127.0.0.1/${{http_proxy##*:}}";'
            f"printf 'CONNECT {target} HTTP/1.1\\r\\nHost: {target}\\r\\n\\r\\n' >&3; head -n1 <&3"
        )
        done = machine.run("mdx", "run", "--quiet", "direct", "--", "bash", "-c", script)
        expected = "200" if address == "127.0.0.9" else "40"
        assert done.stdout.startswith(f"HTTP/1.1 {expected}"), (done.stdout, done.stderr)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1\x00.ok.test",
        "①②⑦.⓪.⓪.①",
        "127。0。0。1",
        "x" * 300 + ".test",
        "a..b",
        "-.test",
        "xn--a.test",
        "",
    ],
)
def test_explain_refuses_what_is_no_destination(machine: Machine, host: str) -> None:
    if "\x00" in host:  # argv cannot hold it; the parsers' own tests send it over the wire
        host = host.replace("\x00", "\\0")
    done = machine.mdx("explain", "payroll", host, status=2)

    assert "DESTINATION" in done.stderr


def test_a_trailing_dot_and_case_are_the_same_name(machine: Machine) -> None:
    shown = machine.json("explain", "payroll", "INTRANET.Corp.Internal.:443")

    assert shown["destination"] == "intranet.corp.internal:443"
    assert shown["verb"] == "TUNNEL"


def test_explain_names_rule_place_and_cure(machine: Machine) -> None:
    shown = machine.json("explain", "direct", "www.blocked.test")

    assert shown["verb"] == "BLOCK"
    assert shown["reason"] == "for this test"
    assert "mdx.toml:" in shown["origin"]
    said = machine.mdx("explain", "direct", "www.blocked.test").stdout
    for words in ("verdict", "BLOCK", "for this test", "mdx.toml:", "would change it"):
        assert words in said
