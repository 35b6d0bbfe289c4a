"""`mdx policy check`: is the configuration right, and what does it say?"""

from __future__ import annotations

import os
from pathlib import Path

import click

from mdx.cli.showing import json_option, show_json, show_table
from mdx.policy import load, load_found

__all__ = ["policy"]


@click.group()
def policy() -> None:
    """The policies of the apps, in mdx.toml."""


@policy.command()
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@json_option
def check(file: Path | None, as_json: bool) -> None:
    """Check FILE (or the mdx.toml that is found) strictly; exit status 78 when it is wrong."""
    config = load(file) if file else load_found(None, os.environ)
    if as_json:
        apps = {name: app.model_dump(mode="json") for name, app in config.apps.items()}
        show_json({"path": str(config.path), "apps": apps})
        return
    click.echo(f"{config.path} is right")
    rows = [
        (
            name,
            app.network_access,
            app.split_tunnel if app.network_access == "tunneled" else "-",
            len(app.routes),
            app.key_lifetime,
            app.minimum_level,
        )
        for name, app in config.apps.items()
    ]
    columns = ("app", "network access", "split tunnel", "routes", "key lifetime", "least level")
    show_table(columns, rows, empty="it names no app")
