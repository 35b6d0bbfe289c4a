"""`mdx agent APP --listen ADDRESS`: who is served, who is not, and what it lives through."""

from __future__ import annotations

import json
import os
import secrets
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.scenarios.conftest import Machine

NOBODY = 65534
URL = "https://intranet.corp.internal/"
CURL = shutil.which("curl") or "/usr/bin/curl"


@dataclass
class Agent:
    """One that runs; `facts` are what it printed when it served."""

    process: subprocess.Popen[str]
    facts: dict[str, Any]

    @property
    def proxy(self) -> str:
        """The address as curl takes it."""
        listen = str(self.facts["listen"])
        if listen.startswith("unix:"):
            return f"socks5h://localhost{listen.removeprefix('unix:')}"
        return f"http://{listen}"

    def says(self) -> str:
        """Its next line for people."""
        assert self.process.stderr is not None
        return self.process.stderr.readline().strip()


@contextmanager
def agent(machine: Machine, *options: str, app: str = "payroll") -> Iterator[Agent]:
    with machine.start("mdx", "agent", app, "--json", *options) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        assert line, process.stderr.read()
        try:
            yield Agent(process, json.loads(line))
        finally:
            process.terminate()
            process.communicate(timeout=20)


@contextmanager
def unix_agent(machine: Machine, app: str = "payroll") -> Iterator[Agent]:
    path = machine.home / f"{secrets.token_hex(4)}.sock"
    with agent(machine, f"--listen=unix:{path}", app=app) as serving:
        yield serving


def fetch(
    machine: Machine, proxy: str, *, program: str | Path = CURL, user: int | None = None
) -> subprocess.CompletedProcess[str]:
    """What a program gets that nobody started by `mdx run`."""
    return subprocess.run(
        [program, "-sS", "-k", "-m", "20", "-w", "%{http_code}", "-o/dev/null", "-x", proxy, URL],
        env=machine.environment,
        capture_output=True,
        text=True,
        cwd="/",
        user=user,
    )


def served(machine: Machine, serving: Agent) -> bool:
    return fetch(machine, serving.proxy).stdout == "200"


def refused_reason(machine: Machine, run: str) -> str:
    shown = [r for r in machine.records("connection.refused") if r["writer"] == f"agent:{run}"]
    return str(shown[-1]["fields"]["reason"])


def kill(pid: int) -> None:
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert select.select([pidfd], [], [], 10)[0]
    finally:
        os.close(pidfd)


def facts(machine: Machine, serving: Agent) -> dict[str, Any]:
    run = serving.facts["run"]
    return next(known for known in machine.json("ps") if known["run"] == run)


# Who is served --------------------------------------------------------------------------------


def test_a_unix_socket_serves_its_own_user(machine: Machine) -> None:
    with unix_agent(machine) as serving:
        path = Path(serving.facts["listen"].removeprefix("unix:"))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert served(machine, serving)

    ended = [r["fields"]["run"] for r in machine.records("run.ended")]
    assert serving.process.returncode == 0
    assert not path.exists()
    assert serving.facts["run"] in ended


@pytest.mark.root
def test_another_user_is_not_served_even_where_the_mode_lets_it_in(machine: Machine) -> None:
    folder = Path(f"/tmp/mdx-open-{secrets.token_hex(4)}")
    folder.mkdir(mode=0o755)
    try:
        with agent(machine, f"--listen=unix:{folder}/s") as serving:
            assert fetch(machine, serving.proxy, user=NOBODY).returncode != 0
            (folder / "s").chmod(0o666)

            stolen = fetch(machine, serving.proxy, user=NOBODY)

            assert (stolen.returncode != 0, stolen.stdout) == (True, "000")
            assert refused_reason(machine, serving.facts["run"]) == f"its user is uid {NOBODY}"
            assert served(machine, serving)
    finally:
        shutil.rmtree(folder)


def test_a_port_serves_the_sockets_of_one_user(machine: Machine) -> None:
    with agent(machine, "--listen=127.0.0.1:0", f"--uid={os.getuid()}") as serving:
        assert served(machine, serving)
    with agent(machine, "--listen=127.0.0.1:0", "--uid", str(NOBODY - 1)) as serving:
        assert not served(machine, serving)
        assert refused_reason(machine, serving.facts["run"]) == f"its user is uid {os.getuid()}"


@pytest.mark.root
def test_a_port_for_another_user_serves_that_one_only(machine: Machine) -> None:
    with agent(machine, "--listen=127.0.0.1:0", "--uid=nobody") as serving:
        assert fetch(machine, serving.proxy, user=NOBODY).stdout == "200"
        assert not served(machine, serving)


