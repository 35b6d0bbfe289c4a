"""`mdx agent`: a tunnel daemon for programs that mdx did not start."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from mdx.cli.asking import config_option
from mdx.cli.showing import json_option
from mdx.listen_address import parse_address, user_id
from mdx.printable import printable
from mdx.standing import Standing

__all__ = ["agent", "listen_options", "standing"]


def listen_options(command: Any) -> Any:
    """`--listen` and the rules that go with it."""
    for option in (
        click.option("--executable", type=click.Path(path_type=Path), metavar="PATH"),
        click.option("--uid", metavar="UID|NAME"),
        click.option("--listen", required=True, metavar="ADDRESS"),
    ):
        command = option(command)
    return command


def standing(
    app: str, listen: str, uid: str | None, executable: Path | None, config: Path | None
) -> Standing:
    """What the options ask for. Raises: MdxError."""
    return Standing(
        app=app,
        address=parse_address(listen),
        uid=None if uid is None else user_id(uid),
        executable=executable,
        config=config,
    )


@click.command()
@click.argument("app")
@listen_options
@config_option
@json_option
def agent(
    app: str,
    listen: str,
    uid: str | None,
    executable: Path | None,
    config: Path | None,
    as_json: bool,
) -> None:
    """Serve APP's tunnel at ADDRESS to programs that mdx did not start.

    \b
      mdx agent payroll --listen unix:/run/user/1000/payroll.sock
      mdx agent payroll --listen 127.0.0.1:3128 --uid postgres
      mdx agent payroll --listen 127.0.0.1:3128 --executable /usr/bin/psql

    \b
    unix:/path            a socket of mode 0600, for processes of your user
    127.0.0.1:PORT        with exactly one rule:
      --uid UID|NAME      sockets that this user made
      --executable PATH   your processes that run this very file

    It speaks SOCKS5 and HTTP (CONNECT), stays in the foreground, and goes on through renewals,
    locks and restarts of the hub. SIGHUP loads the policy again, SIGTERM ends it. As a service:
    mdx service install agent --help
    """
    serving = standing(app, listen, uid, executable, config)

    def report(facts: dict[str, Any]) -> None:
        if as_json:
            click.echo(json.dumps(facts))
        else:
            notice = f"serves {facts['listen']} for {facts['serves']}, run {facts['run']}"
            sys.stderr.write(printable(f"mdx: {app}: {notice}") + "\n")
        sys.stdout.flush()
        sys.stderr.flush()

    serving.run(report)
