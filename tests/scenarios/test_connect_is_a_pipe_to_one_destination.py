"""`mdx connect APP HOST PORT`: each direction ends by itself, a cut is no end, and a Unix socket of
it serves its owner alone."""

from __future__ import annotations

import os
import pty
import select
import socket
import stat
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import subprocess

    from tests.scenarios.conftest import Machine

NEAR = "127.0.0.9"  # the app `direct` of the shared machine may go there
SECONDS = 30.0
UPLOAD_BYTES = 5_000_000
ANSWER_BYTES = 3_000_000
RESET = struct.pack("ii", 1, 0)  # SO_LINGER of zero seconds: closing resets, socket(7)

CONNECT_AS_NOBODY = """
import os, socket, sys
os.setgid(65534); os.setuid(65534)
with socket.socket(socket.AF_UNIX) as connection:
    try:
        connection.connect(sys.argv[1])
        connection.sendall(b"hello")
        print("answer", connection.recv(100))
    except OSError as error:
        print("refused", type(error).__name__)
"""


class Server:
    """A TCP server that `use`s each connection; `seen` is what its uses noted down."""

    def __init__(self, use: Callable[[socket.socket, list[str]], None]) -> None:
        self.seen: list[str] = []
        self._use = use
        self._listening = socket.create_server((NEAR, 0))
        self.port: int = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        with suppress(OSError):  # shut down
            while True:
                connection, _ = self._listening.accept()
                connection.settimeout(SECONDS)
                with connection:
                    self._use(connection, self.seen)

    def close(self) -> None:
        if self._listening.fileno() < 0:
            return
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join(SECONDS)
        self._listening.close()


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[socket.socket, list[str]], None]], Server]]:
    servers: list[Server] = []

    def start(use: Callable[[socket.socket, list[str]], None]) -> Server:
        servers.append(Server(use))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def count(connection: socket.socket, seen: list[str]) -> None:
    """Answers after the client's end: how many bytes came, and a lot of its own."""
    got = 0
    try:
        while data := connection.recv(65536):
            got += len(data)
    except ConnectionResetError:
        seen.append("reset")
        return
    seen.append("end")
    connection.sendall(b"%d\n" % got + b"x" * ANSWER_BYTES)