def test_a_port_serves_one_program_only(machine: Machine, tmp_path: Path) -> None:
    copy = tmp_path / "curl"
    shutil.copy(CURL, copy)
    with agent(machine, "--listen=127.0.0.1:0", "--executable", str(copy)) as serving:
        assert fetch(machine, serving.proxy, program=copy).stdout == "200"

        assert fetch(machine, serving.proxy).stdout == "000"
        assert refused_reason(machine, serving.facts["run"]) == "its program is another"

        copy.unlink()
        shutil.copy(CURL, copy)  # an upgrade, or somebody's own program in its place
        assert fetch(machine, serving.proxy, program=copy).stdout == "000"
        serving.process.send_signal(signal.SIGHUP)
        assert "reloaded" in serving.says()
        assert fetch(machine, serving.proxy, program=copy).stdout == "200"


@pytest.mark.parametrize(
    ("options", "status", "why"),
    [
        (["--listen=127.0.0.1:0"], 2, "needs a rule: without one everybody on this machine"),
        (["--listen=127.0.0.1:0", "--uid=0", f"--executable={CURL}"], 2, "not both"),
        (["--listen=0.0.0.0:3128", "--uid=0"], 2, "only 127.0.0.1 is served"),
        (["--listen=unix:/tmp/x.sock", "--uid=0"], 2, "a Unix socket serves your user"),
        (["--listen=unix:/tmp/" + "x" * 200], 2, "the kernel allows 107"),
        (["--listen=unix:/nowhere/at/all/s"], 1, "No such file or directory"),
        ([], 2, "Missing option '--listen'"),
    ],
)
def test_there_is_never_an_open_port(
    machine: Machine, options: list[str], status: int, why: str
) -> None:
    done = machine.mdx("agent", "payroll", *options, status=status)
    assert why in done.stderr
    assert "Traceback" not in done.stderr


def test_an_app_that_is_not_there_or_demands_more(machine: Machine) -> None:
    listen = f"--listen=unix:{machine.home}/never.sock"
    assert "no app is named" in machine.mdx("agent", "nope", listen, status=78).stderr
    assert "level 2 is demanded" in machine.mdx("agent", "strict", listen, status=78).stderr
    assert not (machine.home / "never.sock").exists()


def test_an_address_is_served_once(machine: Machine) -> None:
    with unix_agent(machine) as serving:
        listen = serving.facts["listen"]
        second = machine.mdx("agent", "payroll", f"--listen={listen}", status=1)
        assert f"an agent serves {listen} already" in second.stderr
        assert served(machine, serving)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        taken = machine.mdx("agent", "payroll", f"--listen=127.0.0.1:{port}", "--uid=0", status=1)
    assert f"port {port} on 127.0.0.1 is taken" in taken.stderr


def test_the_policy_decides_for_them_as_for_a_run(machine: Machine) -> None:
    with unix_agent(machine, app="offline") as serving:
        assert not served(machine, serving)
    refused = [r for r in machine.records("flow.refused") if r["fields"]["app"] == "offline"]
    assert refused[-1]["fields"]["code"] == "BLOCKED_BY_RULE"


# What people see ------------------------------------------------------------------------------


def test_ps_shows_it_and_stop_ends_it(machine: Machine) -> None:
    with unix_agent(machine) as serving:
        shown = facts(machine, serving)
        assert shown["kind"] == "agent"
        assert shown["listen"] == serving.facts["listen"]
        assert shown["pid"] == serving.process.pid
        assert "agent at unix:" in machine.mdx("ps").stdout.replace("\n", " ")

        machine.mdx("stop", serving.facts["run"])

        assert serving.process.wait(timeout=10) == 0


def test_a_person_reads_one_line(machine: Machine) -> None:
    path = machine.home / "person.sock"
    with machine.start("mdx", "agent", "payroll", f"--listen=unix:{path}") as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 0
    assert line.startswith(f"mdx: payroll: serves unix:{path} for this user, run ")


# Leases ---------------------------------------------------------------------------------------


def test_a_lock_refuses_and_a_new_lease_serves_again_by_itself(machine: Machine) -> None:
    with unix_agent(machine) as serving:
        assert served(machine, serving)
        machine.mdx("lock", "payroll")
        assert serving.says().endswith(
            "connections are refused: payroll: locked; mdx unlock payroll"
        )
        assert not served(machine, serving)

        machine.mdx("unlock", "payroll")

        assert serving.says().endswith("unlocked; connections are served")
        assert served(machine, serving)
    assert machine.records("flow.refused")[-1]["fields"]["code"] == "LEASE_ENDED"


