"""`mdx audit show|verify`: what was decided and why, and whether anybody changed the record."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict
from pathlib import Path

import click

from mdx import audit as chains
from mdx.cli.showing import json_option, show_json, show_table
from mdx.errors import MdxError
from mdx.folders import find_folders

__all__ = ["audit"]

HASH = re.compile(r"[0-9a-f]{32,}")  # of keys, serial numbers, chains

_folder_option = click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder of chains, instead of this device's own.",
)


@click.group()
def audit() -> None:
    """Hash-chained records of every decision."""


@audit.command()
@_folder_option
@click.option("--app", help="Only records about this app.")
@click.option("--flow", help="Only records of this flow id.")
@click.option("--last", type=click.IntRange(min=1), default=50, show_default=True)
@json_option
def show(folder: Path | None, app: str | None, flow: str | None, last: int, as_json: bool) -> None:
    """Show the newest records of all chains, oldest first."""
    found = [
        record
        for record in chains.read(folder or find_folders(os.environ).audit)
        if (app is None or record.fields.get("app") == app)
        and (flow is None or record.fields.get("flow") == flow)
    ][-last:]
    if as_json:
        show_json([asdict(record) for record in found])
        return
    rows = [
        (
            record.at[11:19],
            record.writer,
            record.event,
            " ".join(f"{name}={_short(value)}" for name, value in record.fields.items()),
        )
        for record in found
    ]
    show_table(("time (UTC)", "writer", "event", "what"), rows, empty="no such records")


def _short(value: object) -> str:
    """A value as in the record; of a hash only what tells it apart. `--json` has all of it."""
    if isinstance(value, str) and HASH.fullmatch(value):
        return f"{value[:12]}…"
    return json.dumps(value)


@audit.command()
@_folder_option
@json_option
def verify(folder: Path | None, as_json: bool) -> None:
    """Check every chain; exit status 1 when a record is missing, changed, cut or out of order."""
    reports = chains.verify(folder or find_folders(os.environ).audit)
    if as_json:
        show_json([report.to_dict() for report in reports])
    else:
        rows = [
            (report.path.name, report.records, "; ".join(report.problems) or "whole")
            for report in reports
        ]
        show_table(("chain", "records", "verdict"), rows, empty="there is no chain")
    if any(report.problems for report in reports):
        raise MdxError("the audit does not verify")
