"""Telling systemd how a service stands: sd_notify(3), in the few lines that it takes.

A datagram of `NAME=value` lines to the Unix socket that NOTIFY_SOCKET names, by path or, after an
`@`, by abstract name. Where nobody asked to be told, nothing is sent. Only the process that was
asked may speak, so the variables are taken out of the environment that children inherit.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from contextlib import suppress

import trio

__all__ = ["Notifier"]

SEND_SECONDS = 2.0  # a manager that does not read must not hold a service up


class Notifier:
    """The service manager's ear, if there is one."""

    def __init__(self, address: str = "", watchdog_seconds: float = 0.0) -> None:
        self._address = address
        self.watchdog_seconds = watchdog_seconds
        """Within which time it wants a sign of life, again and again; 0.0: none is wanted."""

    @classmethod
    def taken_from(cls, environ: MutableMapping[str, str]) -> Notifier:
        """What `environ` asks for; it asks nobody else from then on."""
        address = environ.pop("NOTIFY_SOCKET", "")
        span, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        meant = not pid or pid == str(os.getpid())
        microseconds = int(span) if meant and span.isascii() and span.isdigit() else 0
        return cls(address if address[:1] in ("/", "@") else "", microseconds / 1e6)

    def ready(self, status: str) -> None:
        """It serves; or a reload is over."""
        self._tell(f"READY=1\nSTATUS={_line(status)}")

    def reloading(self) -> None:
        """It reads its configuration again; `ready` follows."""
        self._tell("RELOADING=1")

    def status(self, status: str) -> None:
        """One line for `systemctl status`."""
        self._tell(f"STATUS={_line(status)}")

    def stopping(self) -> None:
        """It is about to end."""
        self._tell("STOPPING=1")

    async def keep_alive(self) -> None:
        """Give signs of life, twice as often as they are wanted, until cancelled."""
        while self._address and self.watchdog_seconds:
            self._tell("WATCHDOG=1")
            await trio.sleep(self.watchdog_seconds / 2)
        await trio.sleep_forever()

    def _tell(self, text: str) -> None:
        if not self._address:
            return
        name = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        # A manager that is gone misses nothing, and its service must go on.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
            sending.settimeout(SEND_SECONDS)
            sending.sendto(text.encode(), name)


def _line(text: str) -> str:
    """A status may quote what others wrote; it must not begin a line of its own."""
    return " ".join(text.split())