def cut(connection: socket.socket, seen: list[str]) -> None:
    """Says something, waits for a word, and resets the connection."""
    connection.sendall(b"x" * 1000)
    connection.recv(1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def echo(connection: socket.socket, seen: list[str]) -> None:
    """What it gets, until the end."""
    try:
        while data := connection.recv(65536):
            connection.sendall(data)
    except OSError:
        seen.append("reset")


def greet(connection: socket.socket, seen: list[str]) -> None:
    """One word and the end, which it does not wait to hear answered."""
    connection.sendall(b"bye\n")


Serve = Callable[[Callable[[socket.socket, list[str]], None]], Server]


def connect(port: int, *options: str) -> list[str]:
    return ["mdx", "connect", *options, "direct", NEAR, str(port)]


def shell(machine: Machine, script: str) -> subprocess.CompletedProcess[str]:
    return machine.run("sh", "-c", script)


# Standard streams ---------------------------------------------------------------------------------


def test_each_direction_ends_by_itself(machine: Machine, serve: Serve) -> None:
    server = serve(count)

    script = f"head -c {UPLOAD_BYTES} /dev/zero | {' '.join(connect(server.port))}"
    done = shell(machine, script)

    assert (done.returncode, done.stderr) == (0, "")
    counted, _, answer = done.stdout.partition("\n")
    assert (counted, len(answer)) == (str(UPLOAD_BYTES), ANSWER_BYTES)


def test_files_do_as_well(machine: Machine, serve: Serve, tmp_path: Path) -> None:
    """They can be waited for by no event loop."""
    (tmp_path / "in").write_bytes(bytes(UPLOAD_BYTES))
    server = serve(count)

    words = " ".join(connect(server.port))
    done = shell(machine, f"{words} < {tmp_path}/in > {tmp_path}/out")

    assert (done.returncode, done.stderr) == (0, "")
    counted, _, answer = (tmp_path / "out").read_text().partition("\n")
    assert (counted, len(answer)) == (str(UPLOAD_BYTES), ANSWER_BYTES)


def test_a_cut_is_an_error_and_no_end(machine: Machine, serve: Serve) -> None:
    done = machine.run(*connect(serve(cut).port), stdin="go")

    assert done.returncode == 1
    assert done.stderr.startswith("mdx: direct: the connection was cut before its end\n")


def test_input_that_breaks_is_no_end_for_the_destination(machine: Machine, serve: Serve) -> None:
    server = serve(count)

    # Nothing is mapped where that file begins: the first read fails.
    done = shell(machine, f"{' '.join(connect(server.port))} < /proc/self/mem")

    assert done.returncode == 1
    assert done.stderr == "mdx: standard input: Input/output error\n"
    server.close()
    assert server.seen == ["reset"]


def test_output_that_is_full_is_said(machine: Machine, serve: Serve) -> None:
    done = shell(machine, f"{' '.join(connect(serve(greet).port))} < /dev/null > /dev/full")

    assert done.returncode == 1
    assert done.stderr == "mdx: standard output: No space left on device\n"


def test_streams_that_are_closed_are_said(machine: Machine, serve: Serve) -> None:
    words = " ".join(connect(serve(greet).port))
    for closed in ("<&-", ">&-"):
        done = shell(machine, f"{words} {closed}")
        assert done.returncode == 1
        assert "standard input and output must be open" in done.stderr


def test_it_ends_when_nobody_reads_any_more(machine: Machine, serve: Serve) -> None:
    words = " ".join(connect(serve(echo).port))

    done = shell(machine, f"yes | {words} | head -n 3")

    assert (done.returncode, done.stdout, done.stderr) == (0, "y\ny\ny\n", "")


def test_on_a_terminal_the_destinations_end_is_enough(machine: Machine, serve: Serve) -> None:
    port = serve(greet).port
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(machine.home)
        os.execvpe("mdx", connect(port), machine.environment)
    said = b""
    with suppress(OSError):  # EIO: the last process of the terminal is gone
        while select.select([terminal], [], [], SECONDS)[0]:
            said += os.read(terminal, 1000)
    os.close(terminal)  # hangs up, should it wait still

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert said == b"bye\r\n"


def test_a_rule_that_says_no_is_named(machine: Machine) -> None:
    done = machine.mdx("connect", "direct", "www.blocked.test", "25", status=77)

    assert done.stderr.startswith("mdx: www.blocked.test:25: BLOCK *.blocked.test")
    assert "for this test" in done.stderr
    assert "mdx explain direct www.blocked.test:25" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["nobody", "host", "25"], 78, 'no app is named "nobody"'),
        (["direct", "host", "0"], 2, "0 is not in the range 1<=x<=65535"),
        (["direct", "not a host", "25"], 1, "not a host"),
        (["strict", "host", "25"], 125, "level 2 is demanded"),
    ],
)
@pytest.mark.parametrize("listen", [False, True])
def test_what_cannot_be_is_said_at_once(
    machine: Machine, tmp_path: Path, arguments: list[str], status: int, says: str, listen: bool
) -> None:
    options = ["--listen", str(tmp_path / "socket")] if listen else []

    done = machine.mdx("connect", *options, *arguments, status=status)

    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "socket").exists()


def test_a_lock_ends_it_in_its_own_words(machine: Machine, serve: Serve) -> None:
    with machine.start(*connect(serve(echo).port)) as connecting:
        assert connecting.stdin is not None
        assert connecting.stdout is not None
        connecting.stdin.write("hello\n")
        connecting.stdin.flush()
        assert connecting.stdout.readline() == "hello\n"
        try:
            machine.mdx("lock", "direct")
            _, said = connecting.communicate(timeout=SECONDS)
            refused = machine.mdx("connect", "direct", NEAR, "80", status=77)
        finally:
            machine.mdx("unlock", "direct")

    assert connecting.returncode == 77
    assert said == "mdx: direct: locked: the connection was cut\n     run: mdx unlock direct\n"
    assert "mdx unlock direct" in refused.stderr


