"""What people and programs see: tables and words for the one, JSON for the other."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mdx.printable import printable
from vault import now

__all__ = ["clock_time", "json_option", "show_facts", "show_json", "show_table", "since", "span"]

# Wider than any line: where nothing says how wide to be, such as in a pipe, nothing is broken.
UNBROKEN = 1_000_000

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def show_json(value: Any) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False))


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """A table on standard output, or the line `empty` when there are no rows."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        # Text, because what others named must not be read as rich's own mark-up.
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    if table.row_count:
        _show(table)
    else:
        click.echo(empty)


def show_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Names and values, one pair a line."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(Text(name), Text(printable(str(value))))
    _show(table)


def _show(table: Table) -> None:
    """As wide as the terminal or $COLUMNS says; in a pipe each row is one line, for grep."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=UNBROKEN)
    with console.capture() as captured:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def clock_time(at: float | None) -> str:
    """Local date and time of `at` (Unix seconds); `-` for none."""
    if at is None:
        return "-"
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def span(seconds: float) -> str:
    """A length of time in its two largest units, such as `7h 59m`."""
    left = round(seconds)
    units = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
    parts: list[str] = []
    for name, size in units:
        count, left = divmod(left, size)
        if count or (parts and len(parts) < 2):
            parts.append(f"{count}{name}")
        if len(parts) == 2:
            break
    return " ".join(part for part in parts if not part.startswith("0")) or "0s"


def since(at: float) -> str:
    """How long ago `at` (Unix seconds) was."""
    return span(max(0.0, now().wall - at))
