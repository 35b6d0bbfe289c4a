"""Daemons as children: started, reported, started again, ended."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from mdx.errors import MdxError
from mdx.gateway import supervising
from mdx.gateway.supervising import Part, keep_running

# A daemon in a few lines: it reports, and ends by SIGTERM, or as its folder says.
DAEMON = """
import json, os, pathlib, signal, sys
folder, ready = pathlib.Path(sys.argv[1]), int(sys.argv[-1])
if (folder / "broken").exists():
    error = {"message": "no good", "hint": "mend it", "exit_code": 78}
    os.write(ready, json.dumps({"error": error}).encode() + b"\\n")
    sys.exit(78)
if (folder / "silent").exists():
    sys.exit(3)
os.write(ready, json.dumps({"pid": os.getpid()}).encode() + b"\\n")
signal.pause()
"""


@pytest.fixture
def part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Part:
    (tmp_path / "small_daemon.py").write_text(DAEMON)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(supervising, "FIRST_PAUSE_SECONDS", 0.01)
    return Part(
        name="small",
        module="small_daemon",
        arguments=[str(tmp_path)],
        log=tmp_path / "log",
    )


class Said:
    """What was said, line by line, and a way to wait for it."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[str](100)

    def __call__(self, part: str, what: str) -> None:
        self._send.send_nowait(f"{part}: {what}")

    async def wait_for(self, text: str) -> str:
        with trio.fail_after(20):
            async for line in self._receive:
                if text in line:
                    return line
        raise AssertionError(text)


async def test_what_dies_is_started_again_and_ends_when_told(part: Part) -> None:
    said = Said()
    async with trio.open_nursery() as nursery:
        first = await nursery.start(keep_running, part, said)
        os.kill(first["pid"], signal.SIGKILL)
        assert await said.wait_for("SIGKILL")
        line = await said.wait_for("serves again (process ")
        second = int(line.rpartition(" ")[2].rstrip(")"))
        pidfd = os.pidfd_open(second)
        nursery.cancel_scope.cancel()
    with trio.fail_after(1):
        await trio.lowlevel.wait_readable(pidfd)
    os.close(pidfd)


async def test_what_is_wrong_at_first_is_its_own_error(part: Part, tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    async with trio.open_nursery() as nursery:
        with pytest.raises(MdxError, match="small: no good") as caught:
            await nursery.start(keep_running, part, Said())
    assert (caught.value.hint, caught.value.exit_code) == ("mend it", 78)
    (tmp_path / "broken").unlink()
    (tmp_path / "silent").touch()
    async with trio.open_nursery() as nursery:
        with pytest.raises(MdxError, match="small ended before it served") as caught:
            await nursery.start(keep_running, part, Said())
    assert str(part.log) in caught.value.hint


async def test_what_came_up_once_is_tried_for_ever(part: Part, tmp_path: Path) -> None:
    said = Said()
    async with trio.open_nursery() as nursery:
        first = await nursery.start(keep_running, part, said)
        (tmp_path / "broken").touch()
        os.kill(first["pid"], signal.SIGTERM)
        for pause in ("0.02", "0.04", "0.08"):  # each twice as long as the one before
            assert f"again in {pause} s" in await said.wait_for("does not start: small: no good")
        (tmp_path / "broken").unlink()
        await said.wait_for("serves again")
        nursery.cancel_scope.cancel()


def test_a_child_ends_with_the_process_that_started_it(part: Part, tmp_path: Path) -> None:
    script = f"""
import os, pathlib, signal
from mdx.spawn import start_child
child, ready = start_child("small_daemon", [{str(tmp_path)!r}], log=pathlib.Path({str(part.log)!r}))
os.read(ready, 100)
print(child.pid, flush=True)
signal.pause()
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pidfd = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    assert select.select([pidfd], [], [], 10)[0]
    os.close(pidfd)
