"""docs/clients.md: each client names the tests that run it, and no test of a client is left out."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from mdx.container.pointed import proxy_variables, trust_variables

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
HEADER = "| client | how it is pointed | level 1 | tests |\n|---|---|---|---|\n"
REFERENCE = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
KINDS = set(re.findall(r"^- \*\*(.+?)\*\*: ", PAGE, re.M))

ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.partition(HEADER)[2].partition("\n\n")[0].splitlines()
]


@cache
def defined_in(path: str) -> frozenset[str]:
    """The names of the test functions of a file."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    names = (node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return frozenset(name for name in names if name.startswith("test_"))


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_client_has_its_way_and_tests_that_exist(row: list[str]) -> None:
    client, way, kind, tests = row
    assert client
    assert way
    assert kind in KINDS
    named = REFERENCE.findall(tests)
    assert named
    assert ", ".join(f"`{path}::{name}`" for path, name in named) == tests
    for path, name in named:
        assert name in defined_in(path), f"{path}::{name}"


def test_every_kind_is_used() -> None:
    assert {row[2] for row in ROWS} == KINDS


def test_every_test_of_a_client_is_on_the_page() -> None:
    files = sorted((ROOT / "tests" / "scenarios").glob("test_real_clients*.py"))
    there = {
        (str(path.relative_to(ROOT)), name)
        for path in files
        for name in defined_in(str(path.relative_to(ROOT)))
    }
    assert len(there) > 15
    assert there - set(REFERENCE.findall(PAGE)) == set()


def test_the_clients_that_users_asked_for_are_there() -> None:
    """Who takes one away says so here."""
    clients = " ".join(row[0] for row in ROWS).lower()
    for name in (
        *("curl", "wget", "git", "pip", "npm", "node", "pysocks", "python-socks", "httpx"),
        *("ssh", "psql", "redis-cli", "chromium"),
    ):
        assert name in clients, name


def test_the_variables_that_are_named_are_set() -> None:
    intro = PAGE.partition("In the third column")[0]
    named = set(re.findall(r"`([a-zA-Z_]+)`", intro)) - {"ca_file"}
    assert len(named) >= 10
    assert named <= proxy_variables("127.0.0.1", 1).keys() | trust_variables("b", "e").keys()
