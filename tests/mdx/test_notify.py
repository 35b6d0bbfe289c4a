"""sd_notify(3), against a socket that listens as a service manager does."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from mdx.notify import Notifier

Manager = tuple[str, Callable[[], str]]  # what NOTIFY_SOCKET says, and what came


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    if request.param == "path":
        address = bound = str(tmp_path / "notify")
    else:
        name = f"mdx-test-{secrets.token_hex(8)}"
        address, bound = f"@{name}", f"\0{name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(bound)
        listening.settimeout(5)
        yield address, lambda: listening.recv(4096).decode()


def test_it_is_told_how_the_service_stands(manager: Manager) -> None:
    address, heard = manager
    notifier = Notifier.taken_from({"NOTIFY_SOCKET": address})

    notifier.ready("serves")
    assert heard() == "READY=1\nSTATUS=serves"
    notifier.reloading()
    assert heard() == "RELOADING=1"
    notifier.status("waits")
    assert heard() == "STATUS=waits"
    notifier.stopping()
    assert heard() == "STOPPING=1"


async def test_signs_of_life_come_twice_as_often_as_wanted(
    manager: Manager, autojump_clock: trio.testing.MockClock
) -> None:
    address, heard = manager
    asked = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "4000000", "WATCHDOG_PID": str(os.getpid())}
    notifier = Notifier.taken_from(asked)

    with trio.move_on_after(3):  # at 0 and at 2 seconds
        await notifier.keep_alive()

    assert (heard(), heard()) == ("WATCHDOG=1", "WATCHDOG=1")
    notifier.status("and no more")
    assert heard() == "STATUS=and no more"


def test_a_status_cannot_say_more_than_one_line(manager: Manager) -> None:
    address, heard = manager
    Notifier.taken_from({"NOTIFY_SOCKET": address}).status("mdx.toml:3\nMAINPID=1\n")
    assert heard() == "STATUS=mdx.toml:3 MAINPID=1"


def test_children_are_not_asked() -> None:
    environ = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "5", "WATCHDOG_PID": "1", "HOME": "/"}
    Notifier.taken_from(environ)
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize("usec", ["", "-1", "many", "²"])
def test_an_odd_watchdog_is_none(usec: str) -> None:
    assert Notifier.taken_from({"WATCHDOG_USEC": usec}).watchdog_seconds == 0


def test_a_watchdog_of_another_process_is_not_ours() -> None:
    notifier = Notifier.taken_from({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"})
    assert notifier.watchdog_seconds == 0
    notifier = Notifier.taken_from({"WATCHDOG_USEC": "1000000"})
    assert notifier.watchdog_seconds == 1


@pytest.mark.parametrize("address", ["", "/nowhere/notify", "@", "vsock:2:1", "relative"])
def test_a_manager_that_is_not_there_misses_nothing(address: str) -> None:
    Notifier.taken_from({"NOTIFY_SOCKET": address}).ready("serves")


async def test_nobody_asked_for_signs_of_life(autojump_clock: trio.testing.MockClock) -> None:
    with trio.move_on_after(100) as waited:
        await Notifier.taken_from({}).keep_alive()
    assert waited.cancelled_caught  # it is no reason to end
