"""kill -9 of hub, zygote and agent while a run is under way."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.scenarios.conftest import Machine

FETCH = "curl -sS -m 20 -o /dev/null -w '%{http_code}\\n' https://intranet.corp.internal/\n"


@contextmanager
def shell(machine: Machine) -> Iterator[subprocess.Popen[str]]:
    """A run whose command does what it is told line by line."""
    with machine.start("mdx", "run", "--quiet", "payroll", "--", "sh") as run:
        tell(run, "echo ready\n", "ready\n")
        yield run
        run.communicate("exit\n", timeout=20)


def tell(run: subprocess.Popen[str], line: str, answer: str) -> None:
    assert run.stdin is not None
    assert run.stdout is not None
    run.stdin.write(line)
    run.stdin.flush()
    assert run.stdout.readline() == answer


def kill(pid: int) -> None:
    """SIGKILL, and wait until it is gone."""
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert select.select([pidfd], [], [], 10)[0]
    finally:
        os.close(pidfd)


def facts(machine: Machine, run: subprocess.Popen[str]) -> dict[str, Any]:
    return next(known for known in machine.json("ps") if known["pid"] == run.pid)


def test_hub(machine: Machine) -> None:
    with shell(machine) as run:
        tell(run, FETCH, "200\n")
        before = facts(machine, run)
        kill(machine.json("status")["hub"]["pid"])

        tell(run, FETCH, "200\n")  # the agent runs on, with its session token

        after = facts(machine, run)  # asking starts the next hub, which finds the run again
        assert (after["run"], after["agent"]) == (before["run"], before["agent"])
        tell(run, FETCH, "200\n")
        machine.mdx("stop", after["run"])
        assert run.wait(timeout=10) == -signal.SIGTERM


def test_hub_before_the_first_connection(machine: Machine) -> None:
    """Then the agent has neither certificate nor ticket, and gets them from the next hub."""
    with shell(machine) as run:
        kill(machine.json("status")["hub"]["pid"])
        machine.mdx("status")

        tell(run, FETCH, "200\n")


def test_zygote(machine: Machine, site: str) -> None:
    with shell(machine) as run:
        kill(machine.json("status")["hub"]["zygote"])

        tell(run, FETCH, "200\n")
        machine.mdx("run", "payroll", "--", "curl", "-sS", f"https://{site}/")
    assert machine.json("status")["hub"]["zygote"]


def test_agent(machine: Machine) -> None:
    """The listener outlives it in the hub, so a new agent takes its place on the same port."""
    with shell(machine) as run:
        tell(run, FETCH, "200\n")
        before = facts(machine, run)
        kill(before["agent"])

        tell(run, FETCH, "200\n")

        after = facts(machine, run)
        assert after["agent"] != before["agent"]
    assert machine.records("agent.died")[-1]["fields"]["run"] == before["run"]
    assert machine.records("agent.replaced")[-1]["fields"]["run"] == before["run"]


def test_agent_again_and_again_ends_without_a_way_out(machine: Machine) -> None:
    with shell(machine) as run:
        for _ in range(5):
            kill(facts(machine, run)["agent"])
            tell(run, FETCH, "200\n")
        kill(facts(machine, run)["agent"])
        assert run.stdin is not None
        assert run.stdout is not None
        run.stdin.write(FETCH)
        run.stdin.flush()
        assert run.stdout.readline() == "000\n"


@pytest.mark.parametrize("part", ["control", "gateway", "site"])
def test_a_daemon_is_started_again_by_mdx_up(own_machine: Machine, site: str, part: str) -> None:
    lock = own_machine.home / part / f"{part}.lock"
    kill(int(lock.read_text()))

    own_machine.mdx("up")

    own_machine.mdx("run", "payroll", "--", "curl", "-sS", f"https://{site}/")
    own_machine.mdx("audit", "verify")
