"""The addresses of this machine, against what the kernel's own tables say."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from mdx.own_addresses import own_addresses


def test_they_are_those_of_the_kernels_tables() -> None:
    trie = Path("/proc/net/fib_trie").read_text()
    ipv4 = {IPv4Address(text) for text in re.findall(r"\|-- ([0-9.]+)\n\s+/32 host LOCAL", trie)}
    ipv6_file = Path("/proc/net/if_inet6")
    lines = ipv6_file.read_text().splitlines() if ipv6_file.exists() else []
    ipv6 = {IPv6Address(int(line.split()[0], 16)) for line in lines}
    assert own_addresses() == ipv4 | ipv6


def test_loopback_is_among_them() -> None:
    assert IPv4Address("127.0.0.1") in own_addresses()