# A Unix socket ------------------------------------------------------------------------------------


@contextmanager
def listening(machine: Machine, path: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    with machine.start(*connect(port, "--listen", str(path))) as connecting:
        assert connecting.stderr is not None
        try:
            assert connecting.stderr.readline() == f"mdx: direct: {path} leads to {NEAR}:{port}\n"
            yield connecting
        finally:
            connecting.terminate()
        assert connecting.wait(SECONDS) == 0
    assert not path.exists()


def ask(path: Path, said: bytes) -> bytes:
    """Send, end, and read to the end."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(SECONDS)
        connection.connect(str(path))
        connection.sendall(said)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_socket_serves_many_and_its_owner_alone(
    machine: Machine, serve: Serve, tmp_path: Path
) -> None:
    server = serve(count)
    with listening(machine, tmp_path / "socket", server.port):
        assert stat.S_IMODE((tmp_path / "socket").stat().st_mode) == 0o600
        for size in (0, 1, UPLOAD_BYTES):
            answer = ask(tmp_path / "socket", bytes(size))
            assert answer == b"%d\n" % size + b"x" * ANSWER_BYTES
    assert server.seen == ["end"] * 3


@pytest.mark.root
def test_another_user_is_kept_out_twice(
    machine: Machine, serve: Serve, tmp_path: Path, let_others_in: Callable[[Path], None]
) -> None:
    """By the socket's mode, and when somebody changed that, by what the kernel says of him."""
    let_others_in(tmp_path)
    server = serve(echo)
    stranger = [sys.executable, "-c", CONNECT_AS_NOBODY, str(tmp_path / "socket")]
    with listening(machine, tmp_path / "socket", server.port):
        assert machine.run(*stranger).stdout == "refused PermissionError\n"
        (tmp_path / "socket").chmod(0o666)
        assert machine.run(*stranger).stdout in (
            "answer b''\n",
            "refused BrokenPipeError\n",
            "refused ConnectionResetError\n",
        )
        assert ask(tmp_path / "socket", b"mine") == b"mine"


def test_a_cut_is_said_where_a_socket_cannot_show_it(
    machine: Machine, serve: Serve, tmp_path: Path
) -> None:
    port = serve(cut).port
    with listening(machine, tmp_path / "socket", port) as connecting:
        ask(tmp_path / "socket", b"go")
        assert connecting.stderr is not None
        assert "the connection was cut before its end" in connecting.stderr.readline()
        ask(tmp_path / "socket", b"go")
        assert "the connection was cut before its end" in connecting.stderr.readline()


def test_a_client_that_leaves_is_no_end_for_the_destination(
    machine: Machine, serve: Serve, tmp_path: Path
) -> None:
    """Killed in the middle, it had not said all: its unread bytes tell."""
    server = serve(echo)
    with listening(machine, tmp_path / "socket", server.port):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(tmp_path / "socket"))
            connection.sendall(b"hello")
            assert connection.recv(1) == b"h"
        assert ask(tmp_path / "socket", b"the next one") == b"the next one"
    server.close()
    assert server.seen == ["reset"]


def test_only_a_socket_that_nobody_listens_at_is_replaced(
    machine: Machine, serve: Serve, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    words = connect(serve(echo).port, "--listen", str(path))

    path.write_text("precious")
    refused = machine.run(*words)
    assert (refused.returncode, path.read_text()) == (1, "precious")
    assert refused.stderr == f"mdx: --listen {path}: there is something else already\n"
    path.unlink()

    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        refused = machine.run(*words)
        assert "another program listens there" in refused.stderr
        assert refused.returncode == 1
    assert path.exists()  # left behind: nobody listens at it

    with listening(machine, path, serve(echo).port):
        assert ask(path, b"hello") == b"hello"


def test_a_path_that_is_too_long_is_said(machine: Machine, tmp_path: Path) -> None:
    done = machine.run(*connect(80, "--listen", str(tmp_path / ("x" * 108))))

    assert done.returncode == 1
    assert "a socket's path has at most 107 bytes" in done.stderr
