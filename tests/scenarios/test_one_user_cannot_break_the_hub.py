"""What one program of a user does to hub, agents or control leaves them serving all others."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mdx.errors import HubRefused
from mdx.hub.wire import call, connect

if TYPE_CHECKING:
    from tests.scenarios.conftest import Machine

NOBODY = 65534
FETCH = "curl -sS -m 20 -o /dev/null -w '%{http_code}\\n' https://intranet.corp.internal/\n"
PLANTED = "-----BEGIN CERTIFICATE-----\ncGxhbnRlZA==\n-----END CERTIFICATE-----\n"
BINDER = """
import socket, sys
for host in ("127.0.0.1", "0.0.0.0"):
    for option in (None, socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        with socket.socket() as taking:
            if option is not None:
                taking.setsockopt(socket.SOL_SOCKET, option, 1)
            try:
                taking.bind((host, int(sys.argv[1])))
            except OSError:
                continue
            print("bound", host, option)
"""


@contextmanager
def shell(machine: Machine, app: str = "payroll") -> Iterator[subprocess.Popen[str]]:
    """A run whose command does what it is told line by line."""
    with machine.start("mdx", "run", "--quiet", app, "--", "sh") as run:
        tell(run, "echo ready\n", "ready\n")
        yield run
        if run.poll() is None:
            run.communicate("exit\n", timeout=20)


def tell(run: subprocess.Popen[str], line: str, answer: str | None = None) -> str:
    """What the command answers to that line."""
    assert run.stdin is not None
    assert run.stdout is not None
    run.stdin.write(line)
    run.stdin.flush()
    answered = run.stdout.readline()
    assert answer in (None, answered)
    return answered.strip()


def proxy_of(run: subprocess.Popen[str]) -> tuple[str, int]:
    host, _, port = tell(run, "echo $http_proxy\n").removeprefix("http://").rpartition(":")
    return host, int(port)


def kill(pid: int) -> None:
    """SIGKILL, and wait until it is gone."""
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert select.select([pidfd], [], [], 10)[0]
    finally:
        os.close(pidfd)


def hub(machine: Machine) -> int:
    return int(machine.json("status")["hub"]["pid"])


def facts(machine: Machine, run: subprocess.Popen[str]) -> dict[str, Any]:
    return next(known for known in machine.json("ps") if known["pid"] == run.pid)


def hub_socket(machine: Machine) -> Path:
    return machine.home / "run" / "hub.sock"


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """What a command said that failed: one line, perhaps a hint, and never a traceback."""
    line, *hint = done.stderr.splitlines()
    assert line.startswith("mdx: ")
    assert all(text.startswith("     ") for text in hint)
    assert len(hint) <= 1
    return line


# The hub ----------------------------------------------------------------------------------------


@pytest.mark.root
def test_descriptors_of_bad_frames_do_not_pile_up(machine: Machine) -> None:
    """Root, because the hub's memory, and so what it has open, is hidden from its own user."""
    open_there = Path(f"/proc/{hub(machine)}/fd")
    machine.mdx("ps")
    before = len(list(open_there.iterdir()))
    for frame in (b"\xff\xff\xff\xff", b"\0\0\0\x03{{{", b"\0\0\0\x02[]", b"\0\0\0\x09half", b"\0"):
        for _ in range(10):
            with connect(hub_socket(machine)) as bad:
                socket.send_fds(bad, [frame], [0, 1, 2])
                bad.shutdown(socket.SHUT_WR)
                try:
                    assert bad.recv(1) == b""
                except ConnectionResetError:
                    continue
    machine.mdx("ps")

    assert len(list(open_there.iterdir())) <= before


def test_a_ca_file_that_never_ends_is_one_error(machine: Machine) -> None:
    """And others are answered before it and after it."""
    os.mkfifo(machine.home / "pipe.pem", 0o600)
    named = {"pipe": f"{machine.home}/pipe.pem", "zero": "/dev/zero", "folder": str(machine.home)}
    config = machine.home / "odd.toml"
    config.write_text("".join(f'[apps.{app}]\nca_file = "{at}"\n' for app, at in named.items()))
    config.chmod(0o600)
    pid = hub(machine)
    machine.mdx("unlock", "--config", str(config))
    for app, at in named.items():
        run = ["mdx", "run", "--config", str(config), app, "--", "true"]
        with machine.start(*run) as odd:
            machine.mdx("ps")
            _, said = odd.communicate(timeout=20)
        assert (odd.returncode, said.count("\n")) == (125, 1)
        assert said.startswith("mdx: ")
        assert at in said
    assert hub(machine) == pid
    (machine.home / "pipe.pem").unlink()


def test_whoever_starts_the_hub_plants_no_authority(make_machine: Callable[[], Machine]) -> None:
    machine = make_machine()
    planted = machine.home / "planted.pem"
    planted.write_text(PLANTED)
    (machine.home / "ca.pem").write_text(PLANTED.replace("cGxh", "b3du"))
    config = machine.home / "mdx.toml"
    config.write_text('[apps.payroll]\nca_file = "ca.pem"\n')
    config.chmod(0o600)
    starting = {"SSL_CERT_FILE": str(planted), "SSL_CERT_DIR": str(machine.home)}
    done = machine.run("mdx", "vault", "init", "--keeper", "keyfile", environment=starting)
    assert done.returncode == 0, done.stderr
    machine.mdx("login")

    done = machine.mdx("run", "--quiet", "payroll", "--", "sh", "-c", 'cat "$CURL_CA_BUNDLE"')

    assert "b3du" in done.stdout
    assert PLANTED not in done.stdout


@pytest.mark.parametrize(
    "asked",
    [
        {"op": "agent.lease"},
        {"op": "agent.ticket", "key_hash": "00" * 32},
        {"op": "agent.certificate", "csr": "x"},
        {"op": "agent.attach"},
    ],
)
def test_nobody_else_is_the_agent_of_a_run(machine: Machine, asked: dict[str, str]) -> None:
    with shell(machine) as run:
        known = facts(machine, run)
        with (
            connect(hub_socket(machine)) as asking,
            pytest.raises(HubRefused, match="is not the agent of run"),
        ):
            call(asking, {**asked, "run": known["run"]}, [0] if "attach" in asked["op"] else ())
        # Nor is the run's own command.
        program = (
            "import sys; from pathlib import Path; from mdx.hub.wire import call, connect;"
            f"call(connect(Path({str(hub_socket(machine))!r})),"
            f" {{**{asked!r}, 'run': {known['run']!r}}})"
        )
        tell(run, f'{sys.executable} -c "{program}" 2>&1 | grep -c "is not the agent"\n', "1\n")
        tell(run, FETCH, "200\n")


def test_hub_agents_gateway_and_control_leave_no_core(machine: Machine) -> None:
    with shell(machine) as run:
        status = machine.json("status")["hub"]
        pids = {
            "hub": status["pid"],
            "zygote": status["zygote"],
            "agent": facts(machine, run)["agent"],
        }
        for part in ("gateway", "control", "site"):
            pids[part] = int((machine.home / part / f"{part}.lock").read_text())
        for part, pid in pids.items():
            limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
            (core,) = (line.split() for line in limits if line.startswith("Max core file size"))
            assert core[4:6] == ["0", "0"], part
            # Not dumpable: the kernel gives its files in /proc to root.
            assert os.stat(f"/proc/{pid}/mem").st_uid == 0, part


# Agents -----------------------------------------------------------------------------------------


def test_the_port_of_a_run_without_an_agent_stays_its_own(own_machine: Machine) -> None:
    with shell(own_machine) as run:
        address = proxy_of(run)
        for _ in range(6):
            kill(facts(own_machine, run)["agent"])
            tell(run, FETCH)
        own_machine.until(lambda: facts(own_machine, run)["agent"] == 0)

        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=5)
        assert bound_by_others(address[1], user=None) == ""
        assert tell(run, FETCH) == "000"


