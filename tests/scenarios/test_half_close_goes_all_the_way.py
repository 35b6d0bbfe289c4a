"""The end of one direction arrives as the end of that direction, and a cut as a cut, on the whole
way: program, agent, gateway, private host."""

from __future__ import annotations

import json
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.scenarios.conftest import Machine

REDIS = "redis.corp.internal"
COUNTER = "counter.corp.internal"
CUTTER = "cutter.corp.internal"
LOOPBACK = "127.0.0.1"
SECONDS = 30.0
UPLOAD_BYTES = 20_000_000
ANSWER_BYTES = 5_000_000
RESET = struct.pack("ii", 1, 0)  # SO_LINGER of zero seconds: closing resets, socket(7)

READ_TO_THE_END = """
import os, socket, sys
proxy = os.environ["http_proxy"].removeprefix("http://").split(":")
with socket.create_connection((proxy[0], int(proxy[1])), timeout=20) as connection:
    connection.sendall(b"CONNECT HOST:80 HTTP/1.1\\r\\nHost: HOST:80\\r\\n\\r\\n")
    head = b""
    while not head.endswith(b"\\r\\n\\r\\n"):
        head += connection.recv(1)
    connection.sendall(b"go")
    got = 0
    try:
        while data := connection.recv(65536):
            got += len(data)
    except ConnectionResetError:
        print("reset after", got)
    else:
        print("clean end after", got)
"""


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A real Redis that keeps nothing; its port."""
    folder = tmp_path_factory.mktemp("redis")
    with socket.create_server((LOOPBACK, 0)) as free:
        port: int = free.getsockname()[1]
    options = ["--bind", LOOPBACK, "--port", str(port), "--save", "", "--appendonly", "no"]
    server = subprocess.Popen(
        [shutil.which("redis-server") or "redis-server", *options, "--dir", str(folder)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    for line in server.stdout:
        if "Ready to accept connections" in line:
            break
    yield port
    server.terminate()
    server.communicate(timeout=SECONDS)


def serve(use: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP server in a thread that `use`s each connection; its port."""
    listening = socket.create_server((LOOPBACK, 0))

    def accept() -> None:
        with suppress(OSError):  # shut down
            while True:
                connection, _ = listening.accept()
                connection.settimeout(SECONDS)
                with connection:
                    use(connection)

    thread = threading.Thread(target=accept)
    thread.start()
    yield listening.getsockname()[1]
    listening.shutdown(socket.SHUT_RDWR)
    thread.join(SECONDS)
    listening.close()


@pytest.fixture(scope="module")
def counter() -> Iterator[int]:
    """Answers only after the client's end: how many bytes came, and a lot of its own."""

    def count(connection: socket.socket) -> None:
        got = 0
        while data := connection.recv(65536):
            got += len(data)
        connection.sendall(b"%d\n" % got + b"x" * ANSWER_BYTES)

    yield from serve(count)


@pytest.fixture(scope="module")
def cutter() -> Iterator[int]:
    """Is spoken to, says something and then resets the connection."""

    def cut(connection: socket.socket) -> None:
        connection.recv(2, socket.MSG_WAITALL)
        connection.sendall(b"x" * 1000)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    yield from serve(cut)


@pytest.fixture(scope="module")
def machine_with_hosts(
    make_machine: Callable[[], Machine], redis: int, counter: int, cutter: int
) -> Machine:
    """A machine whose gateway knows three more hosts, without TLS."""
    machine = make_machine()
    machine.up()
    config: Path = machine.home / "gateway" / "gateway.toml"
    with config.open("a") as file:
        for name, host_port, port in (
            (REDIS, 6379, redis),
            (COUNTER, 80, counter),
            (CUTTER, 80, cutter),
        ):
            dial = json.dumps(f"{LOOPBACK}:{port}")
            file.write(f'\n[[hosts]]\nname = "{name}"\nport = {host_port}\ndial = {dial}\n')
    machine.down()
    machine.mdx("up")
    return machine


def ncat(proxy_type: str, host: str, port: int) -> str:
    """The command for a shell; ncat wants the proxy's address without a scheme."""
    options = f"--proxy ${{http_proxy#http://}} --proxy-type {proxy_type} --proxy-dns remote"
    return f"ncat {options} {host} {port}"


@pytest.mark.parametrize("proxy_type", ["http", "socks5"])
def test_printf_to_redis_prints_pong(machine_with_hosts: Machine, proxy_type: str) -> None:
    """The request and its end leave at once; the answer comes after."""
    script = f"printf 'PING\\r\\n' | {ncat(proxy_type, REDIS, 6379)}"

    done = machine_with_hosts.run("mdx", "run", "--quiet", "payroll", "--", "sh", "-c", script)

    assert (done.returncode, done.stdout, done.stderr) == (0, "+PONG\n", "")


@pytest.mark.parametrize("proxy_type", ["http", "socks5"])
def test_an_upload_ends_and_then_the_answer_comes(
    machine_with_hosts: Machine, proxy_type: str
) -> None:
    script = f"head -c {UPLOAD_BYTES} /dev/zero | {ncat(proxy_type, COUNTER, 80)}"

    done = machine_with_hosts.run("mdx", "run", "--quiet", "payroll", "--", "sh", "-c", script)

    counted, _, answer = done.stdout.partition("\n")
    assert (counted, len(answer)) == (str(UPLOAD_BYTES), ANSWER_BYTES)
    ended = machine_with_hosts.records("flow.ended")[-1]["fields"]
    assert ended["bytes_up"] == UPLOAD_BYTES
    assert ended["bytes_down"] == len(done.stdout)


def test_a_cut_is_a_reset_and_no_clean_end(machine_with_hosts: Machine) -> None:
    """A program must be able to tell a download that is whole from one that was cut."""
    script = READ_TO_THE_END.replace("HOST", CUTTER)

    done = machine_with_hosts.run(
        "mdx", "run", "--quiet", "payroll", "--", sys.executable, "-c", script
    )

    assert done.stdout.startswith("reset after "), done.stdout + done.stderr
