"""A run has what its lease gives, as long as it gives it: whatever dies, restarts or is renewed."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.scenarios.conftest import Machine

PASSPHRASE = "correct horse battery staple"
HOST = "127.0.0.9"
APPS = """
[apps.plain]
network_access = "unrestricted"
routes = [{ direct = "127.0.0.9" }]

[apps.held]
key_lifetime = "6s"
network_access = "tunneled"
routes = [{ tunnel = "echo.corp.internal" }]

[apps.kept]
key_lifetime = "6s"
unattended = true
network_access = "unrestricted"
routes = [{ direct = "127.0.0.9" }]

[apps.halted]
key_lifetime = "5s"
on_lease_end = "stop"

[apps.brief]
key_lifetime = "3s"

[apps.never]

[apps.automatic]
unattended = true

[apps.fleeting]
key_lifetime = "1s"
unattended = true
"""
GATEWAY = """
[[hosts]]
name = "echo.corp.internal"
port = 7
dial = "127.0.0.9:{port}"

[[allow]]
app = "held"
to = ["echo.corp.internal"]
"""


@pytest.fixture(scope="module")
def listening() -> Iterator[socket.socket]:
    """A host that can be reached directly, and by the gateway as echo.corp.internal."""
    with socket.create_server((HOST, 0)) as listener:
        listener.settimeout(20)
        yield listener


@pytest.fixture(scope="module")
def leased(make_machine: Callable[[], Machine], listening: socket.socket) -> Machine:
    """A machine with the apps above; tests leave `payroll` unlocked and nothing running."""
    machine = make_machine()
    machine.up()
    add(machine.home / "mdx.toml", APPS)
    port = listening.getsockname()[1]
    add(machine.home / "gateway" / "gateway.toml", GATEWAY.format(port=port))
    machine.down()
    machine.mdx("up")
    return machine


def add(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


@contextmanager
def shell(machine: Machine, app: str) -> Iterator[subprocess.Popen[str]]:
    """A run whose command does what it is told line by line."""
    with machine.start("mdx", "run", "--quiet", app, "--", "sh") as run:
        tell(run, "echo ready\n", "ready\n")
        yield run
        if run.poll() is None:
            run.communicate("exit\n", timeout=20)


def tell(run: subprocess.Popen[str], line: str, answer: str) -> None:
    say(run, line)
    assert run.stdout is not None
    assert run.stdout.readline() == answer


def say(run: subprocess.Popen[str], line: str) -> None:
    assert run.stdin is not None
    run.stdin.write(line)
    run.stdin.flush()


def reach(host: str, port: int) -> str:
    """A line for a shell: open a connection through the run's proxy and keep it."""
    return f"exec ncat --proxy-type http --proxy ${{http_proxy#http://}} {host} {port}\n"


def knock(port: int) -> str:
    """A line for a shell: ask for a connection; what the agent says is printed."""
    return f"curl -s -m 20 -p -o /dev/null -w '%{{http_connect}}\\n' http://{HOST}:{port}/\n"


def kill(pid: int) -> None:
    """SIGKILL, and wait until it is gone."""
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert select.select([pidfd], [], [], 10)[0]
    finally:
        os.close(pidfd)


def hub(machine: Machine) -> int:
    """The pid of the hub; one is started if there is none."""
    return int(machine.json("status")["hub"]["pid"])


def facts(machine: Machine, run: subprocess.Popen[str]) -> dict[str, Any]:
    return next(known for known in machine.json("ps") if known["pid"] == run.pid)


def last_refusal(machine: Machine, run: str) -> dict[str, Any]:
    """Of that run's agent."""
    shown = machine.records("flow.refused")
    fields: dict[str, Any] = [r for r in shown if r["writer"] == f"agent:{run}"][-1]["fields"]
    return fields


def granted(machine: Machine, app: str) -> int:
    return sum(record["fields"]["app"] == app for record in machine.records("lease.granted"))


def lives(connection: socket.socket, run: subprocess.Popen[str], text: str) -> None:
    """A line goes there and back again."""
    say(run, f"{text}\n")
    connection.settimeout(20)
    assert connection.recv(100) == f"{text}\n".encode()
    connection.sendall(f"{text}!\n".encode())
    assert run.stdout is not None
    assert run.stdout.readline() == f"{text}!\n"


def lives_for(connection: socket.socket, seconds: float) -> None:
    """Neither ended nor reset meanwhile."""
    connection.settimeout(seconds)
    with pytest.raises(TimeoutError):
        connection.recv(1)