def test_it_starts_for_an_app_that_is_locked(machine: Machine) -> None:
    machine.mdx("lock", "payroll")
    with unix_agent(machine) as serving:
        assert serving.facts["locked"] == "payroll: locked"
        assert not served(machine, serving)
        machine.mdx("unlock", "payroll")
        assert served(machine, serving)


def test_it_starts_before_the_vault_is_open(passphrase_machine: Machine) -> None:
    """As at boot: nobody has typed the passphrase yet."""
    with unix_agent(passphrase_machine) as serving:
        assert "locked" in serving.facts["locked"]
        assert "connections are refused" in serving.says()
        typed = ["--passphrase-file", "/dev/stdin"]
        passphrase_machine.mdx("unlock", *typed, stdin="correct horse battery staple")
        assert "connections are served" in serving.says()


def test_unattended_leases_go_on_and_on(own_machine: Machine) -> None:
    config = own_machine.home / "mdx.toml"
    lines = [line for line in config.read_text().splitlines() if "key_lifetime" not in line]
    lines.insert(lines.index("[apps.payroll]") + 1, 'key_lifetime = "1s"\nunattended = true')
    config.write_text("\n".join(lines) + "\n")
    own_machine.mdx("unlock", "payroll")

    def renewals() -> int:
        granted = own_machine.records("lease.granted")
        return sum(record["fields"]["app"] == "payroll" for record in granted)

    begun = renewals()
    with unix_agent(own_machine) as serving:
        own_machine.until(lambda: served(own_machine, serving) and renewals() > begun + 2)
        kill(own_machine.json("status")["hub"]["pid"])  # and over a time without a hub
        before = renewals()
        own_machine.until(lambda: renewals() > before + 1)
        own_machine.until(lambda: served(own_machine, serving))


def test_it_outlives_a_lease_whose_end_would_stop_a_command(machine: Machine) -> None:
    machine.mdx("unlock", "stopped")
    ended = len(machine.records("lease.ended"))
    with unix_agent(machine, app="stopped") as serving:
        machine.until(
            lambda: any(
                record["fields"]["app"] == "stopped"
                for record in machine.records("lease.ended")[ended:]
            )
        )
        assert facts(machine, serving)["agent"]
        assert serving.process.poll() is None


# What is killed -------------------------------------------------------------------------------


def test_a_killed_hub_comes_back_by_itself(machine: Machine) -> None:
    with unix_agent(machine) as serving:
        assert served(machine, serving)
        kill(machine.json("status")["hub"]["pid"])

        assert served(machine, serving)  # the agent has its session
        assert "the hub is gone" in serving.says()
        assert "a hub answers again" in serving.says()

        machine.mdx("lock", "payroll")  # which the new hub must be able to tell it
        assert "connections are refused" in serving.says()
        machine.until(lambda: not served(machine, serving))
        machine.mdx("unlock", "payroll")
        assert "connections are served" in serving.says()


def test_hub_and_agent_killed_together(machine: Machine) -> None:
    """Nobody but the foreground has the listener then, and it brings it."""
    with unix_agent(machine) as serving:
        status = machine.json("status")
        before = facts(machine, serving)["agent"]
        kill(status["hub"]["zygote"])
        kill(status["hub"]["pid"])
        kill(before)

        machine.until(lambda: facts(machine, serving)["agent"] not in (0, before))
        assert served(machine, serving)


def test_a_killed_agent_is_replaced_until_it_dies_too_often(machine: Machine) -> None:
    with unix_agent(machine) as serving:
        for _ in range(5):
            kill(facts(machine, serving)["agent"])
            assert served(machine, serving)
        kill(facts(machine, serving)["agent"])

        _, said = serving.process.communicate(timeout=20)

        assert serving.process.returncode == 1  # so that a service manager starts it anew
        assert "the agent died too often" in said


def test_killed_itself_it_leaves_nothing_that_keeps_the_next_from_its_address(
    machine: Machine,
) -> None:
    with unix_agent(machine) as serving:
        kill(serving.process.pid)
        path = serving.facts["listen"].removeprefix("unix:")
        assert Path(path).is_socket()
        with agent(machine, f"--listen=unix:{path}") as next_one:
            assert served(machine, next_one)
    with agent(machine, "--listen=127.0.0.1:0", f"--uid={os.getuid()}") as serving:
        kill(serving.process.pid)
        listen = serving.facts["listen"]
        with agent(machine, f"--listen={listen}", f"--uid={os.getuid()}") as next_one:
            assert served(machine, next_one)


