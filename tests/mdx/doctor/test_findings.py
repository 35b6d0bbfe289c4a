"""Findings, and the worst of them."""

from __future__ import annotations

import re
from pathlib import Path

import click

from mdx import doctor
from mdx.cli import commands
from mdx.doctor.findings import bad, ok, verdict, warn


def test_the_worst_decides() -> None:
    assert verdict([]) == "ok"
    assert verdict([ok("a", "x")]) == "ok"
    assert verdict([ok("a", "x"), warn("b", "y", "z"), ok("c", "x")]) == "warn"
    assert verdict([bad("a", "x"), warn("b", "y")]) == "bad"


def test_data_for_json() -> None:
    assert warn("disk", "little", "make room").to_dict() == {
        "name": "disk",
        "standing": "warn",
        "what": "little",
        "do": "make room",
    }


def test_every_command_that_is_advised_is_there() -> None:
    known = set(commands.list_commands(click.Context(commands)))
    folder = Path(doctor.__file__).parent
    advised = {
        word
        for file in folder.glob("*.py")
        for word in re.findall(r"\bmdx ([a-z]+)\b", file.read_text())
    }
    prose = {"as", "import", "is", "itself", "needs"}  # "run mdx as that user"
    assert advised - prose <= known
    assert {"up", "join", "unlock", "logs", "policy"} <= advised
