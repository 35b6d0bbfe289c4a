"""A vault that cannot grow says so in one line, keeps what it held, and goes on when it can."""

from __future__ import annotations

import os
import resource
import select
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.scenarios.conftest import Machine

MEBIBYTE = 1 << 20
OLD, NEW = b"o" * (MEBIBYTE - 1), b"n" * (MEBIBYTE - 1)
ROOM = MEBIBYTE // 10  # enough for the audit and for small files, not for a large record
NO_ROOM = "no room to write the vault; what it held before is intact"


@contextmanager
def no_room(*, hub: int, beyond: int = ROOM) -> Iterator[None]:
    """The hub cannot write `beyond` that place of any file: EFBIG, which it takes as ENOSPC."""
    before = resource.prlimit(hub, resource.RLIMIT_FSIZE)
    resource.prlimit(hub, resource.RLIMIT_FSIZE, (beyond, before[1]))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # a test may have killed it
            resource.prlimit(hub, resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def unlimited(make_machine: Callable[[], Machine]) -> Machine:
    machine = make_machine()
    machine.up()
    (machine.home / "old").write_bytes(OLD)
    (machine.home / "new").write_bytes(NEW)
    return machine


@pytest.fixture
def filled(unlimited: Machine) -> Machine:
    """A machine with one large record."""
    unlimited.mdx("vault", "put", "payroll", "large", "--file", "old")
    return unlimited


def large(machine: Machine) -> bytes:
    return machine.mdx("vault", "get", "payroll", "large").stdout.encode()


def test_a_put_that_finds_no_room(filled: Machine) -> None:
    hub = filled.json("status")["hub"]["pid"]
    with no_room(hub=hub):
        for name in ("large", "large", "another"):
            done = filled.mdx("vault", "put", "payroll", name, "--file", "new", status=1)
            line, hint = done.stderr.splitlines()
            assert line == f"mdx: {NO_ROOM}"
            assert "make room" in hint
        assert large(filled) == OLD
        assert "another" not in filled.mdx("vault", "list", "payroll").stdout

    filled.mdx("vault", "put", "payroll", "large", "--file", "new")
    assert large(filled) == NEW
    assert filled.json("status")["hub"]["pid"] == hub
    filled.mdx("audit", "verify")


def test_a_hub_that_ends_on_a_full_disk(filled: Machine) -> None:
    """The next one opens the store from what stands on the disk."""
    hub = filled.json("status")["hub"]["pid"]
    with no_room(hub=hub):
        filled.mdx("vault", "put", "payroll", "large", "--file", "new", status=1)
        pidfd = os.pidfd_open(hub)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert select.select([pidfd], [], [], 10)[0]
        os.close(pidfd)

    assert large(filled) == OLD
    filled.mdx("vault", "put", "payroll", "large", "--file", "new")
    assert large(filled) == NEW


def test_a_run_that_finds_no_room_is_refused_in_one_line(filled: Machine) -> None:
    """Its bundle of authorities cannot be written, so it does not begin."""
    hub = filled.json("status")["hub"]["pid"]
    shutil.rmtree(filled.home / "trust", ignore_errors=True)
    audit_bytes = (filled.home / "audit" / "hub.jsonl").stat().st_size
    with no_room(hub=hub, beyond=audit_bytes + 4096):
        done = filled.mdx("run", "payroll", "--", "echo", "begun", status=125)

        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1
        assert "File too large" in done.stderr
        assert filled.json("ps") == []

    assert filled.mdx("run", "payroll", "--", "echo", "begun").stdout == "begun\n"


def test_a_run_whose_state_cannot_be_kept_does_not_begin(filled: Machine) -> None:
    """A restarted hub could not find it again, so it would go on unwatched."""
    folder = filled.home / "run" / "runs"
    folder.rmdir()

    done = filled.mdx("run", "payroll", "--", "echo", "begun", status=125)

    folder.mkdir(mode=0o700)
    assert done.stdout == ""
    assert "cannot be written: No such file or directory" in done.stderr
    assert filled.json("ps") == []
    ended = filled.records("run.ended")[-1]["fields"]["run"]
    assert ended == filled.records("run.started")[-1]["fields"]["run"]
    assert filled.mdx("run", "payroll", "--", "echo", "begun").stdout == "begun\n"