# Reload ---------------------------------------------------------------------------------------


@contextmanager
def connected(serving: Agent, server: socket.socket) -> Iterator[tuple[str, socket.socket]]:
    """CONNECT by hand: the status line that came, and the connection."""
    host, port = server.getsockname()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(serving.facts["listen"].removeprefix("unix:"))
        client.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        answer = b""
        while b"\r\n\r\n" not in answer and (piece := client.recv(4096)):
            answer += piece
        yield answer.decode().splitlines()[0].split()[1], client


def status(serving: Agent, server: socket.socket) -> str:
    with connected(serving, server) as (answered, _):
        return answered


def test_sighup_loads_the_policy_for_new_connections(own_machine: Machine) -> None:
    config = own_machine.home / "mdx.toml"
    with (
        socket.create_server(("127.0.0.9", 0)) as server,
        unix_agent(own_machine, app="direct") as serving,
    ):
        with connected(serving, server) as (answered, old):
            assert answered == "200"
            accepted, _ = server.accept()
            before = config.read_text()
            config.write_text(before.replace('{ direct = "127.0.0.9" }', '{ block = "127.0.0.9" }'))

            serving.process.send_signal(signal.SIGHUP)

            assert serving.says() == "mdx: direct: reloaded"
            own_machine.until(lambda: status(serving, server) == "403")
            with accepted:  # what was open goes on
                old.sendall(b"still")
                assert accepted.recv(5) == b"still"

        kill(facts(own_machine, serving)["agent"])  # its successor goes by the new one, too
        assert status(serving, server) == "403"
        kill(own_machine.json("status")["hub"]["pid"])
        kill(facts(own_machine, serving)["agent"])
        own_machine.until(lambda: bool(facts(own_machine, serving)["agent"]))
        assert status(serving, server) == "403"
    reloaded = own_machine.records("run.reloaded")[-1]["fields"]
    assert (reloaded["run"], reloaded["app"]) == (serving.facts["run"], "direct")


def test_a_broken_file_keeps_what_was_loaded_and_says_so(own_machine: Machine) -> None:
    broken = {
        "[apps.direct\n": "mdx.toml:1",
        "[apps.other]\n": "no app is named",
        '[apps.direct]\nnetwork_access = "open"\n': "mdx.toml:2",
        "[apps.direct]\nminimum_level = 3\n": "level 3 is demanded",
    }
    with (
        socket.create_server(("127.0.0.9", 0)) as server,
        unix_agent(own_machine, app="direct") as serving,
    ):
        for text, why in broken.items():
            (own_machine.home / "mdx.toml").write_text(text)
            serving.process.send_signal(signal.SIGHUP)

            said = serving.says()

            assert "not reloaded, what was loaded before holds" in said
            assert why in said
            assert status(serving, server) == "200"
            server.accept()[0].close()


def test_a_terminal_that_is_closed_ends_it(machine: Machine) -> None:
    """By the same signal, which then asks for no reload."""
    path = machine.home / "terminal.sock"
    ours, theirs = os.openpty()
    with subprocess.Popen(
        ["mdx", "agent", "payroll", f"--listen=unix:{path}"],
        env=machine.environment,
        stdin=theirs,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.close(theirs)
        assert process.stderr is not None
        assert "serves" in process.stderr.readline()
        process.send_signal(signal.SIGHUP)
        assert "reloaded" in process.stderr.readline()
        os.close(ours)
        process.send_signal(signal.SIGHUP)
        assert process.wait(timeout=10) == 0
    assert not path.exists()


# The service manager --------------------------------------------------------------------------


def test_it_tells_its_service_manager(machine: Machine) -> None:
    name = f"mdx-test-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        manager.settimeout(20)

        def hears(wanted: str) -> str:
            while not (said := manager.recv(4096).decode()).startswith(wanted):
                assert said == "WATCHDOG=1"
            return said

        path = machine.home / "notify.sock"
        asked = {"NOTIFY_SOCKET": f"@{name}", "WATCHDOG_USEC": "200000"}
        command = [sys.executable, "-P", "-m", "mdx", "agent", "payroll", f"--listen=unix:{path}"]
        with subprocess.Popen(
            command, env=machine.environment | asked, stderr=subprocess.DEVNULL
        ) as process:
            assert hears("READY=1") == f"READY=1\nSTATUS=serves unix:{path}"
            hears("WATCHDOG=1")
            process.send_signal(signal.SIGHUP)
            hears("RELOADING=1")
            hears("READY=1")
            process.terminate()
            hears("STOPPING=1")
            assert process.wait(timeout=10) == 0
