"""Help, JSON, exit statuses, errors, and what is asked and shown on a terminal."""

from __future__ import annotations

import os
import pty
import select
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click
import pytest

from mdx.cli import commands

if TYPE_CHECKING:
    from tests.scenarios.conftest import Machine

USAGE, LOCKED, CONFIGURATION = 2, 77, 78
SECRET = "correct horse"
CLEAR_SCREEN = "\x1b[2J"


def paths(group: click.Group, *before: str) -> Iterator[tuple[str, ...]]:
    """Every command of the command line, with those in groups."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        yield (*before, name)
        if isinstance(command, click.Group):
            yield from paths(command, *before, name)


def on_terminal(
    machine: Machine, command: Sequence[str], *, answers: Sequence[tuple[str, str]] = ()
) -> tuple[int, str]:
    """(exit status, all that a terminal showed); each answer is typed once its prompt was shown."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(machine.home)
        os.execvpe(command[0], list(command), machine.environment | {"TERM": "xterm"})
    shown = ""
    waiting = list(answers)
    try:
        while select.select([terminal], [], [], 20)[0]:
            try:
                shown += os.read(terminal, 4096).decode()
            except OSError:  # EIO: nobody holds the terminal any more
                break
            if waiting and waiting[0][0] in shown.rpartition("\n")[2]:
                os.write(terminal, f"{waiting.pop(0)[1]}\n".encode())
    finally:
        os.close(terminal)
    assert not waiting, shown
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown


