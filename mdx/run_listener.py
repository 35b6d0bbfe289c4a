"""The loopback listener that a run hands to the hub. Standard library only."""

from __future__ import annotations

import socket

__all__ = ["run_listener"]

BACKLOG = 128
TRIES = 16


def run_listener() -> socket.socket:
    """A listener on a free port of loopback, whose port stays taken for as long as it is open.

    Also once it is shut down, as the hub does to a run without an agent: the kernel gives a port
    back then, unless it was asked for by its number. Raises: OSError.
    """
    tries = TRIES
    while True:
        with socket.socket() as asking:
            asking.bind(("127.0.0.1", 0))
            address = asking.getsockname()
        listener = socket.socket()
        try:
            listener.bind(address)
            listener.listen(BACKLOG)
            return listener
        except OSError:  # somebody else was quicker
            listener.close()
            tries -= 1
            if not tries:
                raise
