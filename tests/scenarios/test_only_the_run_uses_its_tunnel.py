"""Attacks on a run's listener from elsewhere on the machine. There is nothing to steal: the agent
asks the kernel whose socket it is."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.scenarios.conftest import Machine

NOBODY = 65534


@contextmanager
def running(machine: Machine, app: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A run that waits, and the address of its listener as it sees it."""
    command = ["mdx", "run", "--quiet", app, "--", "sh", "-c", "echo $http_proxy; read x; $x"]
    with machine.start(*command) as run:
        assert run.stdout is not None
        yield run, run.stdout.readline().strip()
        if run.returncode is None:
            run.communicate("true\n", timeout=20)


def fetch(
    machine: Machine, proxy: str, *, user: int | None = None
) -> subprocess.CompletedProcess[str]:
    """What somebody else gets who uses the listener."""
    return subprocess.run(
        ["curl", "-sS", "-k", "-m", "10", "--proxy", proxy, "https://intranet.corp.internal/"],
        env=machine.environment,
        capture_output=True,
        text=True,
        cwd="/",
        user=user,
    )


def test_another_process_of_the_same_user_is_cut_off(machine: Machine) -> None:
    with running(machine, "payroll") as (_, proxy):
        stolen = fetch(machine, proxy)

        assert stolen.returncode != 0
        assert stolen.stdout == ""
    refused = machine.records("connection.refused")
    assert refused[-1]["fields"]["reason"] == "the socket is not this run's"


def test_another_run_of_the_same_app_is_cut_off_too(machine: Machine) -> None:
    with running(machine, "payroll") as (_, proxy):
        script = f"curl -sS -k -m 10 --proxy {proxy} https://intranet.corp.internal/"

        stolen = machine.run("mdx", "run", "--quiet", "payroll", "--", "sh", "-c", script)

        assert stolen.returncode != 0
        assert stolen.stdout == ""


@pytest.mark.root
def test_another_user_is_cut_off(machine: Machine) -> None:
    with running(machine, "payroll") as (_, proxy):
        stolen = fetch(machine, proxy, user=NOBODY)

        assert stolen.returncode != 0
        assert stolen.stdout == ""


def test_socks_is_no_way_around(machine: Machine) -> None:
    with running(machine, "payroll") as (_, proxy):
        stolen = fetch(machine, proxy.replace("http:", "socks5h:"))

        assert stolen.returncode != 0
        assert stolen.stdout == ""


def test_the_run_itself_is_served_all_the_while(machine: Machine) -> None:
    with running(machine, "payroll") as (run, proxy):
        fetch(machine, proxy)
        assert run.stdin is not None
        said, _ = run.communicate(
            "curl -sS -o /dev/null -w %{http_code} https://intranet.corp.internal/\n", timeout=20
        )
    assert said == "200"


def test_children_and_daemons_of_the_run_are_the_run(machine: Machine) -> None:
    fetching = "curl -sS -o /dev/null -w %{http_code} https://intranet.corp.internal/ > late"
    script = f"mkfifo done; (setsid sh -c '(sleep 0; {fetching}; echo > done) &' &) ; cat done"
    machine.mdx("run", "--quiet", "payroll", "--", "sh", "-c", script)

    assert (machine.home / "late").read_text() == "200"
    os.remove(machine.home / "late")
    os.remove(machine.home / "done")


@pytest.mark.root
def test_another_user_cannot_speak_to_the_hub(machine: Machine) -> None:
    socket_path = str(machine.home / "run" / "hub.sock")
    refused = subprocess.run(
        ["curl", "-sSv", "--unix-socket", socket_path, "http://hub/"],
        user=NOBODY,
        cwd="/",
        capture_output=True,
        text=True,
    )

    assert refused.returncode == 7
    assert "Permission denied" in refused.stderr