# Help and usage -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", list(paths(commands)), ids=" ".join)
def test_every_command_has_help(machine: Machine, path: tuple[str, ...]) -> None:
    done = machine.mdx(*path, "--help")

    assert done.stderr == ""
    usage, _, text = done.stdout.partition("\n\n")
    assert usage.startswith(f"Usage: mdx {' '.join(path)}")
    assert text.strip()
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_mdx_itself_lists_them_and_says_where_to_begin(machine: Machine) -> None:
    said = machine.mdx("--help").stdout

    for name in commands.list_commands(click.Context(commands)):
        assert f"\n  {name} " in said
    assert "mdx up" in said
    assert machine.mdx("-h").stdout == said
    assert machine.mdx("--version").stdout.startswith("mdx")


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["ps", "--frobnicate"],
        ["vault", "frobnicate"],
        ["vault", "get", "payroll"],
        ["explain", "payroll", "a..b"],
        ["up", "--gateway-port", "70000"],
        ["audit", "show", "--last", "0"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_two_and_says_what_is_right(machine: Machine, arguments: list[str]) -> None:
    done = machine.mdx(*arguments, status=USAGE)

    assert done.stdout == ""
    assert "Usage: mdx" in done.stderr
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_usage_of_run_is_its_own_failure(machine: Machine) -> None:
    """Every status below 125 could be the command's."""
    for arguments in (["--frobnicate", "payroll", "--", "true"], ["payroll"], ["payroll", "--"]):
        assert "usage: mdx run" in machine.mdx("run", *arguments, status=125).stderr


# JSON ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_a_run(machine: Machine) -> Iterator[Machine]:
    """With something to list: a run that waits, and a record."""
    machine.mdx("vault", "put", "payroll", "seen", stdin="x")
    with machine.start("mdx", "run", "--quiet", "payroll", "--", "sh", "-c", "echo; read x") as run:
        assert run.stdout is not None
        run.stdout.readline()
        yield machine
        run.communicate("\n", timeout=20)


@pytest.mark.parametrize(
    ("arguments", "kind", "keys"),
    [
        (["ps"], list, {"run", "app", "command", "pid", "level", "started_at"}),
        (["status"], dict, {"hub", "home", "config", "vault", "device", "runs"}),
        (["explain", "payroll", "x.test"], dict, {"verb", "rule", "origin", "destination"}),
        (["policy", "check"], dict, {"path", "apps"}),
        (["vault", "status"], dict, {"folder", "kept_by", "open", "leases"}),
        (["vault", "list", "payroll"], list, {"name", "kind", "version", "size_bytes"}),
        (["audit", "show"], list, {"seq", "at", "writer", "event", "fields", "prev", "hash"}),
        (["audit", "verify"], list, {"path", "records", "whole", "findings"}),
        (["unlock", "payroll"], list, {"app", "epoch", "not_after"}),
        (["login"], list, {"app", "epoch", "not_after"}),
        (["token", "payroll"], dict, {"proxy", "token", "certificate", "key", "expires_in"}),
        (["up"], dict, {"parts", "config"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "json",
)
def test_json_is_for_programs(
    with_a_run: Machine, arguments: list[str], kind: type, keys: set[str]
) -> None:
    data = with_a_run.json(*arguments)

    assert keys <= set(data if kind is dict else data[0])
    assert type(data) is kind


# Errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status", "line", "hint"),
    [
        (["vault", "get", "payroll", "none"], 1, "has no record", ""),
        (["vault", "get", "nobody", "x"], CONFIGURATION, 'no app is named "nobody"', "payroll"),
        (["vault", "init"], CONFIGURATION, "vault", ""),
        (["stop", "nobody"], 1, "no run and no running app is named nobody", "mdx ps"),
        (["policy", "check", "/nowhere.toml"], CONFIGURATION, "/nowhere.toml", ""),
        (["audit", "verify", "--folder", "/nowhere"], 1, "no audit to read in /nowhere", ""),
        (["join", "nonsense"], 1, "", ""),
    ],
    ids=str,
)
def test_an_error_is_one_line_and_what_to_do(
    machine: Machine, arguments: list[str], status: int, line: str, hint: str
) -> None:
    done = machine.run("mdx", *arguments)

    assert (done.returncode, done.stdout) == (status, "")
    first, *rest = done.stderr.splitlines()
    assert first.startswith("mdx: ")
    assert line in first
    assert len(rest) <= 1
    assert hint in "".join(rest)


def test_locked_is_a_status_of_its_own(machine: Machine) -> None:
    machine.mdx("unlock", "offline")
    machine.mdx("lock", "offline")

    for command in (["vault", "get", "offline", "x"], ["vault", "list", "offline"]):
        done = machine.mdx(*command, status=LOCKED)
        assert done.stderr == "mdx: offline: locked\n     run: mdx unlock offline\n"
    machine.mdx("unlock", "offline")


# On a terminal ------------------------------------------------------------------------------------


def test_a_secret_is_not_shown_unless_asked_to(machine: Machine) -> None:
    machine.mdx("vault", "put", "payroll", "shown", stdin=SECRET)
    get = ["mdx", "vault", "get", "payroll", "shown"]

    status, shown = on_terminal(machine, get)
    assert status == USAGE
    assert SECRET not in shown
    assert "--show" in shown

    assert on_terminal(machine, [*get, "--show"]) == (0, f"{SECRET}\r\n")


def test_a_secret_is_asked_for_twice_and_not_echoed(machine: Machine) -> None:
    put = ["mdx", "vault", "put", "payroll", "typed"]
    answers = [("value: ", SECRET), ("Repeat for confirmation: ", SECRET)]

    status, shown = on_terminal(machine, put, answers=answers)

    assert (status, SECRET in shown) == (0, False)
    assert machine.mdx("vault", "get", "payroll", "typed").stdout == SECRET


def test_a_locked_app_is_asked_about_before_it_runs(machine: Machine) -> None:
    machine.mdx("unlock", "visitor")
    machine.mdx("lock", "visitor")
    run = ["mdx", "run", "--quiet", "visitor", "--", "echo", "it", "ran"]

    status, shown = on_terminal(machine, run, answers=[("unlock visitor now? [Y/n] ", "n")])
    assert status == 125
    assert "it ran" not in shown
    assert "visitor stays locked" in shown

    status, shown = on_terminal(machine, run, answers=[("unlock visitor now? [Y/n] ", "y")])
    assert status == 0
    assert "it ran" in shown


def test_a_record_name_cannot_move_a_terminal(machine: Machine) -> None:
    done = machine.run("mdx", "vault", "put", "payroll", f"x{CLEAR_SCREEN}", stdin="x")

    assert done.returncode != 0 or CLEAR_SCREEN not in done.stdout
    assert CLEAR_SCREEN not in done.stderr
    _, shown = on_terminal(machine, ["mdx", "vault", "list", "payroll"])
    assert CLEAR_SCREEN not in shown


def test_a_command_name_cannot_move_a_terminal(machine: Machine) -> None:
    program = machine.home / f"sh{CLEAR_SCREEN}"
    program.symlink_to("/bin/sh")
    with machine.start(
        "mdx", "run", "--quiet", "payroll", "--", str(program), "-c", "echo; read x"
    ) as run:
        assert run.stdout is not None
        run.stdout.readline()
        for command in (["mdx", "ps"], ["mdx", "audit", "show"]):
            status, shown = on_terminal(machine, command)
            assert status == 0
            assert CLEAR_SCREEN not in shown
        run.communicate("\n", timeout=20)
    program.unlink()
