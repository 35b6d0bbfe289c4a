"""`mdx vault`: the records of an app, and the vault itself. Values never come from argv."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Any

import click

from mdx.cli.asking import (
    ask_hub,
    ask_hub_signed_in,
    config_option,
    encoded,
    passphrase_from,
)
from mdx.cli.showing import clock_time, json_option, show_facts, show_json, show_table, span
from vault import KeyringName, Kind

__all__ = ["vault"]


@click.group()
def vault() -> None:
    """Secrets of the apps, sealed under keys that expire."""


@vault.command()
@click.option(
    "--keeper",
    type=click.Choice(["keyfile", "passphrase", "keyring"]),
    default="keyfile",
    show_default=True,
    help="Where the root key is kept.",
)
@click.option(
    "--keyring",
    "backend",
    type=click.Choice([name.value for name in KeyringName]),
    help="Which keyring; only named ones are used.",
)
@click.option("--passphrase-file", type=click.Path(path_type=Path, dir_okay=False))
def init(keeper: str, backend: str | None, passphrase_file: Path | None) -> None:
    """Make this device's vault."""
    fields: dict[str, Any] = {"keeper": keeper, "backend": backend}
    if keeper == "passphrase":
        fields["passphrase"] = encoded(passphrase_from(passphrase_file, new=True))
    ask_hub("vault.init", **fields)
    facts = ask_hub("vault.status")
    click.echo(f"made the vault {facts['folder']}; its root key is kept by: {facts['kept_by']}")


@vault.command()
@click.argument("app")
@click.argument("name")
@click.option("--kind", type=click.Choice([kind.value for kind in Kind]), default="password")
@click.option(
    "--file", type=click.Path(path_type=Path, dir_okay=False), help="Take the value from a file."
)
@click.option("--binary", is_flag=True, help="Keep the last newline of standard input.")
@config_option
def put(
    app: str, name: str, kind: str, file: Path | None, binary: bool, config: Path | None
) -> None:
    """Seal a value under APP's key. It is asked for, or read from standard input or a file."""
    value = _read_value(file, binary=binary)
    ask_hub_signed_in(
        "vault.put", app=app, config=config, name=name, kind=kind, value=encoded(value)
    )
    click.echo(f"{app}/{name}: {len(value)} bytes sealed")


@vault.command()
@click.argument("app")
@click.argument("name")
@click.option("--show", is_flag=True, help="Print the value even to a terminal.")
@config_option
def get(app: str, name: str, show: bool, config: Path | None) -> None:
    """Print a value to a pipe or file; to a terminal only with --show."""
    if sys.stdout.isatty() and not show:
        raise click.UsageError("this would show the secret on the terminal; add --show to do so")
    facts = ask_hub_signed_in("vault.get", app=app, config=config, name=name)
    sys.stdout.buffer.write(base64.b64decode(facts["value"]))
    if sys.stdout.isatty():
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()


@vault.command("list")
@click.argument("app")
@config_option
@json_option
def list_(app: str, config: Path | None, as_json: bool) -> None:
    """List APP's records, without values."""
    records = ask_hub_signed_in("vault.list", app=app, config=config)
    if as_json:
        show_json(records)
        return
    rows = [
        (
            record["name"],
            record["kind"],
            record["size_bytes"],
            clock_time(record["written_at"]),
            clock_time(record["expires_at"]),
        )
        for record in records
    ]
    columns = ("name", "kind", "bytes", "written", "expires")
    show_table(columns, rows, empty=f"{app} has no records")


@vault.command()
@click.argument("app")
@click.argument("name")
@config_option
def remove(app: str, name: str, config: Path | None) -> None:
    """Remove a record for good."""
    ask_hub_signed_in("vault.remove", app=app, config=config, name=name)
    click.echo(f"{app}/{name}: removed")


@vault.command()
@json_option
def status(as_json: bool) -> None:
    """Show where the root key is kept and which apps are unlocked."""
    facts = ask_hub("vault.status")
    if as_json:
        show_json(facts)
        return
    show_facts(
        [
            ("vault", facts["folder"]),
            ("root key kept by", facts["kept_by"] or "there is no vault yet: mdx vault init"),
            ("open", "yes" if facts["open"] else "no"),
        ]
    )
    if facts["open"]:
        click.echo()
        rows = [
            (lease["scope"].partition(":")[2], lease["state"], _left(lease["seconds_left"]))
            for lease in facts["leases"]
            if lease["scope"].startswith("app:")
        ]
        show_table(("app", "state", "time left"), rows, empty="no app was ever unlocked")


def _left(seconds: float | None) -> str:
    return "-" if seconds is None else span(seconds)


def _read_value(file: Path | None, *, binary: bool) -> bytes:
    if file is not None:
        try:
            return file.read_bytes()
        except OSError as error:
            raise click.UsageError(f"--file {file}: {error.strerror}") from None
    if sys.stdin.isatty():
        typed: str = click.prompt("value", hide_input=True, confirmation_prompt=True, err=True)
        return typed.encode()
    value = sys.stdin.buffer.read()
    return value if binary else value.removesuffix(b"\n")
