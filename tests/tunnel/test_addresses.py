"""Kinds of address, judged by where packets end up."""

from __future__ import annotations

import json
import os
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunnel.addresses import Address, AddressClass, classify, embedded_ipv4, guarded, judged_address

SMOKESCREEN = Path(__file__).parents[1] / "vectors" / "smokescreen" / "classify.json"
EXAMPLES = 20_000 if os.environ.get("MDX_SOAK") else 300

KINDS = {
    AddressClass.GLOBAL: ["8.8.8.8", "100.63.255.255", "100.128.0.0", "2606:4700::1", "2400::"],
    AddressClass.PRIVATE: [
        "10.0.0.0",
        "172.16.0.0",
        "172.31.255.255",
        "192.168.0.1",
        "100.64.0.0",
        "fc00::1",
        "fdff::1",
    ],
    AddressClass.LOOPBACK: ["127.0.0.1", "127.255.255.255", "::1"],
    AddressClass.LINK_LOCAL: ["169.254.0.1", "fe80::1", "febf::1"],
    AddressClass.METADATA: [
        "169.254.169.254",
        "168.63.129.16",
        "100.100.100.200",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
    ],
    AddressClass.MULTICAST: ["224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1"],
    AddressClass.BROADCAST: ["255.255.255.255"],
    AddressClass.UNSPECIFIED: ["0.0.0.0", "0.1.2.3", "::"],
    AddressClass.RESERVED: [
        "192.0.0.192",
        "192.0.2.1",
        "198.18.0.1",
        "203.0.113.1",
        "240.0.0.1",
        "192.88.99.1",
        "2001:db8::1",
        "2001:0:1::1",
        "3fff::1",
        "fec0::1",
        "::127.0.0.1",
        "::2",
        "64:ff9b:1::1",
        "64:ff9c::1",
        "100::1",
        "4000::1",
        "5f00::1",
    ],
}
CASES = [(text, kind) for kind, texts in KINDS.items() for text in texts]


@pytest.mark.parametrize(("text", "kind"), CASES)
def test_kinds(text: str, kind: AddressClass) -> None:
    address = ip_address(text)
    assert classify(address) is kind
    reason = guarded(address)
    if kind in (AddressClass.GLOBAL, AddressClass.PRIVATE):
        assert reason is None
    else:
        assert reason == f"{address} is a {kind.value} address"


@pytest.mark.parametrize("text", [text for text, _ in CASES if ":" not in text])
def test_embedded_addresses_are_judged_by_the_ipv4_inside(text: str) -> None:
    inside = IPv4Address(text)
    number = int(inside)
    for outside in (
        IPv6Address((0xFFFF << 32) | number),
        IPv6Address((0x0064_FF9B << 96) | number),
        IPv6Address((0x2002 << 112) | (number << 80) | 1),
    ):
        assert embedded_ipv4(outside) == inside
        assert judged_address(outside) == inside
        assert classify(outside) is classify(inside)
        assert (guarded(outside) is None) == (guarded(inside) is None)
        assert guarded(outside, own=[inside]) is not None


def test_own_addresses_are_guarded() -> None:
    own: list[Address] = [IPv4Address("10.0.0.5"), IPv6Address("fd12::5")]
    for text in ("10.0.0.5", "fd12::5", "::ffff:10.0.0.5"):
        address = ip_address(text)
        assert guarded(address, own=own) == f"{address} is an address of this machine"
    assert guarded(IPv4Address("10.0.0.6"), own=own) is None


def test_smokescreen() -> None:
    """Its verdicts where they mean the same here (see the README beside the vectors)."""
    rows = json.loads(SMOKESCREEN.read_text())
    assert len(rows) == 41
    for row in rows:
        address = ip_address(row["ip"])
        verdict, kind = row["smokescreen"], classify(address)
        if verdict == "ipDenyNotGlobalUnicast":
            assert guarded(address) is not None, row
        elif verdict in ("ipDenyPrivateRange", "ipDenyCGNAT"):
            assert kind is AddressClass.PRIVATE, row
        elif verdict == "ipDenyIPv6Embedding":
            inside = embedded_ipv4(address)
            if inside is None:  # Teredo
                assert guarded(address) is not None, row
            else:
                assert kind is classify(inside), row
        elif verdict == "ipAllowDefault":
            # 64:ff9c::/32 is handed out to nobody (IANA), so here it is reserved
            reserved = address in ip_network("64:ff9c::/32")
            assert kind is (AddressClass.RESERVED if reserved else AddressClass.GLOBAL), row


@settings(max_examples=EXAMPLES, deadline=None)
@given(address=st.ip_addresses())
def test_every_address_has_a_kind_and_the_list_is_stricter_than_the_library(
    address: Address,
) -> None:
    kind = classify(address)
    if kind is AddressClass.GLOBAL and embedded_ipv4(address) is None:
        assert address.is_global
        assert not address.is_multicast
