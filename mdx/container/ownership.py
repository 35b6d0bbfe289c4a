"""Whose socket is it? The kernel's own tables say which process holds the other end.

An agent listens on a loopback port that any process of the machine can connect to. So for each
connection it asks the kernel (one `sock_diag` query for the exact address pair) for the inode
and the uid of the peer's socket, and then whether a process of this run holds that inode. A run
is its first process and all that descend from it: the launcher made that process a subreaper,
so a descendant that daemonises stays a descendant. Nothing secret is involved that an
environment could leak.

A standing agent (`mdx agent`) serves programs that are no descendants of anybody here; for its
rules see `mdx.container.admission`.

Never: a scan of all sockets; for a run, a trust in the uid alone.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Owner", "belongs_to_run", "descendants", "holders", "socket_owner"]

_SOCK_DIAG = 4  # NETLINK_SOCK_DIAG, sock_diag(7)
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_NLMSG_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBBI")  # family, protocol, extensions, padding, states
_SOCKET_ID_TAIL = struct.Struct("=III")  # interface, cookie: any
_NO_COOKIE = 0xFFFFFFFF
_UID_INODE = struct.Struct("=II")
# inet_diag_msg: 4 bytes, 48 of socket id, then expires, rqueue, wqueue before uid and inode
_UID_OFFSET = _NLMSG_HEADER.size + 4 + 48 + 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Who holds a socket: the user, and the inode by which /proc names it."""

    uid: int
    inode: int


def socket_owner(local: tuple[str, int], remote: tuple[str, int]) -> Owner | None:
    """The owner of the IPv4 TCP socket of this machine with exactly these two ends.

    None when there is no such socket, or no process holds it any more.
    Raises: OSError when the kernel refuses the query as such.
    """
    request = _REQUEST.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF)
    request += struct.pack("!HH", local[1], remote[1])
    request += socket.inet_aton(local[0]).ljust(16, b"\0")
    request += socket.inet_aton(remote[0]).ljust(16, b"\0")
    request += _SOCKET_ID_TAIL.pack(0, _NO_COOKIE, _NO_COOKIE)
    header = _NLMSG_HEADER.pack(
        _NLMSG_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0
    )
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, _SOCK_DIAG) as netlink:
        netlink.send(header + request)
        answer = netlink.recv(4096)
    _, message_type, _, _, _ = _NLMSG_HEADER.unpack_from(answer)
    if message_type == _NLMSG_ERROR:
        (error,) = struct.unpack_from("=i", answer, _NLMSG_HEADER.size)
        if error in (-2, 0):  # ENOENT: no socket has these ends
            return None
        raise OSError(-error, f"sock_diag: {os.strerror(-error)}")
    uid, inode = _UID_INODE.unpack_from(answer, _UID_OFFSET)
    return Owner(uid=uid, inode=inode) if inode else None


def descendants(root: int) -> Iterator[int]:
    """`root` and every process below it, as /proc shows them now."""
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        yield pid
        try:
            threads = os.listdir(f"/proc/{pid}/task")
        except OSError:
            continue  # it ended meanwhile
        for thread in threads:
            try:
                with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                    waiting += [int(child) for child in file.read().split()]
            except OSError:
                continue


def belongs_to_run(root: int, local: tuple[str, int], remote: tuple[str, int]) -> bool:
    """Is the socket with these two ends held by `root` or one of its descendants?"""
    owner = socket_owner(local, remote)
    if owner is None or owner.uid != os.getuid():
        return False
    name = f"socket:[{owner.inode}]"
    return any(_holds(pid, name) for pid in descendants(root))


def holders(inode: int) -> list[int]:
    """The processes that hold the socket `inode`, as far as we may look into them: those of our
    own user that did not forbid it (setuid programs and hardened ones do)."""
    name = f"socket:[{inode}]"
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    return [pid for pid in pids if _holds(pid, name)]


def _holds(pid: int, name: str) -> bool:
    folder = f"/proc/{pid}/fd"
    try:
        descriptors = os.listdir(folder)
    except OSError:
        return False  # ended, or not ours to look into (a setuid program)
    for descriptor in descriptors:
        try:
            if os.readlink(f"{folder}/{descriptor}") == name:
                return True
        except OSError:
            continue
    return False
