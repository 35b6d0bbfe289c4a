"""`mdx service`, and what a service manager sees of the processes that its units start.

There is no systemd in a test: its part (starting the unit's very command with NOTIFY_SOCKET,
signals, starting it again) is played by hand.
"""

from __future__ import annotations

import os
import re
import secrets
import select
import shlex
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.scenarios.conftest import Machine

URL = "https://intranet.corp.internal/"


def with_a_home(machine: Machine) -> Machine:
    """Its user has a home of its own, and no systemd."""
    home = machine.home.parent / "user"
    home.mkdir(exist_ok=True)
    machine.environment |= {"HOME": str(home), "XDG_RUNTIME_DIR": str(home)}
    machine.environment.pop("XDG_CONFIG_HOME", None)
    machine.environment.pop("DBUS_SESSION_BUS_ADDRESS", None)
    return machine


@pytest.fixture
def installed(own_machine: Machine) -> Machine:
    """A machine on which everything runs."""
    return with_a_home(own_machine)


@pytest.fixture
def idle(make_machine: Callable[[], Machine]) -> Machine:
    """A machine on which nothing runs, but that has an app."""
    machine = with_a_home(make_machine())
    (machine.home / "mdx.toml").write_text("[apps.payroll]\n")
    return machine


def units(machine: Machine) -> Path:
    return Path(machine.environment["HOME"]) / ".config" / "systemd" / "user"