@pytest.mark.root
def test_nor_does_another_user_get_the_port(own_machine: Machine) -> None:
    with shell(own_machine) as run:
        address = proxy_of(run)
        assert bound_by_others(address[1], user=NOBODY) == ""
        for _ in range(6):
            kill(facts(own_machine, run)["agent"])
            tell(run, FETCH)
        own_machine.until(lambda: facts(own_machine, run)["agent"] == 0)

        assert bound_by_others(address[1], user=NOBODY) == ""


def bound_by_others(port: int, *, user: int | None) -> str:
    """In which ways another process could take the port."""
    done = subprocess.run(
        ["/usr/bin/python3", "-c", BINDER, str(port)],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
        user=user,
    )
    return done.stdout


def test_strangers_do_not_choose_how_fast_the_audit_grows(machine: Machine) -> None:
    with shell(machine) as run:
        address, run_id = proxy_of(run), facts(machine, run)["run"]
        for _ in range(300):
            with socket.create_connection(address, timeout=20) as stranger:
                try:
                    stranger.sendall(b"\x05\x01\x00")
                    assert stranger.recv(2) == b""
                except (ConnectionResetError, BrokenPipeError):
                    continue
        tell(run, FETCH, "200\n")
    refused = [
        record
        for record in machine.records("connection.refused")
        if record["writer"] == f"agent:{run_id}"
    ]
    assert 1 <= len(refused) <= 25


