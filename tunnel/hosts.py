"""Destinations whose address the gateway was told, such as names of the private network.

Rules of this file:
- An entry is exactly one name (or address) and one port, and leads to exactly one address.
- It is the only way past the address guard: whoever writes an entry names the very address. It
  allows nothing: the allow list is asked before.
- With a TLS context the gateway ends TLS to that backend: it shows its own client certificate there
  and demands that the backend's certificate says `server_name`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tunnel.destinations import Destination
from tunnel.errors import BadRule
from tunnel.tls import ClientContext

__all__ = ["Host", "Hosts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """`destination` is what clients ask for, `dial` the address and port to which that leads.

    `server_name` is what a backend's certificate must say; by default the destination's host.
    Raises: BadRule when `dial` is not an address.
    """

    destination: Destination
    dial: Destination
    tls: ClientContext | None = field(default=None, repr=False)
    server_name: str | None = None

    def __post_init__(self) -> None:
        if self.dial.address is None:
            raise BadRule(f"{self.destination}: {self.dial} is not an address and a port")
        if self.server_name is not None and self.tls is None:
            raise BadRule(f"{self.destination}: a server name goes with TLS")


class Hosts:
    """A table of hosts. Raises: BadRule for a destination that stands there twice."""

    def __init__(self, hosts: Iterable[Host] = ()) -> None:
        self._hosts: dict[Destination, Host] = {}
        for host in hosts:
            if host.destination in self._hosts:
                raise BadRule(f"{host.destination} is in the table of hosts twice")
            self._hosts[host.destination] = host

    def find(self, destination: Destination) -> Host | None:
        """The entry of exactly this host and port."""
        return self._hosts.get(destination)
