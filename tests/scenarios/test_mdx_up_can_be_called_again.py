"""`mdx up` twice, after `mdx down`, beside another, by ten at once, and where it cannot work."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.scenarios.conftest import Machine

DAEMONS = ("control/control", "gateway/gateway", "site/site", "run/hub")
ANY_PORTS = ("--gateway-port=0", "--control-port=0", "--site-port=0")
AT_ONCE = 10


def pids(machine: Machine) -> dict[str, int]:
    """The process of each daemon, as its lock names it."""
    return {name: int((machine.home / f"{name}.lock").read_text()) for name in DAEMONS}


@pytest.fixture(scope="module")
def other(make_machine: Callable[[], Machine]) -> Machine:
    """A second machine, with a state folder of its own."""
    machine = make_machine()
    machine.up()
    return machine


def device(machine: Machine) -> str:
    return str(machine.json("status")["device"]["device"])


def mdx_alone(
    machine: Machine, home: Path, *arguments: str, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """`mdx ARGUMENTS` with no variable but two."""
    variables = (f"PATH={machine.environment['PATH']}", f"MDX_HOME={home}")
    return machine.run("env", "-i", *variables, "mdx", *arguments, stdin=stdin)


def one_line_and_a_hint(done: subprocess.CompletedProcess[str]) -> tuple[str, str]:
    line, hint = done.stderr.splitlines()
    assert line.startswith("mdx: ")
    assert hint.startswith("     ")
    return line, hint


def test_twice_changes_nothing(machine: Machine) -> None:
    before = pids(machine), machine.ports, device(machine)

    said = machine.json("up")

    assert (pids(machine), machine.ports, device(machine)) == before
    assert said["config"] == str(machine.home / "mdx.toml")
    assert all(said["parts"][part].startswith("runs (") for part in ("control", "site", "gateway"))
    assert said["parts"]["device"] == f"{before[2]} of home"


def test_another_port_than_the_first_time_is_refused(machine: Machine) -> None:
    port = machine.ports["gateway"]

    done = machine.mdx("up", f"--gateway-port={port % 60000 + 1024}", status=78)

    line, hint = one_line_and_a_hint(done)
    assert f"the gateway was set up on port {port}" in line
    assert "MDX_HOME" in hint
    machine.mdx("up", f"--gateway-port={port}")


def test_down_and_up_keep_device_ports_and_secrets(other: Machine, site: str) -> None:
    other.mdx("vault", "put", "payroll", "kept", stdin="still here")
    before = other.ports, device(other)
    old = pids(other)

    other.down()
    said = other.mdx("down").stdout
    assert said.count("was not running") == len(DAEMONS)
    other.mdx("up")

    assert (other.ports, device(other)) == before
    assert set(pids(other).values()).isdisjoint(old.values())
    assert other.mdx("vault", "get", "payroll", "kept").stdout == "still here"
    other.mdx("run", "payroll", "--", "curl", "-sS", f"https://{site}/")


@pytest.mark.parametrize("part", ["control", "site"])
def test_a_taken_port_is_one_line_and_a_way_out(
    make_machine: Callable[[], Machine], part: str
) -> None:
    up_with_a_taken_port(make_machine(), part)


def test_a_port_that_is_free_again_will_do(make_machine: Callable[[], Machine], site: str) -> None:
    machine = make_machine()
    port, others = up_with_a_taken_port(machine, "gateway")

    machine.mdx("up", f"--gateway-port={port}", *others)

    assert machine.ports["gateway"] == port
    machine.mdx("run", "payroll", "--", "curl", "-sS", f"https://{site}/")


def up_with_a_taken_port(machine: Machine, part: str) -> tuple[int, list[str]]:
    """The port that was taken, and the options for the others."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        others = [option for option in ANY_PORTS if part not in option]

        done = machine.mdx("up", f"--{part}-port={port}", *others, status=1)

    line, hint = one_line_and_a_hint(done)
    assert line.startswith(f"mdx: {part}: ")
    assert str(port) in line
    assert "is taken" in line
    assert f"--{part}-port 0" in hint
    return port, others


def test_a_second_folder_lives_side_by_side(machine: Machine, other: Machine, site: str) -> None:
    assert set(other.ports.values()).isdisjoint(machine.ports.values())
    assert device(other) != device(machine)
    other.mdx("vault", "put", "payroll", "mine", stdin="x")
    assert "mine" not in machine.mdx("vault", "list", "payroll").stdout
    for each in (machine, other):
        each.mdx("run", "payroll", "--", "curl", "-sS", f"https://{site}/")
    before = pids(machine)
    other.down()
    assert pids(machine) == before
    other.mdx("up")


def test_ten_at_once_start_one_hub(make_machine: Callable[[], Machine]) -> None:
    machine = make_machine()
    asking = [machine.start("mdx", "ps", "--json") for _ in range(AT_ONCE)]
    for one in asking:
        said, errors = one.communicate(timeout=60)
        assert (one.returncode, said, errors) == (0, "[]\n", "")

    (started,) = machine.records("hub.started")
    assert started["fields"]["pid"] == machine.json("status")["hub"]["pid"]


def test_without_home_desktop_or_session_bus(
    make_machine: Callable[[], Machine], site: str
) -> None:
    machine = make_machine()

    def mdx(*arguments: str, stdin: str = "") -> str:
        done = mdx_alone(machine, machine.home, *arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert json.loads(mdx("up", "--json", *ANY_PORTS))["config"] == f"{machine.home}/mdx.toml"
    mdx("vault", "put", "payroll", "x", stdin="hunter2")
    assert mdx("vault", "get", "payroll", "x") == "hunter2"
    url = f"https://{site}/payroll.json"
    assert "salaries" in mdx("run", "--quiet", "payroll", "--", "curl", "-sS", url)


@pytest.mark.parametrize("command", ["up", "ps"])
def test_a_folder_that_is_open_to_others_is_refused(
    make_machine: Callable[[], Machine], command: str
) -> None:
    machine = make_machine()
    machine.home.chmod(0o755)

    line, hint = one_line_and_a_hint(machine.mdx(command, status=78))

    assert line == f"mdx: {machine.home} has mode 0755; others could get in"
    assert hint.strip() == f"chmod 700 {machine.home}"
    assert list(machine.home.iterdir()) == []


def test_a_folder_that_is_a_link_is_refused(make_machine: Callable[[], Machine]) -> None:
    machine = make_machine()
    link = machine.home.parent / "link"
    link.symlink_to(machine.home)

    done = mdx_alone(machine, link, "up", *ANY_PORTS)

    assert done.returncode == 78
    assert "links are not followed" in done.stderr
    assert list(machine.home.iterdir()) == []


def test_a_folder_too_deep_for_a_socket_is_refused(make_machine: Callable[[], Machine]) -> None:
    machine = make_machine()
    deep = machine.home / ("x" * 100)

    done = mdx_alone(machine, deep, "up", *ANY_PORTS)
    run = mdx_alone(machine, deep, "run", "payroll", "--", "true")

    assert done.returncode == 78
    line, hint = one_line_and_a_hint(done)
    assert "the kernel allows 107" in line
    assert "shorter path" in hint
    assert run.returncode == 125
    assert "shorter path" in run.stderr
    assert not deep.exists()
