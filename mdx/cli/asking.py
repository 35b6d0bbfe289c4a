"""How commands ask the hub: with the caller's own configuration, started if need be."""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path
from typing import Any

import click

from mdx.errors import HubRefused
from mdx.folders import find_folders
from mdx.hub.starting import connect_or_start
from mdx.hub.wire import call
from mdx.launcher import CONFIG_VARIABLES

__all__ = ["ask_hub", "ask_hub_signed_in", "config_option", "encoded", "passphrase_from"]

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="mdx.toml to use instead of the one that is found.",
)


def ask_hub(operation: str, *, config: Path | None = None, **fields: Any) -> Any:
    """The hub's answer. Raises: HubRefused, HubUnreachable."""
    request = {
        "op": operation,
        "config": os.path.abspath(config) if config else None,
        "environ": {name: os.environ[name] for name in CONFIG_VARIABLES if name in os.environ},
        **fields,
    }
    with connect_or_start(find_folders(os.environ)) as hub:
        return call(hub, request)


def ask_hub_signed_in(operation: str, *, app: str, config: Path | None, **fields: Any) -> Any:
    """The same; on a terminal a locked app is unlocked first, by its user."""
    try:
        return ask_hub(operation, app=app, config=config, **fields)
    except HubRefused as refused:
        if not refused.needs or not sys.stdin.isatty() or not sys.stderr.isatty():
            raise
        click.echo(f"mdx: {refused}", err=True)
        unlocking: dict[str, Any] = {}
        if refused.needs == "passphrase":
            unlocking["passphrase"] = encoded(passphrase_from(None))
        elif not click.confirm(f"unlock {app} now?", default=True, err=True):
            raise
    ask_hub("unlock", app=app, config=config, **unlocking)
    return ask_hub(operation, app=app, config=config, **fields)


def encoded(secret: bytes) -> str:
    """Bytes as they travel to the hub."""
    return base64.b64encode(secret).decode()


def passphrase_from(file: Path | None, *, new: bool = False) -> bytes:
    """The vault's passphrase, from the first line of `file` or from a prompt; never from argv.

    Raises: click.UsageError where neither is possible.
    """
    if file is not None:
        try:
            lines = file.read_bytes().splitlines()
        except OSError as error:
            raise click.UsageError(f"--passphrase-file {file}: {error.strerror}") from None
        if not lines or not lines[0]:
            raise click.UsageError(f"--passphrase-file {file}: its first line is empty")
        return lines[0]
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask on; use --passphrase-file")
    typed: str = click.prompt(
        "passphrase of the vault", hide_input=True, confirmation_prompt=new, err=True
    )
    return typed.encode()
