"""This process as the run of an app: its listener goes to the hub, and an agent serves it.

Rules of this file:
- One run for each app and process, begun on first need, shared by all threads. It ends with the
  process: the hub knows it by pidfd, as it knows a command of `mdx run`.
- A forked child is a descendant of the run, so it goes on with it. When its parent has ended
  meanwhile, the agent has too: then the child becomes a run of its own.
- The listener is closed here as soon as the hub has it.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, replace

from mdx.library.asking import Caller
from mdx.run_listener import run_listener

__all__ = ["Granted", "forget", "granted"]

PROBE_SECONDS = 10.0
# A SOCKS5 greeting (RFC 1928, section 3), and the answer of an agent that takes us for its run.
_PROBE, _PROBE_ANSWER = b"\x05\x01\x00", b"\x05\x00"


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """What the hub gave: where the agent listens, and what the app trusts besides the system.

    `pid` is the process that has made sure of it. `bundle` is a file with all authorities, `extra`
    one with the policy's own; both are None where the policy names none.
    """

    run: str
    address: tuple[str, int]
    pid: int
    bundle: str | None
    extra: str | None


_lock = threading.Lock()
_granted: dict[Caller, Granted] = {}


def granted(caller: Caller) -> Granted:
    """The run of this process for the caller's app. Blocks. Raises: MdxError."""
    with _lock:
        found = _granted.get(caller)
        if found is not None and found.pid != os.getpid():
            found = replace(found, pid=os.getpid()) if _serves(found.address) else None
        if found is None:
            found = _begin(caller)
        _granted[caller] = found
        return found


def forget(caller: Caller, gone: Granted) -> None:
    """The agent of this run is not there any more: the next need begins another run."""
    with _lock:
        if _granted.get(caller) == gone:
            del _granted[caller]


def _begin(caller: Caller) -> Granted:
    with run_listener() as listener:
        host, port = listener.getsockname()
        answer = caller.ask("run", [listener.fileno()], command=_own_name(), minimum_level=1)
    trust = answer["trust"] or {}
    return Granted(
        run=answer["run"],
        address=(host, port),
        pid=os.getpid(),
        bundle=trust.get("bundle"),
        extra=trust.get("extra"),
    )


def _own_name() -> str:
    """The program as `mdx ps` shows it: its name only, since arguments may hold what is secret."""
    return os.path.basename(sys.argv[0] or sys.executable) or "python"


def _serves(address: tuple[str, int]) -> bool:
    with (
        suppress(OSError),
        socket.create_connection(address, timeout=PROBE_SECONDS) as connection,
    ):
        connection.sendall(_PROBE)
        return connection.recv(2, socket.MSG_WAITALL) == _PROBE_ANSWER
    return False


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # another thread of the parent may have held it


os.register_at_fork(after_in_child=_after_fork)
