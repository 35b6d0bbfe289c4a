"""SECURITY.md: each promise names the tests that attack it, and they exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
HEADER = "| promise | the tests that attack it |"
REFERENCE = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")

SECTIONS = re.findall(rf"^### (.+)\n{re.escape(HEADER)}\n\|---\|---\|\n((?:\|.*\n)+)", PAGE, re.M)
ROWS = [
    (title, *(cell.strip() for cell in line.strip("|\n").split(" | ", 1)))
    for title, rows in SECTIONS
    for line in rows.splitlines()
]


@cache
def defined_in(path: str) -> frozenset[str]:
    """The names of the test functions of a file; the parametrised ones once."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    )


def test_the_page_has_its_tables() -> None:
    assert len(SECTIONS) == PAGE.count(HEADER) >= 7
    assert len(ROWS) >= 40


@pytest.mark.parametrize(("section", "promise", "tests"), ROWS)
def test_a_promise_is_one_sentence_and_names_tests_that_exist(
    section: str, promise: str, tests: str
) -> None:
    assert re.fullmatch(r"[A-Z].*\.", promise), promise
    assert ". " not in promise.replace("X.509 version 1.", ""), promise
    named = REFERENCE.findall(tests)
    assert named, promise
    assert len(set(named)) == len(named), promise
    assert ", ".join(f"`{path}::{name}`" for path, name in named) == tests
    for path, name in named:
        assert (ROOT / path).is_file(), path
        assert name in defined_in(path), f"{path}::{name}"


def test_tests_are_named_in_the_tables_only() -> None:
    in_rows = sum(len(REFERENCE.findall(tests)) for _, _, tests in ROWS)
    assert in_rows == len(REFERENCE.findall(PAGE)) == PAGE.count("::test_")


@pytest.mark.parametrize(
    "title",
    [
        "Who is protected from whom",
        "Not promised",
        "Reporting a vulnerability",
        "Supported versions",
    ],
)
def test_the_page_has_its_parts(title: str) -> None:
    assert f"\n## {title}\n" in PAGE


@pytest.mark.parametrize(
    "path",
    [*(f"{part}/__main__.py" for part in ("hub", "control", "gateway", "site")), "hub/zygote.py"],
)
def test_every_process_with_keys_hardens_itself(path: str) -> None:
    """Agents are forked from the zygote, and a fork keeps what it did."""
    tree = ast.parse((ROOT / "mdx" / path).read_text(encoding="utf-8"))
    (main,) = [
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main"
    ]
    called = [
        ast.unparse(statement.value) for statement in main.body if isinstance(statement, ast.Expr)
    ]
    assert "process.harden()" in called
