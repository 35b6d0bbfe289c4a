"""`mdx gateway`: a gateway's host, where devices elsewhere come in."""

from __future__ import annotations

import os
import sys
from ipaddress import ip_address
from pathlib import Path

import click

from mdx.cli.showing import json_option, show_json
from mdx.folders import find_folders
from mdx.gateway import host as gateway_host
from mdx.printable import printable

__all__ = ["gateway", "state_option"]

state_option = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder that holds control/ and gateway/ [default: the state folder, $MDX_HOME].",
)


def state_folder(state: Path | None) -> Path:
    """The folder that was named, or the usual one."""
    return Path(os.path.abspath(state)) if state else find_folders(os.environ).home


@click.group()
def gateway() -> None:
    """Set up and run a gateway for devices on other machines.

    On this host: mdx gateway init, mdx gateway run, mdx device add NAME. On the device: mdx join
    CODE. See: mdx help two-machines.
    """


@gateway.command()
@click.option("--host", required=True, help="Address or name by which devices reach this host.")
@click.option(
    "--listen",
    help="Address to listen on [default: --host where it is an address, else every address].",
)
@click.option(
    "--port", type=click.IntRange(1, 65535), default=4433, show_default=True, help="Of the gateway."
)
@click.option(
    "--control-port",
    type=click.IntRange(1, 65535),
    default=8443,
    show_default=True,
    help="Of control, which devices ask for certificates.",
)
@click.option("--name", default="gateway", show_default=True, help="The gateway's own name.")
@click.option("--tenant", default="home", show_default=True, help="Your organisation's name.")
@state_option
@json_option
def init(
    host: str,
    listen: str | None,
    port: int,
    control_port: int,
    name: str,
    tenant: str,
    state: Path | None,
    as_json: bool,
) -> None:
    """Make the state of a gateway: authority, configuration, an empty allow list.

    Nothing is started, and nobody may reach anything until you write it into gateway.toml. Called
    again with the same values it changes nothing.
    """
    folder = state_folder(state)
    pin, is_new = gateway_host.init(
        folder,
        gateway_host.Host(
            host=host,
            listen=listen or _listen_for(host),
            gateway_port=port,
            control_port=control_port,
            name=name,
            tenant=tenant,
        ),
    )
    config = folder / "gateway" / "gateway.toml"
    if as_json:
        show_json(
            {
                "state": str(folder),
                "config": str(config),
                "fingerprint": pin,
                "created": is_new,
                "host": host,
                "ports": {"gateway": port, "control": control_port},
            }
        )
        return
    option = f" --state {folder}" if state else ""
    click.echo(
        printable(
            f"{'set up' if is_new else 'was set up before'}: gateway {name} of {tenant}\n"
            f"  state        {folder}\n"
            f"  fingerprint  {pin}\n"
            f"  ports        {port} and {control_port} of {host}: devices must reach both\n"
            "\nNext:\n"
            f"  edit {config}         who may reach what: nobody, so far\n"
            f"  mdx gateway run{option}              in the foreground\n"
            f"  mdx device add laptop{option}        a one-time code for one device\n"
        ),
        nl=False,
    )


def _listen_for(host: str) -> str:
    try:
        return str(ip_address(host))
    except ValueError:
        return "0.0.0.0"  # noqa: S104 - devices reach it by a name, so at whichever address


@gateway.command()
@state_option
def run(state: Path | None) -> None:
    """Run control and gateway until Ctrl-C or SIGTERM; what dies is started again.

    In the foreground: for systemd (Type=notify), a container, or tmux. SIGHUP reads gateway.toml
    again, as mdx gateway reload does. Their logs: mdx logs.
    """

    def say(part: str, what: str) -> None:
        sys.stderr.write(printable(f"mdx: {part}: {what}\n"))
        sys.stderr.flush()

    gateway_host.run(state_folder(state), say)


@gateway.command()
@state_option
@json_option
def reload(state: Path | None, as_json: bool) -> None:
    """Check gateway.toml, and let the running gateway go by it.

    Allow list, hosts and files change; connections that are there already stay. When something
    is wrong it is said, and the gateway goes on as before.
    """
    file = gateway_host.reload(state_folder(state))
    if as_json:
        show_json({"reloaded": str(file)})
    else:
        click.echo(f"the gateway goes by {file} as it is now")
