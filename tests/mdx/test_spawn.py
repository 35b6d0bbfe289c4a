"""Real daemons: small programs started as modules from a folder of the test."""

import os
import select
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from mdx.errors import MdxError
from mdx.spawn import DaemonLock, running_pid, start_daemon, stop_daemon

HEAD = """
import argparse, signal, sys
from pathlib import Path
from mdx.errors import ConfigError
from mdx.hub.wire import error_message
from mdx.spawn import DaemonLock, report_ready
parser = argparse.ArgumentParser()
parser.add_argument("--ready-fd", type=int)
parser.add_argument("--lock", type=Path)
options = parser.parse_args()
"""
SERVES = (
    HEAD
    + """
lock = DaemonLock(options.lock)
print("serving", flush=True)
report_ready(options.ready_fd, {"port": 7})
signal.pause()
"""
)
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SERVES
FAILS = HEAD + 'report_ready(options.ready_fd, error_message(ConfigError("no", hint="do")))'
CRASHES = HEAD + 'sys.exit("all is lost")'


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Make a program that `python -m` finds."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def write(source: str) -> str:
        (tmp_path / "daemon_under_test.py").write_text(source)
        return "daemon_under_test"

    return write


def test_a_daemon_reports_is_found_and_is_stopped(
    tmp_path: Path, module: Callable[[str], str]
) -> None:
    lock, log = tmp_path / "d.lock", tmp_path / "d.log"

    report = start_daemon(module(SERVES), ["--lock", str(lock)], log=log)
    pid = running_pid(lock)

    assert report == {"port": 7}
    assert pid is not None
    assert os.getsid(pid) != os.getsid(0)  # it does not die with our terminal
    with pytest.raises(ChildProcessError):  # nor is it our child
        os.waitpid(pid, os.WNOHANG)
    assert log.read_text() == "serving\n"
    assert log.stat().st_mode & 0o777 == 0o600
    assert stop_daemon(lock)
    assert running_pid(lock) is None
    assert not stop_daemon(lock)


def test_a_second_one_says_that_the_first_runs(
    tmp_path: Path, module: Callable[[str], str]
) -> None:
    lock = tmp_path / "d.lock"
    held = DaemonLock(lock)

    with pytest.raises(MdxError, match="already running"):
        start_daemon(module(SERVES), ["--lock", str(lock)], log=tmp_path / "d.log")

    held.release()
    assert running_pid(lock) is None


def test_its_own_error_arrives_whole(tmp_path: Path, module: Callable[[str], str]) -> None:
    with pytest.raises(MdxError, match="no") as caught:
        start_daemon(module(FAILS), ["--lock", "unused"], log=tmp_path / "d.log")

    assert (caught.value.hint, caught.value.exit_code) == ("do", 78)


def test_last_words_of_one_that_crashes(tmp_path: Path, module: Callable[[str], str]) -> None:
    log = tmp_path / "d.log"
    log.write_text("from an earlier life\n")

    with pytest.raises(MdxError, match="did not start: all is lost") as caught:
        start_daemon(module(CRASHES), ["--lock", "unused"], log=log)

    assert caught.value.hint == f"its log: {log}"


def test_one_that_was_killed_is_not_running(tmp_path: Path, module: Callable[[str], str]) -> None:
    lock = tmp_path / "d.lock"
    start_daemon(module(SERVES), ["--lock", str(lock)], log=tmp_path / "d.log")
    pid = running_pid(lock)
    assert pid is not None

    pidfd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    assert select.select([pidfd], [], [], 10)[0]
    os.close(pidfd)

    assert lock.read_text().strip() == str(pid)  # a stale pid, which the lock disproves
    assert running_pid(lock) is None


def test_one_that_ignores_sigterm_is_killed(
    tmp_path: Path, module: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mdx.spawn.STOP_SECONDS", 0.2)
    lock = tmp_path / "d.lock"
    start_daemon(module(STUBBORN), ["--lock", str(lock)], log=tmp_path / "d.log")
    pid = running_pid(lock)
    assert pid is not None

    assert stop_daemon(lock)

    assert running_pid(lock) is None
