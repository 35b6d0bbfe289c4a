"""`mdx service`: hub and agents as services of the user's own systemd."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from mdx.cli.agent import listen_options, standing
from mdx.cli.asking import config_option
from mdx.cli.showing import json_option, show_json, show_table
from mdx.errors import MdxError
from mdx.folders import find_folders, private_folder
from mdx.policy import load_found
from mdx.service import systemd
from mdx.service.units import HUB, Unit, agent_unit, hub_unit

__all__ = ["service"]

LINGER = "services run while you are logged in; to have them run always: loginctl enable-linger"

_print_option = click.option(
    "--print", "only_print", is_flag=True, help="Print what would be written, and change nothing."
)


@click.group()
def service() -> None:
    """Run the hub and agents as services (systemd, without root).

    \b
      mdx service install hub
      mdx service install agent payroll --listen unix:/run/user/1000/payroll.sock
      mdx service status
      mdx service remove agent payroll
    """


@service.group()
def install() -> None:
    """Write a unit for the hub or an agent, enable and start it. Can be repeated."""


@install.command("hub")
@_print_option
@json_option
def install_hub(only_print: bool, as_json: bool) -> None:
    """The hub of this user. One that was started on demand gives way to it."""
    _install([_hub_unit()], only_print, as_json)


@install.command("agent")
@click.argument("app")
@listen_options
@config_option
@_print_option
@json_option
def install_agent(
    app: str,
    listen: str,
    uid: str | None,
    executable: Path | None,
    config: Path | None,
    only_print: bool,
    as_json: bool,
) -> None:
    """An agent of APP with the options of mdx agent, and the hub with it."""
    asked = standing(app, listen, uid, executable, config)
    asked.check()
    load_found(config, os.environ).app(app)
    options = ["--listen", str(asked.address)]
    if asked.uid is not None:
        options += ["--uid", str(asked.uid)]
    if executable is not None:
        options += ["--executable", os.path.abspath(executable)]
    if config is not None:
        options += ["--config", os.path.abspath(config)]
    unit = agent_unit(sys.executable, app, options, _environment())
    _install([_hub_unit(), unit], only_print, as_json)


@service.group()
def remove() -> None:
    """Stop the hub's or an agent's service and remove its unit. Can be repeated."""


@remove.command("hub")
@json_option
def remove_hub(as_json: bool) -> None:
    """The hub goes on being started on demand."""
    _remove(HUB, as_json)


@remove.command("agent")
@click.argument("app")
@json_option
def remove_agent(app: str, as_json: bool) -> None:
    """The agent of APP."""
    if "/" in app:
        raise click.UsageError(f"{app} is no app's name")
    _remove(f"mdx-agent-{app}.service", as_json)


@service.command()
@json_option
def status(as_json: bool) -> None:
    """List the services that are installed, and how they stand."""
    units = systemd.known(systemd.unit_folder(os.environ))
    if as_json:
        show_json(
            [
                {
                    "unit": unit.name,
                    "path": str(unit.path),
                    "state": unit.state or None,
                    "starts": unit.starts or None,
                    "says": unit.says or None,
                }
                for unit in units
            ]
        )
        return
    rows = [
        (unit.name, unit.state or "no systemd answers", unit.starts or "-", unit.says or "-")
        for unit in units
    ]
    columns = ("unit", "state", "starts", "says")
    show_table(columns, rows, empty="no service is installed: mdx service install --help")


def _hub_unit() -> Unit:
    folders = find_folders(os.environ)
    return hub_unit(sys.executable, str(folders.log / "hub.log"), _environment())


def _environment() -> dict[str, str]:
    """Ours; a service has no working folder from which a path could be meant."""
    environ = dict(os.environ)
    if home := environ.get("MDX_HOME"):
        environ["MDX_HOME"] = os.path.abspath(home)
    return environ


def _install(units: Sequence[Unit], only_print: bool, as_json: bool) -> None:
    if only_print:
        click.echo("\n".join(unit.text for unit in units), nl=False)
        return
    folders = find_folders(os.environ)
    for folder in (folders.home, folders.log):
        private_folder(folder)
    if not os.access(sys.executable, os.X_OK):
        raise MdxError(f"{sys.executable} cannot be executed")
    where = systemd.unit_folder(os.environ)
    _show([systemd.install(where, unit) for unit in units], as_json)
    if not as_json:
        click.echo(LINGER)


def _remove(name: str, as_json: bool) -> None:
    _show([systemd.remove(systemd.unit_folder(os.environ), name)], as_json)


def _show(installed: Sequence[systemd.Installed], as_json: bool) -> None:
    todo = list(dict.fromkeys(command for unit in installed for command in unit.todo))
    if as_json:
        units: list[dict[str, Any]] = [
            {"unit": unit.name, "path": str(unit.path), "became": unit.became} for unit in installed
        ]
        show_json({"units": units, "todo": todo})
        return
    for unit in installed:
        click.echo(f"  {click.style(unit.name, bold=True)}  {unit.became}  {unit.path}")
    if todo:
        click.echo("no systemd of this user answers here. Where there is one, run:")
        for command in todo:
            click.echo(f"  {command}")