def is_cut(connection: socket.socket) -> None:
    """Within a while."""
    connection.settimeout(20)
    try:
        assert connection.recv(1) == b""
    except ConnectionResetError:
        return


# Agents and hubs that die ---------------------------------------------------------------------


def test_a_replaced_agent_obeys_lock_and_unlock(leased: Machine, listening: socket.socket) -> None:
    ask = knock(listening.getsockname()[1])
    leased.mdx("unlock", "plain")
    before = hub(leased)
    with shell(leased, "plain") as run:
        known = facts(leased, run)
        kill(known["agent"])
        say(run, ask)
        listening.accept()[0].close()
        assert run.stdout is not None
        assert run.stdout.readline() == "200\n"

        leased.mdx("lock", "plain")
        tell(run, ask, "403\n")
        assert last_refusal(leased, known["run"])["rule"].startswith("plain: locked")

        leased.mdx("unlock", "plain")
        say(run, ask)
        listening.accept()[0].close()
        assert run.stdout.readline() == "200\n"
    assert hub(leased) == before


def test_the_end_of_a_lease_of_a_replaced_agent_does_not_end_the_hub(leased: Machine) -> None:
    before = hub(leased)
    leased.mdx("unlock", "brief")
    with shell(leased, "brief") as run:
        known = facts(leased, run)
        kill(known["agent"])
        ended = leased.records("lease.ended")
        leased.until(lambda: leased.records("lease.ended") != ended)
        tell(run, knock(9), "403\n")
        assert last_refusal(leased, known["run"])["code"] == "LEASE_ENDED"
    assert hub(leased) == before


def test_a_replaced_agent_asks_before_it_serves(leased: Machine, listening: socket.socket) -> None:
    """What the run was started with is over, and a connection waits already."""
    leased.mdx("unlock", "plain")
    with shell(leased, "plain") as run:
        known = facts(leased, run)
        os.kill(known["agent"], signal.SIGSTOP)
        leased.mdx("lock", "plain")
        say(run, knock(listening.getsockname()[1]))
        kill(known["agent"])

        assert run.stdout is not None
        assert run.stdout.readline() == "403\n"
    refused = last_refusal(leased, known["run"])
    assert (refused["code"], refused["rule"][:13]) == ("LEASE_ENDED", "plain: locked")
    listening.setblocking(False)
    with pytest.raises(BlockingIOError):
        listening.accept()
    listening.settimeout(20)


@pytest.mark.parametrize("restarted", [False, True])
def test_stop_at_its_end_belongs_to_the_run(leased: Machine, restarted: bool) -> None:
    """Not to whoever asked last with which configuration, nor to one hub's memory."""
    other = leased.home / "other.toml"
    other.write_text('[apps.halted]\nkey_lifetime = "5s"\non_lease_end = "cut"\n')
    other.chmod(0o600)
    leased.mdx("unlock", "halted")
    with leased.start("mdx", "run", "--quiet", "halted", "--", "sleep", "60") as run:
        leased.until(lambda: any(known["pid"] == run.pid for known in leased.json("ps")))
        if restarted:
            kill(hub(leased))
        leased.mdx("vault", "list", "halted", "--config", str(other))

        assert run.wait(timeout=20) == -signal.SIGTERM


@pytest.mark.parametrize("ending", [["logout"], ["lock", "plain"]])
def test_behind_a_passphrase_a_run_outlives_the_hub_until_it_is_locked(
    passphrase_machine: Machine, listening: socket.socket, ending: list[str]
) -> None:
    """The next hub cannot open the vault, so it knows no lease. It can cut all the same, and ends
    the lease in the vault as soon as somebody opens that."""
    machine, port = passphrase_machine, listening.getsockname()[1]
    add(machine.home / "mdx.toml", APPS)
    passphrase = ("--passphrase-file", "/dev/stdin")
    machine.mdx("unlock", "plain", *passphrase, stdin=PASSPHRASE)
    with shell(machine, "plain") as run, shell(machine, "plain") as other:
        killed = hub(machine)
        kill(killed)
        assert hub(machine) != killed
        say(run, reach(HOST, port))
        with listening.accept()[0] as connection:
            lives_for(connection, 2)  # the agent has found the next hub meanwhile
            lives(connection, run, "still here")

            machine.mdx(*ending)

            is_cut(connection)
            tell(other, knock(port), "403\n")
    machine.mdx("unlock", "never", *passphrase, stdin=PASSPHRASE)
    machine.mdx("vault", "list", "never")
    assert "plain: locked" in machine.mdx("vault", "list", "plain", status=77).stderr


