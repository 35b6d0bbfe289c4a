"""`mdx login`, `unlock`, `lock`, `logout`: the leases of this device's apps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mdx.cli.asking import ask_hub, config_option, encoded, passphrase_from
from mdx.cli.showing import clock_time, json_option, show_json, show_table
from mdx.errors import HubRefused

__all__ = ["lock", "login", "logout", "unlock"]

_passphrase_option = click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Read the vault's passphrase from the first line of this file (/dev/stdin works).",
)


@click.command()
@_passphrase_option
@config_option
@json_option
def login(passphrase_file: Path | None, config: Path | None, as_json: bool) -> None:
    """Sign in once: every app of the configuration gets a new lease."""
    _show(_unlock(None, passphrase_file, config), as_json)


@click.command()
@click.argument("app", required=False)
@_passphrase_option
@config_option
@json_option
def unlock(
    app: str | None, passphrase_file: Path | None, config: Path | None, as_json: bool
) -> None:
    """Give APP (or every app) a new lease.

    That is a new app key, good for the policy's key_lifetime.
    """
    _show(_unlock(app, passphrase_file, config), as_json)


@click.command()
@click.argument("app")
@config_option
def lock(app: str, config: Path | None) -> None:
    """End APP's lease now.

    Its key is dropped; its runs are cut off or stopped, as the policy says (on_lease_end).
    """
    ask_hub("lock", app=app, config=config)
    click.echo(f"{app} is locked; mdx unlock {app} opens it again")


@click.command()
def logout() -> None:
    """End every lease and drop the vault's root key."""
    apps = ask_hub("logout")
    click.echo("locked: " + (", ".join(apps) or "nothing was unlocked"))


def _unlock(app: str | None, file: Path | None, config: Path | None) -> list[dict[str, Any]]:
    fields: dict[str, Any] = {"app": app} if app else {}
    if file is not None:
        fields["passphrase"] = encoded(passphrase_from(file))
    try:
        return list(ask_hub("unlock", config=config, **fields))
    except HubRefused as refused:
        if refused.needs != "passphrase" or file is not None:
            raise
    fields["passphrase"] = encoded(passphrase_from(None))
    return list(ask_hub("unlock", config=config, **fields))


def _show(leases: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        show_json(leases)
        return
    rows = [(lease["app"], clock_time(lease["not_after"])) for lease in leases]
    show_table(("app", "unlocked until"), rows, empty="the configuration has no app")
