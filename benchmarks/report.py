"""results.json, the charts and the page: what was measured is merged into what is there.

results.json      the figures, as the README of this folder says
conditions.json   for each of them: when, where, by which command and with which versions
README.md         the words between the two marks are made anew, the others are kept
charts/GROUP.svg  a chart for each first part of a name
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.charts import chart, shown
from benchmarks.figures import Figure
from benchmarks.programs import Missing, find
from vault import now

__all__ = ["BEGIN", "END", "Conditions", "keep", "page", "present_conditions"]

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
TITLES = {
    "crypto": "AES-256-GCM, by size and by shape",
    "tunnel": "The tunnel, on the whole way of the product",
    "run": "What a run costs",
    "vault": "The vault's records",
}
_VERSIONS = {
    "openssl": ["version"],
    "stunnel4": ["-version"],
    "haproxy": ["-v"],
    "nginx": ["-v"],
    "ssh": ["-V"],
    "age": ["--version"],
    "bwrap": ["--version"],
    "firejail": ["--version"],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Under which a figure was measured."""

    date: str
    machine: str
    load: float
    """Load average of the last minute before it began: what else the machine did."""
    command: str
    versions: str


def present_conditions(arguments: Sequence[str]) -> Conditions:
    """Those of now and here. Names of the machine or of its user are no part of them."""
    words = " ".join(["python -m benchmarks", *arguments])
    return Conditions(
        date=f"{datetime.fromtimestamp(now().wall, UTC):%Y-%m-%d}",
        machine=_machine(),
        load=round(os.getloadavg()[0], 1),
        command=words,
        versions=_versions(),
    )


def keep(folder: Path, measured: Sequence[Figure], conditions: Conditions) -> None:
    """Merge the figures into what `folder` has and write everything anew."""
    figures = {entry["name"]: Figure.from_dict(entry) for entry in _read(folder, "results") or []}
    known = {
        name: Conditions(**entry) for name, entry in (_read(folder, "conditions") or {}).items()
    }
    for figure in measured:
        figures[figure.name] = figure
        known[figure.name] = conditions
    ordered = sorted(figures.values(), key=lambda figure: list(TITLES).index(_group(figure)))
    _write(folder / "results.json", [figure.to_dict() for figure in ordered])
    _write(folder / "conditions.json", {name: asdict(entry) for name, entry in known.items()})
    (folder / "charts").mkdir(exist_ok=True)
    for group, members in groupby(ordered, _group):
        (folder / "charts" / f"{group}.svg").write_text(chart(TITLES[group], list(members)))
    file = folder / "README.md"
    before = file.read_text() if file.exists() else f"{BEGIN}\n{END}\n"
    head, _, rest = before.partition(BEGIN)
    _, _, tail = rest.partition(END)
    file.write_text(f"{head}{BEGIN}\n{page(ordered, known)}{END}{tail}")


def page(figures: Sequence[Figure], known: Mapping[str, Conditions]) -> str:
    """The measured part of README.md."""
    lines: list[str] = []
    for group, found in groupby(figures, _group):
        members = list(found)
        lines += [f"### {TITLES[group]}", "", f"![{TITLES[group]}](charts/{group}.svg)", ""]
        lines += [
            "| figure | what | mdx | peers, and how many times better we are |",
            "|---|---|---|---|",
        ]
        for figure in members:
            peers = ", ".join(
                f"{name} {shown(value, figure.unit)} (×{figure.ratio(name):.2g})"
                for name, value in figure.peers.items()
            )
            value = shown(figure.value, figure.unit)
            lines.append(f"| `{figure.name}` | {figure.figure} | {value} | {peers or '—'} |")
        lines.append("")
    lines += ["### Measured", ""]
    by_conditions: dict[Conditions, list[str]] = {}
    for figure in figures:
        if figure.name in known:
            by_conditions.setdefault(known[figure.name], []).append(f"`{figure.name}`")
    for conditions, names in by_conditions.items():
        which = "everything" if len(names) == len(figures) else ", ".join(names)
        lines += [
            f"- {which}: {conditions.date}, by `{conditions.command}`, on {conditions.machine},"
            f" where the load average was {conditions.load} before; {conditions.versions}",
        ]
    return "\n".join([*lines, ""])


def _group(figure: Figure) -> str:
    return figure.name.partition(".")[0]


def _read(folder: Path, name: str) -> Any:
    file = folder / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else None


def _write(file: Path, data: object) -> None:
    file.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def _machine() -> str:
    information = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.+)$", information, re.MULTILINE)
    total = re.search(r"^MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    virtual = ", virtual" if re.search(r"^flags.* hypervisor", information, re.MULTILINE) else ""
    memory = f", {int(total[1]) / 2**20:.0f} GiB" if total else ""
    processors = os.cpu_count() or 1
    return (
        f"{processors} × {model[1] if model else platform.machine()}{virtual}{memory},"
        f" Linux {platform.release().split('-')[0]}"
    )


def _versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for program, asking in _VERSIONS.items():
        try:
            done = subprocess.run(
                [find(program), *asking], capture_output=True, text=True, timeout=10
            )
        except Missing:
            continue
        number = re.search(r"\d+\.\d+[\w.]*", done.stdout + done.stderr)
        found.append(f"{program.rstrip('4')} {number[0] if number else '?'}")
    return ", ".join(found)
