"""What kind of address an address is, by an explicit list, and which kinds the guard refuses.

Rules of this file:
- `ipaddress.is_global` is not asked: it takes NAT64, 6to4, `::127.0.0.1`, `fec0::/10`, multicast
  and the metadata address 168.63.129.16 for ordinary global addresses.
- An address that embeds an IPv4 address is judged by that one, since that is where its packets
  end up: IPv4-mapped, NAT64 (64:ff9b::/96) and 6to4. What embeds one in a place that cannot be
  known (Teredo, local NAT64 64:ff9b:1::/48) and the dead IPv4-compatible form are refused.
- In IPv6 only 2000::/3 is handed out, so what is on no list below and outside of it is reserved.
- The guard does not refuse private addresses: a gateway exists to reach them. `classify` tells them
  apart for callers that must not.

It never reads the machine's interfaces: the caller says which addresses are its own.
"""

from __future__ import annotations

from collections.abc import Container
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

__all__ = [
    "Address",
    "AddressClass",
    "Network",
    "classify",
    "embedded_ipv4",
    "guarded",
    "judged_address",
]

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class AddressClass(Enum):
    """The kinds of address. The value is how a refusal calls it."""

    GLOBAL = "global"
    PRIVATE = "private"
    LOOPBACK = "loopback"
    LINK_LOCAL = "link-local"
    METADATA = "cloud metadata"
    MULTICAST = "multicast"
    BROADCAST = "broadcast"
    UNSPECIFIED = "unspecified"
    RESERVED = "reserved"


_UNGUARDED = frozenset({AddressClass.GLOBAL, AddressClass.PRIVATE})

# In order: the first network that contains the address decides. IANA special-purpose registries
# (RFC 6890 and its successors) unless another source is named.
_LIST: tuple[tuple[AddressClass, tuple[str, ...]], ...] = (
    (
        AddressClass.METADATA,
        (
            "169.254.169.254/32",  # AWS, Azure, Google Cloud, OpenStack and others
            "168.63.129.16/32",  # Azure's host, reached by a global address
            "100.100.100.200/32",  # Alibaba Cloud
            "fd00:ec2::254/128",  # AWS
            "fd00:ec2::23/128",  # AWS, credentials of EKS pods
            "fd20:ce::254/128",  # Google Cloud
        ),
    ),
    (AddressClass.BROADCAST, ("255.255.255.255/32",)),
    (AddressClass.UNSPECIFIED, ("0.0.0.0/8", "::/128")),  # Linux connects 0.0.0.0 to loopback
    (AddressClass.LOOPBACK, ("127.0.0.0/8", "::1/128")),
    (AddressClass.LINK_LOCAL, ("169.254.0.0/16", "fe80::/10")),
    (AddressClass.MULTICAST, ("224.0.0.0/4", "ff00::/8")),
    (
        AddressClass.PRIVATE,
        (
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "100.64.0.0/10",  # RFC 6598, shared by carriers
            "fc00::/7",  # RFC 4193, unique local
        ),
    ),
    (
        AddressClass.RESERVED,
        (
            "192.0.0.0/24",  # protocol assignments; Oracle Cloud's metadata is 192.0.0.192
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # RFC 7526, 6to4 relays, withdrawn
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "240.0.0.0/4",  # future use
            "2001::/23",  # protocol assignments, Teredo among them
            "2001:db8::/32",  # documentation
            "3fff::/20",  # RFC 9637, documentation
        ),
    ),
    (AddressClass.GLOBAL, ("0.0.0.0/0", "2000::/3")),
    (AddressClass.RESERVED, ("::/0",)),
)
_NETWORKS = tuple((ip_network(text), kind) for kind, texts in _LIST for text in texts)
_IPV4 = tuple((net, kind) for net, kind in _NETWORKS if isinstance(net, IPv4Network))
_IPV6 = tuple((net, kind) for net, kind in _NETWORKS if isinstance(net, IPv6Network))

MAPPED = IPv6Network("::ffff:0:0/96")  # RFC 4291, 2.5.5.2
NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052
SIX_TO_FOUR = IPv6Network("2002::/16")  # RFC 3056


def embedded_ipv4(address: Address) -> IPv4Address | None:
    """The IPv4 address to which packets for this IPv6 address are turned, if it has one."""
    if isinstance(address, IPv4Address):
        return None
    number = int(address)
    if address in MAPPED or address in NAT64:
        return IPv4Address(number & 0xFFFF_FFFF)
    if address in SIX_TO_FOUR:
        return IPv4Address((number >> 80) & 0xFFFF_FFFF)
    return None


def judged_address(address: Address) -> Address:
    """The address by which rules and guard judge: the embedded IPv4 address, or itself."""
    return embedded_ipv4(address) or address


def classify(address: Address) -> AddressClass:
    """The kind of an address, judged by the IPv4 address that it embeds."""
    judged = judged_address(address)
    if isinstance(judged, IPv4Address):
        return next(kind for network, kind in _IPV4 if judged in network)
    return next(kind for network, kind in _IPV6 if judged in network)


def guarded(address: Address, *, own: Container[Address] = ()) -> str | None:
    """Why the guard refuses this address unless a rule names it, or None.

    `own` holds the addresses of this machine's interfaces.
    """
    kind = classify(address)
    if kind not in _UNGUARDED:
        return f"{address} is a {kind.value} address"
    if address in own or judged_address(address) in own:
        return f"{address} is an address of this machine"
    return None
