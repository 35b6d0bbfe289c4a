"""`mdx connect APP HOST PORT`: one destination for programs that speak to no proxy."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import click
import trio

from mdx.cli.asking import config_option
from mdx.connecting import carry, listening_at, serve
from mdx.errors import MdxError
from mdx.library.asking import caller

__all__ = ["connect"]


@click.command()
@click.argument("app")
@click.argument("host")
@click.argument("port", type=click.IntRange(1, 65535))
@click.option(
    "--listen",
    type=click.Path(path_type=Path),
    help="Serve a Unix socket at this path, which only you can use, until Ctrl-C.",
)
@config_option
def connect(app: str, host: str, port: int, listen: Path | None, config: Path | None) -> None:
    """Connect standard input and output with HOST and PORT, as APP.

    For ssh, and whatever else starts a command to get its connection:

    \b
      ssh -o 'ProxyCommand=mdx connect payroll %h %p' build.corp.internal
      printf 'PING\\r\\n' | mdx connect payroll redis.corp.internal 6379

    With --listen, for programs that take a socket's path:

    \b
      mdx connect payroll db.corp.internal 5432 --listen ./.s.PGSQL.5432 &
      psql --host "$PWD"

    The routes of APP decide, and its lease ends the connection. Exit status: 77 when a rule or
    the lease says no, 1 when the destination does not answer or the connection was cut.
    """
    asking = caller(app, config=config, environ=os.environ)
    if listen is None:
        if sys.stdin is None or sys.stdout is None:
            raise MdxError("standard input and output must be open", hint="or use --listen PATH")
        carry(asking, host, port, source=sys.stdin.fileno(), sink=sys.stdout.fileno())
        return
    with listening_at(listen) as listener:
        say = partial(click.echo, f"mdx: {app}: {listen} leads to {host}:{port}", err=True)
        trio.run(partial(serve, listener, asking, host, port, ready=say))
