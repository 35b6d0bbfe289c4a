"""What our own processes do to themselves: no core dump, no reading by others, a reaper's role.

prctl(2) by ctypes, since Python has no call for it. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import resource

__all__ = ["become_subreaper", "harden", "start_time"]

_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_STARTTIME_FIELD = 22 - 3  # proc(5), counted from the state that follows the name


def harden() -> None:
    """No core dumps, and no process of the same user may read our memory or environment."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_PR_SET_DUMPABLE, 0)


def become_subreaper() -> None:
    """Descendants that lose their parent become children of this process; exec keeps that."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def start_time(pid: int) -> int | None:
    """When `pid` started, in clock ticks since boot: with the pid it names one process for good.

    None when there is no such process.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            after_name = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(after_name[_STARTTIME_FIELD])


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}): {os.strerror(error)}")
