"""Which destinations a rule is about: `HOST` or `HOST:PORTS`.

    HOST    git.corp.internal    that name
            *.corp.internal      every name below it, but not corp.internal itself
            *                    everything
            10.1.2.3  [fd12::5]  that address
            10.0.0.0/8 [fd12::/16]  the addresses of that network
    PORTS   443   8000-8100   *  (the same as none)

Rules of this file:
- A name never matches an address pattern, nor the reverse: names are not looked up here.
- Addresses are matched by the IPv4 address that they embed. So a pattern inside the mapped, NAT64
  or 6to4 networks could never match, and is refused instead of being ignored.
- Hosts are spelt as strictly as destinations are; a network has no host bits and no netmask.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from tunnel.addresses import Address, Network, embedded_ipv4, judged_address
from tunnel.destinations import Destination, parse_host
from tunnel.errors import BadRule, Refused

__all__ = ["ALL_PORTS", "Pattern", "PatternKind"]

ALL_PORTS = (1, 65535)

_PORTS = re.compile(r"([1-9][0-9]{0,4})(?:-([1-9][0-9]{0,4}))?")
_PREFIX_LENGTH = re.compile(r"0|[1-9][0-9]{0,2}")


class PatternKind(Enum):
    """What the host part of a pattern is about."""

    ANY = "any"
    NAME = "name"
    SUFFIX = "suffix"
    NETWORK = "network"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """`name` of a NAME or SUFFIX, `network` of a NETWORK (one address is a /32 or /128)."""

    kind: PatternKind
    name: str = ""
    network: Network | None = None
    ports: tuple[int, int] = ALL_PORTS

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Raises: BadRule."""
        if text.startswith("["):
            host, bracket, rest = text[1:].partition("]")
            if not bracket or ":" not in host:
                raise BadRule(f"{text!a}: there is no IPv6 address between the brackets")
            if rest and not rest.startswith(":"):
                raise BadRule(f"{text!a}: only a port may follow the brackets")
            ports = _parse_ports(rest[1:], text) if rest else ALL_PORTS
            return cls(kind=PatternKind.NETWORK, network=_parse_network(host, text), ports=ports)
        host, colon, rest = text.partition(":")
        if ":" in rest:
            raise BadRule(f"{text!a}: an IPv6 address stands in brackets")
        ports = _parse_ports(rest, text) if colon else ALL_PORTS
        if host == "*":
            return cls(kind=PatternKind.ANY, ports=ports)
        if host.startswith("*."):
            name = _parse_name(host[2:], text)
            return cls(kind=PatternKind.SUFFIX, name=name, ports=ports)
        if "/" in host or _is_address(host):
            return cls(kind=PatternKind.NETWORK, network=_parse_network(host, text), ports=ports)
        return cls(kind=PatternKind.NAME, name=_parse_name(host, text), ports=ports)

    @property
    def text(self) -> str:
        """The canonical spelling."""
        match self.kind, self.network:
            case PatternKind.ANY, _:
                host = "*"
            case PatternKind.SUFFIX, _:
                host = f"*.{self.name}"
            case _, IPv4Network() | IPv6Network() as network:
                host = str(network[0] if network.num_addresses == 1 else network)
                host = f"[{host}]" if network.version == 6 else host
            case _:
                host = self.name
        return host if self.ports == ALL_PORTS else f"{host}:{self.ports_text}"

    @property
    def ports_text(self) -> str:
        """`443`, `8000-8100` or `*`."""
        first, last = self.ports
        if self.ports == ALL_PORTS:
            return "*"
        return str(first) if first == last else f"{first}-{last}"

    def has_port(self, port: int) -> bool:
        """Whether the pattern is about this port."""
        return self.ports[0] <= port <= self.ports[1]

    def matches(self, destination: Destination) -> bool:
        """Whether the pattern is about this destination as it was given, without a look-up."""
        if destination.address is not None:
            return self.matches_address(destination.address, destination.port)
        if not self.has_port(destination.port):
            return False
        match self.kind:
            case PatternKind.ANY:
                return True
            case PatternKind.NAME:
                return destination.host == self.name
            case PatternKind.SUFFIX:
                return destination.host.endswith("." + self.name)
            case PatternKind.NETWORK:
                return False

    def matches_address(self, address: Address, port: int) -> bool:
        """Whether the pattern is about this address, judged by the IPv4 address in it."""
        if not self.has_port(port):
            return False
        if self.network is not None:
            return judged_address(address) in self.network
        return self.kind is PatternKind.ANY

    def names_address(self, address: Address, port: int) -> bool:
        """Whether the pattern is this very address, and not merely a network around it."""
        one = self.network is not None and self.network.num_addresses == 1
        return one and self.matches_address(address, port)


def _is_address(host: str) -> bool:
    try:
        return Destination(host, 1).address is not None
    except Refused:
        return False


def _parse_name(host: str, text: str) -> str:
    try:
        name = parse_host(host)
    except Refused as refused:
        raise BadRule(f"{text!a}: {refused.rule}") from None
    if _is_address(name):
        raise BadRule(f"{text!a}: an address has no names below it")
    return name


def _parse_network(host: str, text: str) -> Network:
    address_text, slash, length = host.partition("/")
    try:
        address = ip_address(parse_host(address_text))
    except (Refused, ValueError):
        raise BadRule(f"{text!a}: {address_text!a} is not an address") from None
    if slash and not (_PREFIX_LENGTH.fullmatch(length) and int(length) <= address.max_prefixlen):
        raise BadRule(f"{text!a}: the length of the network is 0 to {address.max_prefixlen}")
    try:
        network = ip_network(f"{address}/{length}" if slash else address)
    except ValueError:
        raise BadRule(f"{text!a}: the address has bits beyond the network's length") from None
    first, last = embedded_ipv4(network[0]), embedded_ipv4(network[-1])
    if first is not None and last is not None:
        raise BadRule(f"{text!a}: these addresses are judged by IPv4: name {first} or its network")
    return network


def _parse_ports(ports: str, text: str) -> tuple[int, int]:
    if ports == "*":
        return ALL_PORTS
    match = _PORTS.fullmatch(ports)
    if match is not None:
        first, last = int(match[1]), int(match[2] or match[1])
        if first <= last <= ALL_PORTS[1]:
            return first, last
    raise BadRule(f"{text!a}: {ports!a} is neither a port, nor FIRST-LAST, nor *")
