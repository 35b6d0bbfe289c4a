"""Who is served: asked of the kernel, about real sockets of real processes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mdx.container.admission import refusal_reason, rule_text
from mdx.listen_address import pin_executable

NOBODY = 65534
# bash can connect by itself, and is one file without an interpreter.
CONNECT = "exec 3<>/dev/tcp/127.0.0.1/$PORT; read x"
BASH = shutil.which("bash") or "/bin/bash"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)
        yield listening


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A copy of bash, ours to rename and replace."""
    copy = tmp_path / "client"
    shutil.copy(BASH, copy)
    return copy


@contextmanager
def connected(
    program: Path | str, listener: socket.socket, script: str = CONNECT, user: int | None = None
) -> Iterator[socket.socket]:
    """The accepted connection of a program that waits meanwhile."""
    environment = {"PORT": str(listener.getsockname()[1]), "PATH": os.environ["PATH"]}
    command = [str(program), "-c", script]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, env=environment, user=user, cwd="/"
    ) as process:
        accepted, _ = listener.accept()
        with accepted:
            yield accepted
        process.communicate(b"\n", timeout=10)


def reason(rule: dict[str, Any], connection: socket.socket) -> str:
    return refusal_reason(rule, os.getpid(), connection)


@pytest.fixture
def pin() -> Iterator[Callable[[Path | str], dict[str, Any]]]:
    pinned = []

    def make(path: Path | str) -> dict[str, Any]:
        pinned.append(pin_executable(Path(path)))
        return pinned[-1].rule()

    yield make
    for one in pinned:
        one.close()


Pin = Callable[[Path | str], dict[str, Any]]


def test_a_socket_of_the_named_user(listener: socket.socket) -> None:
    with connected(BASH, listener) as connection:
        assert reason({"kind": "uid", "uid": os.getuid()}, connection) == ""
        assert reason({"kind": "uid", "uid": NOBODY - 1}, connection) == (
            f"its user is uid {os.getuid()}"
        )


@pytest.mark.root
def test_a_socket_of_another_user(listener: socket.socket, pin: Pin) -> None:
    rule = pin(BASH)
    with connected(BASH, listener, user=NOBODY) as connection:
        assert reason({"kind": "uid", "uid": 0}, connection) == f"its user is uid {NOBODY}"
        assert reason({"kind": "uid", "uid": NOBODY}, connection) == ""
        # the very file, but not our user's process
        assert reason(rule, connection) == f"its user is uid {NOBODY}"


def test_the_named_program_and_no_other(listener: socket.socket, program: Path, pin: Pin) -> None:
    rule = pin(program)
    with connected(program, listener) as connection:
        assert reason(rule, connection) == ""
    with connected(BASH, listener) as connection:  # the same bytes in another file
        assert reason(rule, connection) == "its program is another"


def test_by_a_link_it_is_the_same_program(listener: socket.socket, program: Path, pin: Pin) -> None:
    rule = pin(program)
    link = program.with_name("link")
    link.symlink_to(program)
    hard = program.with_name("hard")
    hard.hardlink_to(program)
    for name in (link, hard):
        with connected(name, listener) as connection:
            assert reason(rule, connection) == ""


def test_a_link_of_its_name_to_another_program_is_refused(
    listener: socket.socket, program: Path, pin: Pin
) -> None:
    rule = pin(program)
    program.rename(program.with_name("moved"))
    program.symlink_to(BASH)
    with connected(program, listener) as connection:
        assert reason(rule, connection) == "its program is another"
    with connected(program.with_name("moved"), listener) as connection:
        assert reason(rule, connection) == ""  # renamed, it is still that file


def test_another_program_in_its_place_is_refused(
    listener: socket.socket, program: Path, pin: Pin
) -> None:
    rule = pin(program)
    for _ in range(20):  # were its inode free, one of these would soon get it
        program.unlink()
        shutil.copy(BASH, program)
        assert program.stat().st_ino != rule["inode"]
    with connected(program, listener) as connection:
        assert reason(rule, connection) == "its program is another"


def test_one_that_still_runs_after_an_upgrade_is_served(
    listener: socket.socket, program: Path, pin: Pin
) -> None:
    rule = pin(program)
    with connected(program, listener) as connection:
        program.unlink()
        assert reason(rule, connection) == ""


def test_a_socket_that_a_stranger_shares_is_refused(
    listener: socket.socket, program: Path, pin: Pin
) -> None:
    """The stranger opens it, the named program only inherits it."""
    rule = pin(program)
    script = f"exec 3<>/dev/tcp/127.0.0.1/$PORT; '{program}' -c 'read x'; read x"
    with connected(BASH, listener, script) as connection:
        assert reason(rule, connection) == "its program is another"


def test_a_process_that_becomes_another_program_is_that_one(
    listener: socket.socket, program: Path, pin: Pin
) -> None:
    rule = pin(program)
    script = f"exec 3<>/dev/tcp/127.0.0.1/$PORT; exec '{BASH}' -c 'echo >&3; read x'"
    with connected(program, listener, script) as connection:
        assert connection.recv(1) == b"\n"
        assert reason(rule, connection) == "its program is another"


def test_who_is_gone_is_not_served(listener: socket.socket, pin: Pin) -> None:
    client = socket.create_connection(listener.getsockname())
    accepted, _ = listener.accept()
    client.close()
    with accepted:
        for rule in ({"kind": "uid", "uid": os.getuid()}, pin(sys.executable)):
            assert reason(rule, accepted) == "nobody holds the socket"


def test_a_unix_socket_serves_its_own_user() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert reason({"kind": "user"}, ours) == ""


@pytest.mark.parametrize(
    "rule",
    [{}, {"kind": "all"}, {"kind": ""}, {"kind": None}, {"kind": "uid", "uid": None}],
)
def test_without_a_rule_that_is_understood_nobody_is_served(
    listener: socket.socket, rule: dict[str, Any]
) -> None:
    with connected(BASH, listener) as connection:
        assert reason(rule, connection) != ""


def test_a_rule_of_the_other_kind_of_socket_serves_nobody(listener: socket.socket) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        for rule in ({"kind": "uid", "uid": os.getuid()}, {"kind": "run"}):
            assert reason(rule, ours) == "no rule admits it"
    with connected(BASH, listener) as connection:
        assert reason({"kind": "user"}, connection) == "no rule admits it"


def test_rules_in_words() -> None:
    assert rule_text({"kind": "user"}) == "this user"
    assert rule_text({"kind": "uid", "uid": 26}) == "uid 26"
    executable = {"kind": "executable", "path": "/usr/bin/psql", "device": 1, "inode": 2}
    assert rule_text(executable) == "/usr/bin/psql"
    assert rule_text({"kind": "run"}) == "its run"
