"""`mdx up`, `mdx down`, `mdx join`, `mdx leave`: from nothing to a device that can tunnel."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import click

from mdx import allinone
from mdx.cli.asking import ask_hub
from mdx.cli.showing import json_option, show_json
from mdx.folders import find_folders

__all__ = ["down", "join", "leave", "up"]

TRY_NEXT = """\
Try next:
  mdx run payroll -- curl https://{site}/
                                   through the tunnel
  mdx run payroll -- git clone https://{site}/git/handbook.git
  mdx run payroll -- curl https://example.com/
                                   blocked: curl says 403
  mdx explain payroll example.com  and why: the rule, and where it stands
  mdx vault put payroll database   a secret of the app (asked for, not in argv)
  mdx token payroll --curl         for a curl that is not started by mdx
  mdx audit show; mdx audit verify; mdx status; mdx down
"""


def _port_option(part: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        f"--{part}-port",
        type=click.IntRange(0, 65535),
        help=f"Port of {part} on loopback, the first time"
        f" [default: {getattr(allinone.Ports(), part)}; 0: any free port].",
    )


@click.command()
@_port_option("gateway")
@_port_option("control")
@_port_option("site")
@json_option
def up(
    gateway_port: int | None, control_port: int | None, site_port: int | None, as_json: bool
) -> None:
    """Start all parts on this machine, without root.

    Control, gateway, a sample private site and the hub. Can be called again: what runs stays,
    what died is started. State is kept in one folder ($MDX_HOME, else ~/.local/share/mdx).
    """
    named = {"gateway": gateway_port, "control": control_port, "site": site_port}
    wanted = {part: port for part, port in named.items() if port is not None}
    parts: dict[str, str] = {}

    def report(part: str, became: str) -> None:
        parts[part] = became
        if not as_json:
            click.echo(f"  {click.style(part.ljust(14), bold=True)} {became}")

    config = allinone.up(find_folders(os.environ), os.environ, wanted, report)
    if as_json:
        show_json({"parts": parts, "config": str(config)})
    else:
        click.echo("\n" + TRY_NEXT.format(site=allinone.SITE_NAME), nl=False)


@click.command()
def down() -> None:
    """Stop what `mdx up` started, and every run. The state stays for the next `mdx up`."""
    allinone.down(
        find_folders(os.environ),
        lambda part, became: click.echo(f"  {click.style(part.ljust(14), bold=True)} {became}"),
    )


@click.command()
@click.argument("code", required=False)
@click.option("--name", help="What this device is called, where the code does not say so.")
@json_option
def join(code: str | None, name: str | None, as_json: bool) -> None:
    """Enroll this device with a join code, or a pre-authorised key.

    It is a secret: without CODE it is asked for, or read from standard input. The code holds the
    fingerprint of the gateway's authority; another machine at its address is refused.
    """
    if code is None and sys.stdin.isatty():
        code = click.prompt("join code", hide_input=True, err=True)
    code = (sys.stdin.readline() if code is None else str(code)).strip()
    if not code:
        raise click.UsageError("there is no join code; mdx device add NAME makes one")
    joined = ask_hub("join", code=code, name=name or "")
    if as_json:
        show_json(joined)
    else:
        called = f"{joined['name']} ({joined['device']})" if joined["name"] else joined["device"]
        click.echo(f"joined: this is device {called} of {joined['tenant']}")


@click.command()
@json_option
def leave(as_json: bool) -> None:
    """Give this device's identity up: key and certificate are forgotten, control is told.

    Secrets and policies stay. To come back it needs a new join code.
    """
    left = ask_hub("leave")
    if as_json:
        show_json(left)
        return
    click.echo(f"left: this was device {left['device']} of {left['tenant']}")
    if left["untold"]:
        click.echo(
            f"mdx: control was not told ({left['untold']})\n"
            f"     on the gateway's host: mdx device revoke {left['device']}",
            err=True,
        )