class Started:
    """A unit's command as systemd would start it."""

    def __init__(self, machine: Machine, name: str) -> None:
        text = (units(machine) / name).read_text()
        command = shlex.split(_one(r"^ExecStart=(.*)$", text))
        variables = dict(
            word.split("=", 1)
            for line in re.findall(r"^Environment=(.*)$", text, re.MULTILINE)
            for word in shlex.split(line)
        )
        address = f"mdx-test-{secrets.token_hex(8)}"
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._manager.bind(f"\0{address}")
        self._manager.settimeout(20)
        self.process = subprocess.Popen(
            command,
            env={
                "PATH": "/usr/bin:/bin",
                "HOME": machine.environment["HOME"],
                "NOTIFY_SOCKET": f"@{address}",
                "WATCHDOG_USEC": "500000",
                "INVOCATION_ID": secrets.token_hex(16),
            }
            | variables,
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def hears(self, wanted: str) -> None:
        while not (said := self._manager.recv(4096).decode()).startswith(wanted):
            assert said.startswith(("WATCHDOG=1", "STATUS="))

    def stop(self, sent: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(sent)
        return self.process.wait(timeout=20)

    def close(self) -> None:
        self._manager.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(timeout=10)


@contextmanager
def started(machine: Machine, name: str) -> Iterator[Started]:
    unit = Started(machine, name)
    try:
        unit.hears("READY=1")
        yield unit
    finally:
        unit.close()


def _one(pattern: str, text: str) -> str:
    (found,) = re.findall(pattern, text, re.MULTILINE)
    return str(found)


def fetch(machine: Machine, path: Path) -> str:
    curl = ["curl", "-sSk", "-m20", "-o/dev/null", "-w%{http_code}"]
    return machine.run(*curl, "-x", f"socks5h://localhost{path}", URL).stdout


def install_agent(machine: Machine) -> Path:
    path = machine.home / "service.sock"
    machine.mdx("service", "install", "agent", "payroll", f"--listen=unix:{path}")
    return path


def test_without_systemd_it_says_what_it_wrote_and_what_to_run(idle: Machine) -> None:
    listen = f"--listen=unix:{idle.home}/s.sock"
    shown = idle.mdx("service", "install", "agent", "payroll", listen, "--print")
    assert "ExecStart=" in shown.stdout
    assert not units(idle).exists()

    done = idle.json("service", "install", "agent", "payroll", listen)

    assert [unit["became"] for unit in done["units"]] == ["written", "written"]
    assert "systemctl --user enable mdx-agent-payroll.service" in done["todo"]
    names = ["mdx-agent-payroll.service", "mdx-hub.service"]
    assert sorted(os.listdir(units(idle))) == names
    again = idle.json("service", "install", "agent", "payroll", listen)
    assert [unit["became"] for unit in again["units"]] == ["unchanged", "unchanged"]
    assert [unit["unit"] for unit in idle.json("service", "status")] == names
    text = idle.mdx("service", "install", "hub").stdout
    assert "no systemd of this user answers here. Where there is one, run:" in text

    for _ in range(2):
        idle.mdx("service", "remove", "agent", "payroll")
        idle.mdx("service", "remove", "hub")
    assert os.listdir(units(idle)) == []
    assert "no service is installed" in idle.mdx("service", "status").stdout


def test_what_would_not_start_is_not_installed(idle: Machine) -> None:
    install = ["service", "install", "agent"]
    unix = f"--listen=unix:{idle.home}/s.sock"
    assert "no app is named" in idle.mdx(*install, "nope", unix, status=78).stderr
    port = "--listen=127.0.0.1:3128"
    assert "needs a rule" in idle.mdx(*install, "payroll", port, status=2).stderr
    script = ["--executable", "/usr/bin/ldd"]
    assert "is a script" in idle.mdx(*install, "payroll", port, *script, status=2).stderr
    assert not units(idle).exists()


def test_the_hub_as_a_service_takes_over_from_the_one_that_runs(installed: Machine) -> None:
    installed.mdx("service", "install", "hub")
    with installed.start("mdx", "run", "--quiet", "payroll", "--", "sh") as run:
        assert run.stdin is not None
        assert run.stdout is not None
        run.stdin.write("echo ready\n")
        run.stdin.flush()
        assert run.stdout.readline() == "ready\n"
        before = installed.json("status")["hub"]["pid"]
        with started(installed, "mdx-hub.service") as hub:
            assert installed.json("status")["hub"]["pid"] == hub.process.pid != before
            assert [known["pid"] for known in installed.json("ps")] == [run.pid]
            hub.hears("WATCHDOG=1")
            fetching = f"curl -sS -o /dev/null -w '%{{http_code}}\\n' {URL}\n"
            run.stdin.write(fetching)
            run.stdin.flush()
            assert run.stdout.readline() == "200\n"

            assert hub.stop() == 0
            hub.hears("STOPPING=1")
        said, _ = run.communicate(fetching, timeout=20)  # it outlives its hub
    assert said == "200\n"


def test_agent_and_hub_as_services(installed: Machine) -> None:
    path = install_agent(installed)
    installed.mdx("down")  # as after boot: nothing of the user runs
    installed.mdx("up")
    with (
        started(installed, "mdx-hub.service") as hub,
        started(installed, "mdx-agent-payroll.service") as agent,
    ):
        assert fetch(installed, path) == "200"
        agent.process.send_signal(signal.SIGHUP)
        agent.hears("RELOADING=1")
        agent.hears("READY=1")

        hub.process.kill()  # as by the watchdog; the manager starts it again within a second
        hub.process.wait(timeout=10)
        agent.hears("STATUS=waits for the hub")
        with started(installed, "mdx-hub.service") as next_hub:
            agent.hears("STATUS=serves")
            assert installed.json("status")["hub"]["pid"] == next_hub.process.pid
            assert fetch(installed, path) == "200"

            assert agent.stop() == 0
            assert not path.exists()
            assert next_hub.stop() == 0


def test_a_hub_that_cannot_start_ends_with_its_reason_in_the_log(idle: Machine) -> None:
    idle.mdx("service", "install", "hub")
    (idle.home / "audit").mkdir(mode=0o755)
    unit = Started(idle, "mdx-hub.service")
    try:
        assert unit.process.wait(timeout=20) == 78
    finally:
        unit.close()
        (idle.home / "audit").chmod(0o700)  # so that it can be ended
    log = (idle.home / "log" / "hub.log").read_text()
    assert "others could get in" in log.splitlines()[-1]


def test_a_killed_agent_service_leaves_nothing_and_starts_again(installed: Machine) -> None:
    path = install_agent(installed)
    with started(installed, "mdx-agent-payroll.service") as agent:
        (known,) = [run for run in installed.json("ps") if run["kind"] == "agent"]
        pidfd = os.pidfd_open(known["agent"])
        try:
            agent.stop(signal.SIGKILL)
            assert select.select([pidfd], [], [], 10)[0]  # what was forked for it ends with it
        finally:
            os.close(pidfd)
        with started(installed, "mdx-agent-payroll.service"):
            assert fetch(installed, path) == "200"