# Renewal ----------------------------------------------------------------------------------------


def test_unattended_renewal_comes_before_the_end(leased: Machine, listening: socket.socket) -> None:
    """No connection is cut for it."""
    leased.mdx("unlock", "kept")
    before = granted(leased, "kept")
    with shell(leased, "kept") as run:
        say(run, reach(HOST, listening.getsockname()[1]))
        with listening.accept()[0] as connection:
            lives(connection, run, "first")
            lives_for(connection, 10.5)
            lives(connection, run, "last")
            assert granted(leased, "kept") > before
            leased.mdx("lock", "kept")
            is_cut(connection)


def test_a_tunnelled_connection_does_not_notice_renewal_in_time(
    leased: Machine, listening: socket.socket
) -> None:
    """Neither the agent ends it, nor the gateway with the certificate that opened it."""
    leased.mdx("unlock", "held")
    with shell(leased, "held") as run:
        say(run, reach("echo.corp.internal", 7))
        with listening.accept()[0] as connection:
            for text in ("first", "second"):
                lives(connection, run, text)
                lives_for(connection, 2)
                leased.mdx("unlock", "held")
            lives_for(connection, 3.5)
            lives(connection, run, "third")

            is_cut(connection)  # nobody renews it any more


# Lock ---------------------------------------------------------------------------------------------


def test_lock_needs_no_configuration(leased: Machine) -> None:
    broken = leased.home / "broken.toml"
    broken.write_text("[apps.payroll\n")
    broken.chmod(0o600)

    leased.mdx("lock", "payroll", "--config", str(broken))

    leased.mdx("vault", "list", "payroll", status=77)
    leased.mdx("unlock", "payroll")


def test_lock_needs_no_audit(own_machine: Machine) -> None:
    """It takes a right away, so nothing may stand in its way."""
    chain = own_machine.home / "audit" / "hub.jsonl"
    away = chain.with_suffix(".away")
    with shell(own_machine, "payroll") as run:
        known = facts(own_machine, run)
        chain.rename(away)  # the hub takes no other file for it
        own_machine.mdx("unlock", "payroll", status=1)

        own_machine.mdx("lock", "payroll")

        tell(run, "curl -s -o . -w '%{http_connect}\\n' https://intranet.corp.internal/\n", "403\n")
        away.rename(chain)
        assert last_refusal(own_machine, known["run"])["code"] == "LEASE_ENDED"
    own_machine.mdx("vault", "list", "payroll", status=77)


@pytest.mark.parametrize("app", ["never", "automatic"])
def test_an_app_that_was_never_unlocked_can_be_locked(leased: Machine, app: str) -> None:
    leased.mdx("lock", app)

    assert f"{app}: locked" in leased.mdx("run", app, "--", "true", status=125).stderr


def test_an_expired_unattended_app_can_be_locked(leased: Machine) -> None:
    leased.mdx("unlock", "fleeting")
    ended = leased.records("lease.ended")
    leased.until(lambda: leased.records("lease.ended") != ended)

    leased.mdx("lock", "fleeting")

    leased.mdx("vault", "list", "fleeting", status=77)
    assert "fleeting: locked" in leased.mdx("run", "fleeting", "--", "true", status=125).stderr


def test_a_mistyped_app_is_not_locked_in_silence(leased: Machine) -> None:
    assert "payrol" in leased.mdx("lock", "payrol", status=78).stderr
    leased.mdx("vault", "list", "payroll")


def test_mdx_up_unlocks_nothing_that_its_user_locked(leased: Machine) -> None:
    leased.mdx("lock", "payroll")

    leased.mdx("up")

    leased.mdx("vault", "list", "payroll", status=77)
    leased.mdx("unlock", "payroll")


def test_after_logout_the_hub_holds_no_device_key(make_machine: Callable[[], Machine]) -> None:
    """Behind a passphrase it cannot get it back by itself, so it shows it to no gateway."""
    machine = make_machine()
    init = ["vault", "init", "--keeper", "passphrase", "--passphrase-file", "/dev/stdin"]
    machine.mdx(*init, stdin=PASSPHRASE)
    machine.mdx("up", "--gateway-port=0", "--control-port=0", "--site-port=0")
    assert machine.json("status")["device"]["gateway"]["version"] == "TLSv1.3"

    machine.mdx("logout")

    assert list(machine.json("status")["device"]) == ["error"]
    machine.mdx("unlock", "payroll", "--passphrase-file", "/dev/stdin", stdin=PASSPHRASE)
    assert machine.json("status")["device"]["gateway"]["version"] == "TLSv1.3"
