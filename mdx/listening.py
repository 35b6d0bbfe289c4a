"""TCP listeners of a daemon, with an error that says what to do when the port is not free."""

from __future__ import annotations

import errno

import trio

from mdx.errors import MdxError

__all__ = ["open_listeners", "port_of"]


async def open_listeners(host: str, port: int) -> list[trio.SocketListener]:
    """Listeners on every address of `host`; port 0 means any free port.

    Raises: MdxError.
    """
    try:
        return await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        # With several addresses trio raises a group, or an error whose cause has the number.
        if errno.EADDRINUSE in (error.errno, getattr(error.__cause__, "errno", None)):
            raise MdxError(
                f"port {port} on {host} is taken",
                hint=f"choose another one, or see who has it: ss -ltnp sport = :{port}",
            ) from None
        raise MdxError(f"cannot listen on {host} port {port}: {error.strerror or error}") from None


def port_of(listeners: list[trio.SocketListener]) -> int:
    """The port that the first of them got."""
    port: int = listeners[0].socket.getsockname()[1]
    return port
