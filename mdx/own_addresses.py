"""The addresses of this machine's interfaces, dialled only where a rule names them.

getifaddrs(3) by ctypes, since Python has no call for it: unlike a list in /proc it is there in
every container, and unlike a trial `bind` it is right on hosts that may bind foreign addresses.
"""

from __future__ import annotations

import ctypes
import os
import socket
from ipaddress import IPv4Address, IPv6Address

__all__ = ["own_addresses"]


class _IfAddrs(ctypes.Structure):
    """struct ifaddrs, as far as it is read here."""

    _fields_ = (
        ("next", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("flags", ctypes.c_uint),
        ("address", ctypes.c_void_p),
    )


# Where the address stands in struct sockaddr_in and struct sockaddr_in6 (Linux).
_IPV4_OFFSET, _IPV4_BYTES = 4, 4
_IPV6_OFFSET, _IPV6_BYTES = 8, 16


def own_addresses() -> frozenset[IPv4Address | IPv6Address]:
    """The addresses of all interfaces, now: they may change while a gateway runs.

    Raises: OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.freeifaddrs.argtypes = [ctypes.c_void_p]
    first = ctypes.c_void_p()
    if libc.getifaddrs(ctypes.byref(first)) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"getifaddrs: {os.strerror(error)}")
    try:
        found: set[IPv4Address | IPv6Address] = set()
        where = first.value
        while where:
            entry = _IfAddrs.from_address(where)
            if entry.address and (address := _read_address(entry.address)):
                found.add(address)
            where = entry.next
        return frozenset(found)
    finally:
        libc.freeifaddrs(first)


def _read_address(where: int) -> IPv4Address | IPv6Address | None:
    family = ctypes.c_ushort.from_address(where).value
    if family == socket.AF_INET:
        return IPv4Address(ctypes.string_at(where + _IPV4_OFFSET, _IPV4_BYTES))
    if family == socket.AF_INET6:
        return IPv6Address(ctypes.string_at(where + _IPV6_OFFSET, _IPV6_BYTES))
    return None
