"""`mdx run APP -- COMMAND` with real programs, none of which knows of us."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.scenarios.conftest import Machine

PYTHON_CLIENT = """
import urllib.request
with urllib.request.urlopen("https://intranet.corp.internal/payroll.json") as answer:
    print(answer.status)
"""


def test_curl(machine: Machine, site: str) -> None:
    done = machine.mdx("run", "payroll", "--", "curl", "-sS", f"https://{site}/payroll.json")

    assert json.loads(done.stdout)
    assert done.stderr.startswith("mdx: payroll: level 1, pointed")


def test_curl_by_socks(machine: Machine, site: str) -> None:
    script = f'curl -sS --proxy "$ALL_PROXY" https://{site}/payroll.json'

    assert json.loads(machine.mdx("run", "payroll", "--", "sh", "-c", script).stdout)


def test_git_clone(machine: Machine, site: str) -> None:
    url = f"https://{site}/git/handbook.git"

    machine.mdx("run", "payroll", "--", "git", "clone", "--quiet", url, "cloned")

    assert machine.run("git", "-C", "cloned", "fsck", "--strict").returncode == 0
    assert machine.run("git", "-C", "cloned", "log", "--oneline").stdout


def test_python(machine: Machine, site: str) -> None:
    done = machine.mdx("run", "payroll", "--", sys.executable, "-c", PYTHON_CLIENT)

    assert done.stdout == "200\n"


def test_a_large_download_arrives_whole(machine: Machine, site: str) -> None:
    size = 50_000_000
    done = machine.mdx(
        "run", "payroll", "--", "sh", "-c", f"curl -sS https://{site}/big/{size} | wc -c"
    )

    assert int(done.stdout) == size


def test_many_connections_at_once(machine: Machine, site: str) -> None:
    script = f'curl -sS --no-progress-meter --parallel "https://{site}/big/1000?[1-20]" | wc -c'
    done = machine.mdx("run", "payroll", "--", "sh", "-c", script)

    assert int(done.stdout) == 20_000


def test_the_exit_status_is_the_commands_own(machine: Machine) -> None:
    machine.mdx("run", "payroll", "--", "sh", "-c", "exit 42", status=42)


def test_standard_streams_are_the_commands_own(machine: Machine) -> None:
    done = machine.mdx("run", "--quiet", "payroll", "--", "cat", stdin="through\n")

    assert (done.stdout, done.stderr) == ("through\n", "")


@pytest.mark.parametrize(
    ("command", "status", "says"),
    [
        (["no-such-program"], 127, "no-such-program: command not found"),
        (["/etc/passwd"], 126, "/etc/passwd: Permission denied"),
    ],
)
def test_a_command_that_cannot_be_run(
    machine: Machine, command: list[str], status: int, says: str
) -> None:
    assert says in machine.mdx("run", "payroll", "--", *command, status=status).stderr


def test_an_unknown_app_names_the_known_ones(machine: Machine) -> None:
    done = machine.mdx("run", "nobody", "--", "true", status=125)

    assert 'no app is named "nobody"' in done.stderr
    assert "payroll" in done.stderr


def test_a_policy_that_demands_more_confinement_is_not_served_with_less(machine: Machine) -> None:
    done = machine.mdx("run", "strict", "--", "true", status=125)
    assert "level 2 is demanded, this version reaches 1" in done.stderr

    done = machine.mdx("run", "--minimum-level", "3", "payroll", "--", "true", status=125)
    assert "level 3 is demanded" in done.stderr


def test_a_signal_ends_the_command_as_it_would_without_us(machine: Machine) -> None:
    script = "echo begun; exec sleep 60"
    with machine.start("mdx", "run", "payroll", "--", "sh", "-c", script) as sleeping:
        assert sleeping.stdout is not None
        assert sleeping.stdout.readline() == "begun\n"
        sleeping.send_signal(signal.SIGINT)
        assert sleeping.wait(timeout=10) == -signal.SIGINT


def test_the_command_takes_the_launchers_place(machine: Machine) -> None:
    with machine.start("mdx", "run", "--quiet", "payroll", "--", "sh", "-c", "echo $$") as shell:
        said, _ = shell.communicate(timeout=20)
        assert int(said) == shell.pid


def test_terminal_and_job_control_are_the_commands_own(machine: Machine) -> None:
    """A shell under `mdx run` is the terminal's foreground job and can stop and resume others."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(machine.home)
        os.execvpe(
            "mdx",
            ["mdx", "run", "payroll", "--", "bash", "--norc", "-i"],
            {
                **machine.environment,
                "PS1": "> ",
                "TERM": "dumb",
            },
        )
    try:
        said = b""

        def until(text: bytes) -> None:
            nonlocal said
            while text not in said:
                assert select.select([terminal], [], [], 20)[0], said
                said += os.read(terminal, 4096)
            said = said.partition(text)[2]

        until(b"> ")
        os.write(terminal, b"sh -c 'echo be\"\"gun; exec sleep 100'\n")
        until(b"begun")
        os.write(terminal, b"\x1a")  # Ctrl-Z
        until(b"Stopped")
        os.write(terminal, b"kill %1; fg; exit 7\n")
        until(b"Terminated")
        with suppress(OSError):  # EIO: the last process of the terminal is gone
            until(b"never said")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    finally:
        os.close(terminal)


