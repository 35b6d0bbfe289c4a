"""Who may use an agent's listener: one question for each connection, asked of the kernel.

A rule is plain data that the hub hands to the agent:

    {"kind": "run"}                                     processes of the run (mdx run)
    {"kind": "user"}                                    a Unix socket: its own user
    {"kind": "uid", "uid": 1000}                        loopback: sockets that this user made
    {"kind": "executable", "path": …, "device": …, "inode": …}
                                                        loopback: this user's processes of one file

Never: an answer without a rule. What is not understood is refused.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any, Protocol

from mdx.container.ownership import belongs_to_run, holders, socket_owner
from mdx.hub.wire import peer_of

__all__ = ["Rule", "refusal_reason", "rule_text"]

Rule = Mapping[str, Any]


class _Connection(Protocol):
    @property
    def family(self) -> int: ...
    def getsockname(self) -> Any: ...
    def getpeername(self) -> Any: ...
    def getsockopt(self, level: int, option: int, buffersize: int, /) -> bytes: ...


def rule_text(rule: Rule) -> str:
    """Who is served, for people."""
    match rule:
        case {"kind": "user"}:
            return "this user"
        case {"kind": "uid", "uid": uid}:
            return f"uid {uid}"
        case {"kind": "executable", "path": path}:
            return str(path)
    return "its run"


def refusal_reason(rule: Rule, root: int, connection: _Connection) -> str:
    """Why the other end of an accepted connection is not served; empty when it is.

    `root` is the first process of the run. Raises: OSError when the kernel refuses to say.
    """
    is_unix = connection.family == socket.AF_UNIX
    match rule:
        case {"kind": "user"} if is_unix:
            uid = peer_of(connection)[1]
            return "" if uid == os.getuid() else f"its user is uid {uid}"
        case {"kind": "run"} if not is_unix:
            belongs = belongs_to_run(root, connection.getpeername(), connection.getsockname())
            return "" if belongs else "the socket is not this run's"
        case {"kind": "uid" | "executable"} if not is_unix:
            owner = socket_owner(connection.getpeername(), connection.getsockname())
            if owner is None:
                return "nobody holds the socket"
            wanted = rule["uid"] if rule["kind"] == "uid" else os.getuid()
            if owner.uid != wanted:
                return f"its user is uid {owner.uid}"
            return "" if rule["kind"] == "uid" else _other_program(rule, owner.inode)
    return "no rule admits it"


def _other_program(rule: Rule, inode: int) -> str:
    """Every process that we see hold the socket must be of the one file: one that shares it with
    a stranger, such as the parent that opened it, is refused."""
    found = holders(inode)
    if not found:
        return "no process of ours holds the socket"
    for pid in found:
        try:
            program = os.stat(f"/proc/{pid}/exe")  # the very file, wherever its name leads now
        except OSError:
            return "its program cannot be known"
        if (program.st_dev, program.st_ino) != (rule["device"], rule["inode"]):
            return "its program is another"
    return ""
