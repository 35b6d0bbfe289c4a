"""`mdx logs`: what the daemons of this machine say about themselves."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click
import trio

from mdx.errors import MdxError
from mdx.folders import find_folders
from mdx.log_reading import PARTS, Follower, Line, last_lines, parts_here

__all__ = ["logs"]

LOOK_SECONDS = 0.25


@click.command()
@click.argument("part", required=False, type=click.Choice(PARTS))
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("--last", "-n", type=click.IntRange(min=0), default=50, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder of logs, instead of this device's own.",
)
def logs(part: str | None, follow: bool, last: int, as_json: bool, folder: Path | None) -> None:
    """Show the newest log lines of PART, or of all parts by time.

    Logs are for whoever runs the daemons. What was decided, and why, stands in the audit instead:
    mdx audit show.
    """
    folder = folder or find_folders(os.environ).log
    parts = [part] if part else parts_here(folder)
    if not part and not parts and not follow:
        raise MdxError(f"there are no logs in {folder}", hint="mdx up starts what writes them")
    if part and part not in parts_here(folder) and not follow:
        raise MdxError(f"{part} has no log in {folder}", hint=_hint(folder))
    followers = [Follower(folder, one) for one in (parts or PARTS)] if follow else []
    found = [line for one in parts for line in last_lines(folder, one, last)] if last else []
    if len(parts) > 1:
        found = _by_time(found)[-last:]
    for line in found:
        _show(line, as_json)
    if not found and last and not follow:
        click.echo(f"mdx: nothing is written in the logs of {', '.join(parts)} yet", err=True)
    if follow:
        trio.run(_follow, followers, as_json)


def _hint(folder: Path) -> str:
    return "there are logs of: " + (", ".join(parts_here(folder)) or "nothing; mdx up")


def _by_time(lines: list[Line]) -> list[Line]:
    """Lines of several parts; one without a time stays behind the line that it followed."""
    keyed, at = [], ""
    part = ""
    for line in lines:
        at = line.at or (at if line.part == part else "")
        part = line.part
        keyed.append((at, line))
    return [line for _, line in sorted(keyed, key=lambda pair: pair[0])]


async def _follow(followers: list[Follower], as_json: bool) -> None:
    while True:
        for line in _by_time([line for one in followers for line in one.new_lines()]):
            _show(line, as_json)
        sys.stdout.flush()
        await trio.sleep(LOOK_SECONDS)


def _show(line: Line, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(line.to_dict()))
        return
    at = line.at[:19].replace("T", " ") or "-" * 19
    head = f"{click.style(at, dim=True)}  {click.style(line.part.ljust(7), bold=True)}"
    event = f"{click.style(line.event, fg='cyan')}  " if line.event else ""
    click.echo(f"{head}  {event}{line.text}".rstrip())