def test_nor_do_those_who_ask_control_without_a_certificate(machine: Machine) -> None:
    before = len(machine.records("request.refused"))
    url = f"https://127.0.0.1:{machine.ports['control']}/v1/status?[1-500]"
    done = machine.run("curl", "-sSk", "-o", "/dev/null", "-w", "%{http_code}\n", url)
    assert len(done.stdout.splitlines()) == 500
    assert set(done.stdout.splitlines()) <= {"403", "404"}

    assert 1 <= len(machine.records("request.refused")) - before <= 25


# mdx up and down --------------------------------------------------------------------------------


def test_down_stops_runs_that_end_each_other(own_machine: Machine) -> None:
    pipe = "mdx run --quiet payroll -- yes | mdx run --quiet payroll -- cat > /dev/null"
    with own_machine.start("sh", "-c", pipe) as piped:
        own_machine.until(lambda: len(own_machine.json("ps")) == 2)
        pids = [known["pid"] for known in own_machine.json("ps")]

        own_machine.mdx("down")

        piped.wait(timeout=20)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_down_stops_the_runs_of_a_dead_hub(own_machine: Machine) -> None:
    with own_machine.start("mdx", "run", "--quiet", "payroll", "--", "sleep", "60") as run:
        own_machine.until(lambda: len(own_machine.json("ps")) == 1)
        kill(hub(own_machine))

        own_machine.mdx("down")

        assert run.wait(timeout=20) == -signal.SIGTERM


def test_up_twice_at_once(make_machine: Callable[[], Machine], site: str) -> None:
    machine = make_machine()
    ports = ("--gateway-port=0", "--control-port=0", "--site-port=0")
    both = [machine.start("mdx", "up", *ports) for _ in range(2)]
    for one in both:
        _, said = one.communicate(timeout=60)
        assert (one.returncode, said) == (0, "")

    assert len(machine.records("device.enrolled")) == 2  # by the hub, and by control
    machine.mdx("run", "payroll", "--", "curl", "-sS", f"https://{site}/")


def test_a_state_folder_that_cannot_be_is_one_line(machine: Machine) -> None:
    nowhere = {"MDX_HOME": "/dev/null/x"}
    expected = {("run", "payroll", "--", "true"): 125, ("ps",): 78, ("up",): 78, ("status",): 78}
    for arguments, status in expected.items():
        done = machine.run("mdx", *arguments, environment=nowhere)
        assert done.returncode == status, (arguments, done.stderr)
        assert "/dev/null/x" in one_line(done)
