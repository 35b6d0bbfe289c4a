"""A daemon's log: one line of JSON per event on standard error, plain ASCII.

It is for whoever runs the daemon. What must not get lost is written to the audit instead: a log
that cannot be written stops nothing.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime

__all__ = ["Log", "json_log"]

Log = Callable[..., None]
"""`log(event, **facts)`; facts are text, numbers, truth values or None, and no secrets."""


def json_log(part: str, clock: Callable[[], float]) -> Log:
    """The log of one part (`gateway`, `site`); `clock` is the wall clock in Unix seconds."""

    def log(event: str, **facts: str | int | float | bool | None) -> None:
        at = datetime.fromtimestamp(clock(), UTC).isoformat(timespec="milliseconds")
        # Outside of ASCII and controls are escaped by JSON: no text can begin a line of its own.
        head = {"at": at, "part": part, "event": event}
        line = json.dumps(head | facts | head)
        with contextlib.suppress(OSError):
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    return log