def test_status_fd_tells_a_program_what_was_reached(machine: Machine) -> None:
    reading, writing = os.pipe()
    command = ["mdx", "run", "--quiet", f"--status-fd={writing}", "payroll", "--", "true"]
    with machine.start(*command, pass_fds=[writing]) as run:
        os.close(writing)
        with open(reading) as status:
            facts = json.loads(status.read())  # to its end: the command does not inherit it
        run.communicate(timeout=20)
    assert facts["app"] == "payroll"
    assert facts["level"] == 1
    assert facts["pid"] == run.pid
    assert len(facts["run"]) == 8


def test_no_secret_is_in_the_environment_or_argv(machine: Machine) -> None:
    done = machine.mdx("run", "--quiet", "payroll", "--", "env")

    assert "mdxs1." not in done.stdout
    assert "mdx1." not in done.stdout
    assert "PRIVATE KEY" not in done.stdout
    proxies = [line for line in done.stdout.splitlines() if "_proxy=" in line.lower()]
    assert proxies
    assert not any("@" in line for line in proxies)


def test_ps_lists_it_and_stop_ends_it(machine: Machine) -> None:
    with machine.start("mdx", "run", "payroll", "--", "sleep", "60") as sleeping:
        assert sleeping.stderr is not None
        sleeping.stderr.readline()
        (listed,) = [run for run in machine.json("ps") if run["pid"] == sleeping.pid]
        assert (listed["app"], listed["command"], listed["level"]) == ("payroll", "sleep", 1)
        assert listed["run"] in machine.mdx("ps").stdout

        machine.mdx("stop", listed["run"])

        assert sleeping.wait(timeout=10) == -signal.SIGTERM
    assert not any(run["run"] == listed["run"] for run in machine.json("ps"))
    assert "no run and no running app" in machine.mdx("stop", listed["run"], status=1).stderr


def test_a_program_left_behind_by_the_command_has_no_tunnel_any_more(
    machine: Machine, site: str
) -> None:
    """The run ends with its command; the agent goes with it."""
    script = f"(trap '' HUP; read x; curl -sS -m 10 https://{site}/; echo status $?) & "
    command = ["mdx", "run", "--quiet", "payroll", "--", "sh", "-c", script + "echo"]
    with machine.start(*command) as run:
        assert run.stdout is not None
        run.wait(timeout=10)
        said, _ = run.communicate("go\n", timeout=20)
    assert "status 0" not in said
