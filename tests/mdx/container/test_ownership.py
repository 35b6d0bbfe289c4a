"""Whose socket is it? Asked of the kernel, about real sockets of real processes."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from mdx.container.ownership import belongs_to_run, descendants, socket_owner

Pair = tuple[socket.socket, socket.socket]

# Connects to the port in argv, and again from a grandchild that outlives its parent.
CLIENT = """
import os, socket, sys
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
sys.stdin.read()
"""
DAEMON = """
import os, socket, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
        sys.stdin.read()
        os._exit(0)
    os._exit(0)
sys.stdin.read()
"""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)
        yield listening


def start(program: str, listener: socket.socket) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", program, str(listener.getsockname()[1])]
    return subprocess.Popen(command, stdin=subprocess.PIPE)


def ends(accepted: socket.socket) -> tuple[tuple[str, int], tuple[str, int]]:
    """The client's end first, as the client's own socket would name them."""
    return accepted.getpeername(), accepted.getsockname()


def test_the_kernel_names_user_and_inode(listener: socket.socket) -> None:
    with socket.create_connection(listener.getsockname()) as client:
        owner = socket_owner(client.getsockname(), client.getpeername())

        assert owner is not None
        assert owner.uid == os.getuid()
        assert os.readlink(f"/proc/self/fd/{client.fileno()}") == f"socket:[{owner.inode}]"


def test_no_socket_has_these_ends() -> None:
    assert socket_owner(("127.0.0.1", 1), ("127.0.0.1", 2)) is None


def test_a_socket_of_the_runs_first_process_belongs_to_the_run(listener: socket.socket) -> None:
    with start(CLIENT, listener) as client:
        accepted, _ = listener.accept()
        with accepted:
            assert belongs_to_run(client.pid, *ends(accepted))
            assert belongs_to_run(os.getpid(), *ends(accepted))  # as a descendant of ours
        client.communicate()


def test_another_process_of_the_same_user_does_not_belong(listener: socket.socket) -> None:
    with start(CLIENT, listener) as client, start(CLIENT, listener) as stranger:
        by_pid = {}
        for _ in range(2):
            accepted, _ = listener.accept()
            owner = client if belongs_to_run(client.pid, *ends(accepted)) else stranger
            by_pid[owner.pid] = accepted
        assert set(by_pid) == {client.pid, stranger.pid}
        assert not belongs_to_run(client.pid, *ends(by_pid[stranger.pid]))
        for accepted in by_pid.values():
            accepted.close()
        client.communicate()
        stranger.communicate()


def test_the_agents_own_end_is_not_taken_for_the_clients(listener: socket.socket) -> None:
    with start(CLIENT, listener) as client:
        accepted, _ = listener.accept()
        with accepted:
            here, there = accepted.getsockname(), accepted.getpeername()
            assert not belongs_to_run(client.pid, here, there)
        client.communicate()


def test_a_closed_socket_belongs_to_nobody(listener: socket.socket) -> None:
    client = socket.create_connection(listener.getsockname())
    accepted, _ = listener.accept()
    with accepted:
        client.close()
        assert not belongs_to_run(os.getpid(), *ends(accepted))


def test_descendants_hold_the_process_and_its_children(listener: socket.socket) -> None:
    with start(CLIENT, listener) as client:
        accepted, _ = listener.accept()
        accepted.close()
        assert {os.getpid(), client.pid} <= set(descendants(os.getpid()))
        assert set(descendants(client.pid)) == {client.pid}
        client.communicate()


def test_descendants_of_a_process_that_is_gone_are_itself() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert list(descendants(gone.pid)) == [gone.pid]


def test_a_daemon_stays_with_the_run_by_the_subreaper(listener: socket.socket) -> None:
    program = f"from mdx.process import become_subreaper; become_subreaper()\n{DAEMON}"
    with start(program, listener) as client:
        accepted, _ = listener.accept()
        with accepted:
            assert belongs_to_run(client.pid, *ends(accepted))
        client.communicate()
