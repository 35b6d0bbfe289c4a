"""Starting, finding and ending our own daemons: the one module that starts processes.

A daemon holds an exclusive lock on `NAME.lock` for as long as it lives, so that a lock that can
be taken means that the daemon is dead, however it ended; the pid inside is only a way to signal
it. It reports that it serves by one line of JSON on the descriptor named by `--ready-fd`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from mdx import log_files
from mdx.errors import MdxError

__all__ = [
    "ChildProcess",
    "DaemonLock",
    "output_of_script",
    "report_ready",
    "run_tool",
    "running_pid",
    "signal_daemon",
    "start_child",
    "start_daemon",
    "start_zygote",
    "stop_daemon",
]

# A daemon is nobody's child: the command that a launcher becomes must not find the hub among its
# own. So an interpreter that imports nothing starts it and ends at once.
_ORPHAN = "import os, sys; os.fork() and os._exit(0); os.execv(sys.argv[1], sys.argv[1:])"
# A child of ours ends with us, also when we are killed: the kernel sends it SIGTERM (15) then.
_BOUND = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15);"
    " os.getppid() == int(sys.argv[1]) or sys.exit(1); os.execv(sys.argv[2], sys.argv[2:])"
)
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of fcntl(2) on 64-bit Linux
START_SECONDS = 20.0  # a cold start on a slow disk takes about two
STOP_SECONDS = 10.0
SCRIPT_SECONDS = 2.0
TOOL_SECONDS = 90.0  # systemctl waits for a service to be ready


ChildProcess: TypeAlias = subprocess.Popen[bytes]


class DaemonLock:
    """The life-long lock of a daemon. Raises MdxError when another one lives."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, _whole_file(fcntl.F_WRLCK))
        except OSError:
            os.close(self._descriptor)
            raise MdxError(f"already running (it holds {path})") from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let go of the lock; the end of the process does the same."""
        os.close(self._descriptor)


def running_pid(lock: Path) -> int | None:
    """The pid of the daemon that holds `lock`, or None when none lives."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        # Asked, not tried: a lock that was taken to see whether it can be taken would keep a
        # daemon that starts at that moment from taking it.
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _whole_file(fcntl.F_WRLCK))
        if _FLOCK.unpack(answer)[0] == fcntl.F_UNLCK:
            return None
        text = os.pread(descriptor, 32, 0).strip()
        return int(text) if text.isdigit() else None
    finally:
        os.close(descriptor)


def _whole_file(kind: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0)


def start_daemon(module: str, arguments: Sequence[str], *, log: Path) -> dict[str, Any]:
    """Start `python -m MODULE ARGUMENTS` in a session of its own; return what it reported.

    Its standard output and error go to `log` (0600). Raises: MdxError with its last words when
    it ends or stays silent instead of reporting.
    """
    reading, writing = os.pipe()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        begins_at = os.fstat(output).st_size
        daemon = [*_logged(log, module), *arguments, "--ready-fd", str(writing)]
        subprocess.run(
            [sys.executable, "-I", "-S", "-c", _ORPHAN, *daemon],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[writing],
            start_new_session=True,
            cwd="/",
        )
        os.close(writing)
        writing = -1
        answer = _read_line(reading, START_SECONDS)
    finally:
        os.close(reading)
        os.close(output)
        if writing >= 0:
            os.close(writing)
    if not answer:
        with open(log, "rb") as file:
            # A log that was full when it began was renamed, and what it said stands in a new one.
            file.seek(begins_at if os.fstat(file.fileno()).st_size >= begins_at else 0)
            said = file.read().decode(errors="replace").strip().splitlines()
        raise MdxError(
            f"{module} did not start: {said[-1] if said else 'it said nothing'}",
            hint=f"its log: {log}",
        )
    report = json.loads(answer)
    if "error" in report:
        error = report["error"]
        raise MdxError(error["message"], hint=error["hint"], exit_code=error["exit_code"])
    return dict(report)


def report_ready(descriptor: int | None, report: dict[str, Any]) -> None:
    """The daemon's side: say once that it serves (or, with the key `error`, why it cannot)."""
    if descriptor is not None:
        with contextlib.suppress(BrokenPipeError):
            os.write(descriptor, json.dumps(report).encode() + b"\n")
        os.close(descriptor)


def start_zygote(channel: int) -> subprocess.Popen[bytes]:
    """Start the zygote of a hub; it gets `channel` (a socket) as its only inheritance."""
    return subprocess.Popen(
        [*_logged(log_files.attached(), "mdx.hub.zygote"), str(channel)],
        stdin=subprocess.DEVNULL,
        pass_fds=[channel],
        start_new_session=True,
        cwd="/",
    )


def run_tool(command: Sequence[str]) -> tuple[int, str]:
    """Run a program of the system, such as systemctl; its status and all that it printed.

    127 when there is no such program.
    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TOOL_SECONDS,
            check=False,
            cwd="/",
        )
    except FileNotFoundError:
        return 127, f"{command[0]} is not installed"
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, done.stdout.decode(errors="replace").strip()


def start_child(module: str, arguments: Sequence[str], *, log: Path) -> tuple[ChildProcess, int]:
    """Start `python -m MODULE ARGUMENTS` as a child that ends with this thread, `log` as its log.

    Returns the process and the descriptor on which it reports as a daemon does, in one line.
    Signals of our terminal do not reach it.
    """
    reading, writing = os.pipe()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        python = [sys.executable, "-P", "-m", "mdx.log_files", str(log)]
        child = [*python, module, *arguments, "--ready-fd", str(writing)]
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _BOUND, str(os.getpid()), *child],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[writing],
            start_new_session=True,
            cwd="/",
        )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
        os.close(output)
    return process, reading


def signal_daemon(lock: Path, sent: signal.Signals) -> bool:
    """Send a signal to the daemon that holds `lock`; False when none does."""
    pid = running_pid(lock)
    if pid is None:
        return False
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if running_pid(lock) != pid:  # it ended, and the number may be somebody else's by now
            return False
        signal.pidfd_send_signal(pidfd, sent)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True


def output_of_script(script: str) -> str:
    """What a few lines of Python print in a process of their own, without our environment.

    For what a process can only try by changing itself. Empty when it fails or takes too long.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=SCRIPT_SECONDS,
            check=False,
            env={},
            cwd="/",
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace")


def stop_daemon(lock: Path) -> bool:
    """SIGTERM, then after a while SIGKILL; False when it was not running."""
    pid = running_pid(lock)
    if pid is None:
        return False
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if running_pid(lock) != pid:  # it ended, and the number may be somebody else's by now
            return False
        for sent in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, sent)
            if select.select([pidfd], [], [], STOP_SECONDS)[0]:
                break
    finally:
        os.close(pidfd)
    return True


def _logged(log: Path | None, module: str) -> list[str]:
    """The command that runs a module of ours; with `log`, that writes and rotates it."""
    python = [sys.executable, "-P", "-m"]
    return [*python, module] if log is None else [*python, log_files.__name__, str(log), module]


def _read_line(descriptor: int, seconds: float) -> bytes:
    collected = b""
    while not collected.endswith(b"\n"):
        if not select.select([descriptor], [], [], seconds)[0]:
            return b""
        piece = os.read(descriptor, 4096)
        if not piece:
            return b""
        collected += piece
    return collected
