"""`python -m benchmarks [NAME…]`: measure, print a table, keep the results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import crypto, records, run, tunnel
from benchmarks.charts import shown
from benchmarks.figures import Figure, chosen
from benchmarks.programs import Missing
from benchmarks.report import keep, present_conditions
from benchmarks.stage import Stage

# In this order: what a run takes to start is measured before the tunnel's peers are started.
BENCHMARKS: Mapping[str, Callable[[Stage], Figure]] = {
    **crypto.BENCHMARKS,
    **records.BENCHMARKS,
    **run.BENCHMARKS,
    **tunnel.BENCHMARKS,
}


def main() -> int:
    """Measure what is named (everything by default) and replace those figures in the results."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures mdx beside other programs, in alternation, and keeps the medians.",
        epilog="Peers that are not installed are left out: scripts/set-up --bench installs them.",
    )
    parser.add_argument(
        "name", nargs="*", help="a figure or how its name begins: tunnel.bulk_1, run"
    )
    parser.add_argument("--list", action="store_true", help="show the names and measure nothing")
    parser.add_argument(
        "--into",
        type=Path,
        default=Path(__file__).parent,
        metavar="FOLDER",
        help="where results.json, README.md and charts are written (default: benchmarks/)",
    )
    options = parser.parse_args()
    if options.list:
        print(*BENCHMARKS, sep="\n")
        return 0
    try:
        names = chosen(options.name, list(BENCHMARKS))
    except ValueError as unknown:
        parser.error(f"no figure is called {unknown} or begins so; --list shows them all")
    if not options.into.is_dir():
        parser.error(f"--into {options.into}: there is no such folder")
    conditions = present_conditions(options.name)
    measured, failed = _measure(names)
    _show(measured)
    if measured:
        keep(options.into, measured, conditions)
    return 1 if failed else 0


def _measure(names: list[str]) -> tuple[list[Figure], bool]:
    measured: list[Figure] = []
    failed = False
    with Stage() as stage:
        for name in names:
            print(f"{name} …", file=sys.stderr, flush=True)
            try:
                measured.append(BENCHMARKS[name](stage))
            except (Missing, RuntimeError, OSError) as why:
                failed = True
                print(f"benchmarks: {name}: {why}", file=sys.stderr)
        for reason in dict.fromkeys(stage.left_out):
            print(f"benchmarks: left out: {reason}", file=sys.stderr)
    return measured, failed


def _show(measured: list[Figure]) -> None:
    table = Table("figure", "mdx", "better", "peers (above ×1 we are better)")
    for figure in measured:
        peers = ", ".join(
            f"{peer} {shown(value, figure.unit)} (×{figure.ratio(peer):.2g})"
            for peer, value in figure.peers.items()
        )
        table.add_row(figure.name, shown(figure.value, figure.unit), figure.better, peers)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
