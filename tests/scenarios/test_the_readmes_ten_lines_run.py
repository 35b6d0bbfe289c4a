"""The README's ten lines run as they stand after `mdx up`, each to the end that it promises."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.scenarios.conftest import Machine

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")

# What each line begins with, and what it must print.
PROMISED = [
    ("mdx run payroll -- curl", r"^Welcome to intranet\.corp\.internal\.$"),
    ("mdx explain payroll", r"^verdict +BLOCK$"),
    ("head -c 24 /dev/urandom", r"^payroll/database: 32 bytes sealed$"),
    ("mdx vault get payroll", r"^32$"),
    ("curl -sS --config", r"^Welcome to intranet\.corp\.internal\.$"),
    ("mdx lock payroll", r"^payroll is locked.*\n(?:.*\n)*payroll +\d{4}-\d\d-\d\d "),
    ("mdx status", r"^payroll +unlocked, "),
    ("mdx audit show", r'app="payroll"'),
    ("mdx audit verify", r"^hub\.jsonl +\d+ +whole"),
    ("mdx down", r"^  gateway +stopped$"),
]


def ten_lines() -> list[str]:
    """The one shell block of the section, line by line."""
    section = README.partition("\n## In ten lines\n")[2].partition("\n## ")[0]
    (block,) = re.findall(r"```sh\n(.*?)```", section, re.S)
    return str(block).splitlines()


def test_they_are_ten_near_the_top() -> None:
    lines = ten_lines()

    assert len(lines) == len(PROMISED) == 10
    assert all("  # " in line for line in lines)
    assert README.index("## In ten lines") < README.index("## Try it")


def test_each_does_what_its_comment_says(own_machine: Machine) -> None:
    for line, (start, printed) in zip(ten_lines(), PROMISED, strict=True):
        assert line.startswith(start)

        done = own_machine.run("bash", "-euo", "pipefail", "-c", line)

        assert done.returncode == 0, (line, done.stdout, done.stderr)
        assert re.search(printed, done.stdout, re.M), (line, done.stdout, done.stderr)
