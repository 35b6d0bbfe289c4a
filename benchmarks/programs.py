"""Programs that the benchmarks start: found, started in the background, ended by their own pid."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

__all__ = ["HOST", "Missing", "find", "free_port", "start", "wait_until_it_listens"]

HOST = "127.0.0.1"
START_SECONDS = 10.0
STOP_SECONDS = 5.0


class Missing(Exception):
    """A program is not there, or does not run here; the message says which and why."""


def find(program: str) -> str:
    """Its path; Debian keeps daemons where a user's PATH does not look. Raises: Missing."""
    path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        raise Missing(f"{program} is not installed: scripts/set-up --bench")
    return path


def free_port() -> int:
    """A port of loopback that was free a moment ago."""
    with socket.socket() as trying:
        trying.bind((HOST, 0))
        port: int = trying.getsockname()[1]
        return port


def start(
    stack: ExitStack,
    command: Sequence[str | Path],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    pipes: bool = False,
) -> subprocess.Popen[str]:
    """Start `command`; when `stack` closes it is ended. Its words go to `log`."""
    output: IO[bytes] = stack.enter_context(log.open("ab"))
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
        stdout=subprocess.PIPE if pipes else output,
        stderr=output,
        text=True,
        cwd="/",
    )
    stack.callback(_end, process)
    return process


def wait_until_it_listens(process: subprocess.Popen[str], port: int, log: Path) -> None:
    """Raises: Missing with the program's last words when it ends, or never listens."""
    deadline = time.perf_counter() + START_SECONDS
    while process.poll() is None and time.perf_counter() < deadline:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
        except OSError:
            time.sleep(0.02)  # there is no event to wait for in somebody else's program
        else:
            return
    said = log.read_text(errors="replace").strip().splitlines()
    raise Missing(f"{Path(str(process.args[0])).name} does not serve: {said[-1:] or 'no word'}")  # type: ignore[index]


def _end(process: subprocess.Popen[str]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):  # it ended before it read all that it was told
                pipe.close()
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
