"""Real processes: killed while they write, stopped past a lease's end, writing side by side."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vault import KeyFile, Vault, now

SOAK = bool(os.environ.get("MDX_SOAK"))
KILLS = 300 if SOAK else 8
WRITES = 300 if SOAK else 25

# What each process starts with: `vault`, open, and `say`, which reaches the test at once.
PRELUDE = """
import sys
from pathlib import Path
from vault import *
vault = Vault.open_(Path(sys.argv[1]), KeyFile(Path(sys.argv[2])))
def say(*words):
    print(*words, flush=True)
"""
WRITER = """
n = int(sys.argv[3])
while True:
    n += 1
    vault.put("app:a", "counter", b"%d " % n * 3000)
    vault.put("app:a", f"record {n % 7}", b"%d" % n)
    say(n)
"""
READER = """
vault.get("app:a", "n")
say("ready")
sys.stdin.readline()
try:
    say("got", vault.get("app:a", "n").value)
except VaultError as error:
    say(type(error).__name__)
"""
COUNTING = """
for n in range(int(sys.argv[3])):
    vault.put("app:a", f"{sys.argv[4]} {n}", b"%d" % n)
say("done")
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(folder: Path, keeper: KeyFile) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                PRELUDE + code,
                str(folder),
                str(keeper.path),
                *map(str, arguments),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def shared(folder: Path, keeper: KeyFile) -> Iterator[Vault]:
    with Vault.create(folder, keeper) as vault:
        vault.lease("app:a", lifetime_seconds=3600)
        yield vault


def lines(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return process.stdout


def test_what_put_acknowledged_survives_kill_9(
    shared: Vault, start: Start, folder: Path, keeper: KeyFile
) -> None:
    shared.close()  # so that each time the killed process was the only one
    chance = random.Random(1)  # noqa: S311 — when to kill is no secret
    done = 0
    for _ in range(KILLS):
        writer = start(WRITER, done)
        for _ in range(chance.randint(1, 5)):
            done = int(lines(writer).readline())
        # It has gone on meanwhile; how far, says the rest of its output.
        select.select([], [], [], chance.random() * 0.01)
        writer.kill()
        done = max([done, *(int(line) for line in lines(writer) if line.endswith("\n"))])
        writer.wait()
        with Vault.open_(folder, keeper) as vault:
            value = vault.get("app:a", "counter").value
            found = int(value.split()[0])
            assert value == b"%d " % found * 3000  # whole, never torn
            assert found in (done, done + 1)
            for info in vault.list_("app:a"):
                assert vault.get("app:a", info.name).value
            done = found


def test_a_process_stopped_past_the_end_gets_nothing_when_it_goes_on(
    shared: Vault, start: Start
) -> None:
    shared.put("app:a", "n", b"v")
    lease = shared.lease("app:a", lifetime_seconds=1.5)
    reader = start(READER)
    assert lines(reader).readline() == "ready\n"
    reader.send_signal(signal.SIGSTOP)
    assert lease.not_after is not None
    while (left := lease.not_after - now().wall) > 0:
        select.select([], [], [], left)
    reader.send_signal(signal.SIGCONT)
    said, _ = reader.communicate("go on\n")
    assert said == "KeyExpired\n"


def test_a_lock_reaches_another_process_at_its_next_use(shared: Vault, start: Start) -> None:
    shared.put("app:a", "n", b"v")
    reader = start(READER)
    assert lines(reader).readline() == "ready\n"
    shared.lock("app:a")
    said, _ = reader.communicate("go on\n")
    assert said == "Locked\n"


def test_another_processes_new_lease_is_used_at_once(shared: Vault, start: Start) -> None:
    shared.put("app:a", "n", b"v")
    reader = start(READER)
    assert lines(reader).readline() == "ready\n"
    shared.lease("app:a", lifetime_seconds=3600)
    shared.put("app:a", "n", b"w")
    said, _ = reader.communicate("go on\n")
    assert said == "got b'w'\n"


def test_processes_that_write_at_once_lose_nothing(shared: Vault, start: Start) -> None:
    writers = [start(COUNTING, WRITES, name) for name in ("one", "two")]
    for n in range(WRITES):
        shared.put("app:a", f"three {n}", b"%d" % n)
    for writer in writers:
        assert writer.communicate()[0] == "done\n"
    assert len(shared.list_("app:a")) == 3 * WRITES
    for name in ("one", "two", "three"):
        for n in range(WRITES):
            assert shared.get("app:a", f"{name} {n}").value == b"%d" % n
