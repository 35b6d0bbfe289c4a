"""Keeping daemons alive: each is a child that is started again when it ends, after a pause.

Rules of this file:
- A part that does not come up the first time is the end of all: its configuration is wrong, and a
  person looks on. Later it is tried again for ever, since what came up once may come up again.
- The pause doubles with each quick end, so that a part that cannot live costs next to nothing.
- Children end with their supervisor, however that ends.
"""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from mdx.errors import MdxError
from mdx.spawn import ChildProcess, start_child

__all__ = ["Part", "keep_running"]

START_SECONDS = 20.0
STOP_SECONDS = 10.0
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
STEADY_SECONDS = 60.0  # who lived that long did not die of its start


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A daemon: `python -m MODULE ARGUMENTS`. `prepare` is awaited before each start."""

    name: str
    module: str
    arguments: Sequence[str]
    log: Path
    prepare: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint


async def keep_running(
    part: Part,
    say: Callable[[str, str], None],
    *,
    task_status: trio.TaskStatus[dict[str, Any]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run `part` until cancelled, which ends it. Started with what it reported.

    `say(part, what)` is told of everything after that. Raises: MdxError when it does not start the
    first time.
    """
    child = await _start(part)
    task_status.started(child.report)
    pause = FIRST_PAUSE_SECONDS
    while True:
        began_at = trio.current_time()
        how = await _wait(child)
        if trio.current_time() - began_at >= STEADY_SECONDS:
            pause = FIRST_PAUSE_SECONDS
        say(part.name, f"{how}; it is started again in {pause:g} s (mdx logs {part.name})")
        while True:
            await trio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            try:
                child = await _start(part)
            except MdxError as error:
                say(part.name, f"does not start: {error}; again in {pause:g} s")
            else:
                say(part.name, f"serves again (process {child.process.pid})")
                break


@dataclass(frozen=True, slots=True, kw_only=True)
class _Child:
    process: ChildProcess
    report: dict[str, Any]


async def _start(part: Part) -> _Child:
    """Raises: MdxError, with the part's own error where it told one."""
    await part.prepare()
    process, reading = start_child(part.module, part.arguments, log=part.log)
    try:
        line = b""
        async with trio.lowlevel.FdStream(reading) as stream:
            with trio.move_on_after(START_SECONDS):
                while not line.endswith(b"\n") and (piece := await stream.receive_some()):
                    line += piece
        if not line.endswith(b"\n"):
            raise MdxError(
                f"{part.name} ended before it served, or took too long",
                hint=f"its log: {part.log}",
            )
        report = json.loads(line)
        if "error" in report:
            error = report["error"]
            raise MdxError(
                f"{part.name}: {error['message']}", hint=error["hint"], exit_code=error["exit_code"]
            )
    except BaseException:
        await _end(process)
        raise
    return _Child(process=process, report=report)


async def _wait(child: _Child) -> str:
    """How it ended. Cancellation ends it."""
    try:
        await _ended(child.process, math.inf)
    except trio.Cancelled:
        await _end(child.process)
        raise
    status = child.process.wait()
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"


async def _end(process: ChildProcess) -> None:
    with trio.CancelScope(shield=True):
        for sent in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                process.send_signal(sent)
            if await _ended(process, STOP_SECONDS):
                break
    process.wait()


async def _ended(process: ChildProcess, seconds: float) -> bool:
    """Wait for its end, so long; whether it has come."""
    if process.returncode is not None:
        return True
    pidfd = os.pidfd_open(process.pid)  # ours and not waited for, so the number is still its own
    try:
        with trio.move_on_after(seconds) as waiting:
            await trio.lowlevel.wait_readable(pidfd)
    finally:
        os.close(pidfd)
    return not waiting.cancelled_caught
