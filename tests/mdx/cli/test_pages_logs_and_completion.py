"""`mdx help`, `mdx completion` and `mdx logs` as a person and a shell see them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
TOML = "[apps.payroll]\n[apps.payments]\n[apps.mail]\n"

Mdx = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "mdx.toml").write_text(TOML)
    (home / "mdx.toml").chmod(0o600)
    return home


@pytest.fixture
def environment(home: Path) -> dict[str, str]:
    return {
        "MDX_HOME": str(home),
        "HOME": str(home),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "COLUMNS": "90",
    }


@pytest.fixture
def mdx(environment: dict[str, str]) -> Mdx:
    def run(*words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["mdx", *words], env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == status, done.stderr
        return done

    return run


# Help -------------------------------------------------------------------------------------------


def test_topics_are_listed(mdx: Mdx) -> None:
    said = mdx("help").stdout
    assert "two-machines" in said
    assert "mdx help TOPIC" in said


def test_a_page_is_text_that_fits_the_terminal(mdx: Mdx) -> None:
    said = mdx("help", "errors").stdout
    assert said.startswith("mdx: errors and exit codes\n")
    assert "BLOCKED_BY_RULE" in said
    assert max(len(line) for line in said.splitlines()) <= 90
    assert "\x1b" not in said
    assert "**" not in mdx("help", "faq").stdout


def test_the_name_of_a_command_shows_its_help(mdx: Mdx) -> None:
    assert mdx("help", "vault").stdout == mdx("vault", "--help").stdout


def test_what_is_neither_is_one_line_and_a_hint(mdx: Mdx) -> None:
    line, hint = mdx("help", "\x1b[2J", status=2).stderr.splitlines()
    assert line == r"mdx: there is no help on '\x1b[2J'"
    assert "topics: start," in hint


# Completion -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["mdx", "exp"], ["explain"]),
        (["mdx", "explain", ""], ["mail", "payments", "payroll"]),
        (["mdx", "explain", "pa"], ["payments", "payroll"]),
        (["mdx", "run", "m"], ["mail"]),
        (["mdx", "stop", "m"], ["mail"]),
        (["mdx", "vault", "put", "payr"], ["payroll"]),
        (["mdx", "logs", "g"], ["gateway"]),
        (["mdx", "help", "two"], ["two-machines"]),
        (["mdx", "doctor", "--ro"], ["--role"]),
        (["mdx", "doctor", "--role", "c"], ["control"]),
    ],
)
def test_bash_completes(environment: dict[str, str], words: list[str], expected: list[str]) -> None:
    assert complete_in_bash(environment, words) == expected


def test_a_broken_configuration_completes_nothing_and_says_nothing(
    environment: dict[str, str], home: Path
) -> None:
    (home / "mdx.toml").write_text("[apps.payroll")
    assert complete_in_bash(environment, ["mdx", "explain", ""]) == []
    assert not (home / "run").exists()  # no daemon was asked, none was started


def complete_in_bash(environment: dict[str, str], words: list[str]) -> list[str]:
    script = """
eval "$(mdx completion bash)"
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_mdx_completion mdx
printf '%s\\n' "${COMPREPLY[@]}"
"""
    done = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script_and_a_place_for_it(mdx: Mdx, shell: str) -> None:
    told = json.loads(mdx("completion", shell, "--json").stdout)
    assert told["script"].strip() == mdx("completion", shell).stdout.strip()
    assert "_MDX_COMPLETE" in told["script"]
    said = mdx("completion", "--help").stdout.split()
    assert " ".join(told["install"].split()) in " ".join(said)
    if shell == "bash":
        subprocess.run(["bash", "-n", "-c", told["script"]], check=True, timeout=60)


# Logs -------------------------------------------------------------------------------------------


@pytest.fixture
def log(home: Path) -> Path:
    folder = home / "log"
    folder.mkdir(mode=0o700)
    (folder / "gateway.log").write_text(
        '{"at": "2026-01-01T00:00:01.000+00:00", "part": "gateway", "event": "one", "n": 1}\n'
        '{"at": "2026-01-01T00:00:03.000+00:00", "part": "gateway", "event": "three"}\n'
    )
    (folder / "hub.log").write_text(
        '{"at": "2026-01-01T00:00:02.000+00:00", "part": "hub", "event": "two"}\n'
        "hub: connection: \x1b[2JOSError\n"
    )
    return folder


def test_parts_are_told_by_time(mdx: Mdx, log: Path) -> None:
    said = mdx("logs").stdout.splitlines()
    assert [line.split()[2] for line in said] == ["gateway", "hub", "hub:", "gateway"]
    assert said[0] == "2026-01-01 00:00:01  gateway  one  n=1"
    assert said[2].endswith(r"hub: connection: \x1b[2JOSError")
    assert "\x1b" not in "".join(said)
    assert mdx("logs", "-n", "1").stdout == said[-1] + "\n"
    assert mdx("logs", "gateway", "-n", "1").stdout.split()[-1] == "three"


def test_one_json_object_a_line(mdx: Mdx, log: Path) -> None:
    lines = [json.loads(line) for line in mdx("logs", "--json").stdout.splitlines()]
    assert [line["part"] for line in lines] == ["gateway", "hub", "hub", "gateway"]
    assert lines[0]["n"] == 1


def test_no_logs_is_one_line_and_a_hint(mdx: Mdx, log: Path) -> None:
    assert "gateway, hub" in mdx("logs", "site", status=1).stderr
    (log / "gateway.log").unlink()
    (log / "hub.log").unlink()
    line, hint = mdx("logs", status=1).stderr.splitlines()
    assert str(log) in line
    assert "mdx up" in hint


def test_following_tells_what_comes(environment: dict[str, str], log: Path) -> None:
    with subprocess.Popen(
        ["mdx", "logs", "gateway", "--follow", "-n", "1"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as following:
        assert following.stdout is not None
        assert "three" in following.stdout.readline()  # so it follows by now
        with (log / "gateway.log").open("a") as file:
            file.write('{"at": "2026-01-01T00:00:04+00:00", "event": "four"}\n')
        assert "four" in following.stdout.readline()
        following.terminate()
