"""`mdx doctor` finds each thing that was broken on purpose, in time, and changes nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.scenarios.conftest import Machine

Findings = dict[str, dict[str, str]]


def examine(machine: Machine, *options: str, status: int) -> dict[str, Findings]:
    """role → name of a check → the worst of what it found."""
    done = machine.mdx("doctor", "--json", *options, status=status)
    told: dict[str, Any] = json.loads(done.stdout)
    assert (told["verdict"] == "bad") is (status == 1)
    order = ["ok", "warn", "bad"]
    return {
        role: {
            found["name"]: found
            for found in sorted(findings, key=lambda found: order.index(found["standing"]))
        }
        for role, findings in told["roles"].items()
    }


def kill(machine: Machine, daemon: str) -> None:
    pidfd = os.pidfd_open(int((machine.home / f"{daemon}.lock").read_text()))
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)


def standing(findings: Findings, name: str) -> str:
    return findings[name]["standing"]


def test_a_machine_in_order(machine: Machine) -> None:
    begun = time.perf_counter()
    # The shared machine has an app that demands level 2: that is bad, and nothing else is.
    told = examine(machine, status=1)
    seconds = time.perf_counter() - begun

    assert list(told) == ["device", "gateway", "control"]
    wrong = [
        (role, name)
        for role, findings in told.items()
        for name, found in findings.items()
        if found["standing"] == "bad"
    ]
    assert wrong == [("device", "minimum level")]
    for part in ("gateway", "control"):
        assert "TLSv1.3, TLS_AES_256_GCM_SHA384" in told["device"][part]["what"]
        assert "X25519MLKEM768" in told["device"][part]["what"]
    assert "30 days left" in told["device"]["device certificate"]["what"]
    assert "answers" in told["gateway"]["host"]["what"]
    assert seconds < 10  # three are promised on a quiet machine; tests run beside others


def test_what_it_says_helps_and_holds_no_secret(machine: Machine) -> None:
    machine.mdx("vault", "put", "payroll", "doctor-secret", stdin="hunter2")
    done = machine.mdx("doctor", "--json", status=1)
    key = (machine.home / "keeper.key").read_text().strip()

    assert "hunter2" not in done.stdout
    assert key not in done.stdout
    assert "PRIVATE KEY" not in done.stdout
    for findings in json.loads(done.stdout)["roles"].values():
        for found in findings:
            assert found["what"].isprintable()
            assert found["do"] or found["standing"] == "ok", found
    machine.mdx("vault", "remove", "payroll", "doctor-secret")


def test_only_problems_on_demand(machine: Machine) -> None:
    said = machine.mdx("doctor", "--problems", "--role", "device", status=1).stdout
    assert "minimum level" in said
    assert "→" in said
    assert "sock_diag" not in said


def test_nothing_yet_is_no_fault_and_stays_nothing(make_machine: Callable[[], Machine]) -> None:
    machine = make_machine()

    told = examine(machine, status=0)

    assert list(told) == ["device"]
    assert "mdx up" in told["device"]["keeper"]["do"]
    assert list(machine.home.iterdir()) == []


@pytest.fixture
def broken(make_machine: Callable[[], Machine]) -> Machine:
    """A machine whose own configuration has no fault."""
    machine = make_machine()
    machine.mdx("up", "--gateway-port=0", "--control-port=0", "--site-port=0")
    return machine


def test_dead_daemons_and_open_folders(broken: Machine) -> None:
    assert set(examine(broken, status=0)) == {"device", "gateway", "control"}

    kill(broken, "gateway/gateway")
    (broken.home / "audit").chmod(0o755)
    told = examine(broken, status=1)
    assert standing(told["device"], "gateway") == "bad"
    assert "does not answer" in told["device"]["gateway"]["what"]
    assert told["device"]["folders"]["do"] == f"chmod 700 {broken.home / 'audit'}"
    assert told["gateway"]["gateway"]["what"] == "does not run"
    (broken.home / "audit").chmod(0o700)

    with socket.create_server(("127.0.0.1", broken.ports["gateway"])):
        told = examine(broken, "--role", "gateway", status=1)
    assert "taken by another program" in told["gateway"]["gateway port"]["what"]

    kill(broken, "control/control")
    told = examine(broken, status=1)
    assert "cannot be reached" in told["device"]["control"]["what"]
    assert standing(told["control"], "control") == "bad"
    assert standing(told["gateway"], "control of gateway") == "bad"

    kill(broken, "run/hub")
    told = examine(broken, "--role", "device", status=0)
    assert standing(told["device"], "hub") == "warn"
    assert "hub does not run" in told["device"]["gateway"]["what"]
    assert not list((broken.home / "run").glob("*.started"))
    told = examine(broken, "--role", "device", status=0)
    assert standing(told["device"], "hub") == "warn"  # asking did not start it

    broken.mdx("up")
    examine(broken, status=0)


def test_a_gateway_that_hangs_does_not_hang_the_doctor(broken: Machine) -> None:
    pid = int((broken.home / "gateway" / "gateway.lock").read_text())
    pidfd = os.pidfd_open(pid)
    signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
    try:
        begun = time.perf_counter()
        told = examine(broken, "--role", "device", status=1)
        seconds = time.perf_counter() - begun
    finally:
        signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        os.close(pidfd)

    assert "no answer within 2 s" in told["device"]["gateway"]["what"]
    assert standing(told["device"], "control") == "ok"
    assert seconds < 10


def test_a_changed_record_a_lost_key_and_a_wrong_configuration(broken: Machine) -> None:
    chain = broken.home / "audit" / "control.jsonl"
    lines = chain.read_text().splitlines(keepends=True)
    chain.write_text("".join(lines[:1] + lines[2:]))
    (broken.home / "keeper.key").rename(broken.home / "elsewhere")
    config = broken.home / "mdx.toml"
    config.write_text(config.read_text() + 'colour = "red"\n')
    (broken.home / "gateway" / "gateway.toml").write_text("name = 1\n")

    told = examine(broken, status=1)

    assert told["device"]["audit"]["what"].startswith("control.jsonl: ")
    assert standing(told["device"], "key file") == "bad"
    assert "colour" in told["device"]["configuration"]["what"]
    assert standing(told["gateway"], "gateway.toml") == "bad"
