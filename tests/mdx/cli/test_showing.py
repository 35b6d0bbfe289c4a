"""Tables: one line a row in a pipe, folded where a width is said; near misses of commands."""

from __future__ import annotations

import click
import pytest

from mdx.cli import commands
from mdx.cli.showing import show_facts, show_table

LONG = "a-value-without-a-space-" * 20


def test_in_a_pipe_a_row_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)

    show_table(("name", "value"), [("first", LONG), ("second", "-")], empty="")
    show_facts([("name", LONG)])

    lines = capsys.readouterr().out.splitlines()
    assert lines == ["name    value", f"first   {LONG}", "second  -", f"name  {LONG}"]


def test_a_width_that_is_said_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")

    show_table(("name", "value"), [("first", LONG)], empty="")

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 5
    assert all(len(line) <= 60 and line == line.rstrip() for line in lines)


@pytest.mark.parametrize(("typed", "meant"), [("runn", "run"), ("gatway", "gateway")])
def test_a_near_miss_is_said(typed: str, meant: str) -> None:
    with pytest.raises(click.UsageError, match=f"Did you mean '{meant}'"):
        commands.main([typed, "payroll"], standalone_mode=False)


def test_far_from_all_is_only_refused() -> None:
    with pytest.raises(click.UsageError, match="No such command 'xyzzy'") as refused:
        commands.main(["xyzzy"], standalone_mode=False)

    assert "Did you mean" not in str(refused.value)
