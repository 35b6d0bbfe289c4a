"""Rotation under several writers, each a process of its own: no line may be lost or cut."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mdx.log_files import MAX_LOG_BYTES

WRITER = """
import sys
from pathlib import Path
from mdx import log_files
log, name, count, max_bytes = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
log_files.attach(log, max_bytes=max_bytes)
for number in range(count):
    sys.stderr.write(f"{name} {number:06}\\n")
    sys.stderr.flush()
"""


def start(log: Path, program: str, *arguments: object) -> subprocess.Popen[bytes]:
    """As `mdx.spawn` does it: the log is open already as standard output and error."""
    with open(log, "ab") as output:
        command = [sys.executable, "-P", "-c", program, str(log), *map(str, arguments)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output)


def finish(process: subprocess.Popen[bytes]) -> None:
    process.communicate(timeout=30)
    assert process.returncode == 0


def lines(log: Path) -> list[str]:
    """Of both files, oldest first."""
    return "".join(
        path.read_text() for path in (Path(f"{log}.1"), log) if path.exists()
    ).splitlines()


def test_two_files_are_kept_and_nobody_else_reads_them(tmp_path: Path) -> None:
    log = tmp_path / "hub.log"
    finish(start(log, WRITER, "a", 200, 500))

    assert sorted(os.listdir(tmp_path)) == ["hub.log", "hub.log.1"]
    assert all(path.stat().st_size <= 500 for path in tmp_path.iterdir())
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    kept = lines(log)
    assert kept == [f"a {number:06}" for number in range(200)][-len(kept) :]
    assert len(kept) > 500 // 9


def test_writers_that_rotate_for_each_other_lose_no_line(tmp_path: Path) -> None:
    """Half of all lines fit into one file, so there is one rotation, somewhere in the middle."""
    log = tmp_path / "hub.log"
    count, names = 400, ("a", "b", "c")
    size = len(names) * count * len("a 000000\n")
    writers = [start(log, WRITER, name, count, size * 2 // 3) for name in names]
    for writer in writers:
        finish(writer)

    assert Path(f"{log}.1").stat().st_size <= size * 2 // 3 + 100  # all went on in the new one
    found = lines(log)
    assert sorted(found) == [f"{name} {number:06}" for name in names for number in range(count)]


def test_each_writers_newest_lines_survive_many_rotations(tmp_path: Path) -> None:
    log = tmp_path / "hub.log"
    writers = [start(log, WRITER, name, 400, 2000) for name in ("a", "b", "c")]
    for writer in writers:
        finish(writer)

    found = lines(log)
    assert all(len(line) == len("a 000000") for line in found)  # whole ones
    for name in "abc":
        own = [int(line[2:]) for line in found if line[0] == name]
        assert own == sorted(own)
        assert not own or own[-1] - own[0] == len(own) - 1  # no gap


def test_a_rotation_waits_for_a_line_that_is_being_written(tmp_path: Path) -> None:
    """Else that line could land in a file that two rotations have made nobody's."""
    log = tmp_path / "hub.log"
    log.write_text("full\n")
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_SH)  # as another writer does
        with start(log, WRITER, "a", 1, 6) as writer:
            with pytest.raises(subprocess.TimeoutExpired):
                writer.wait(timeout=1)
            assert not Path(f"{log}.1").exists()
            fcntl.flock(folder, fcntl.LOCK_UN)
            finish(writer)
    finally:
        os.close(folder)
    assert lines(log) == ["full", "a 000000"]


FORKS = """
import os, sys
from pathlib import Path
from mdx import log_files
log_files.attach(Path(sys.argv[1]))
sys.stderr.write("parent\\n")
if os.fork() == 0:
    sys.stderr.write("child\\n")
    os._exit(0)
os.wait()
print("printed", flush=True)
sys.stderr.write("begun, ")
sys.stderr.flush()
sys.stderr.write("odd: \\udcff\\n")
raise RuntimeError("last words")
"""


def test_children_and_last_words_go_there_too(tmp_path: Path) -> None:
    log = tmp_path / "hub.log"
    process = start(log, FORKS)
    process.communicate(timeout=30)

    assert process.returncode == 1
    text = log.read_text()
    assert text.startswith("parent\nchild\nprinted\nbegun, odd: \\udcff\n")
    assert text.endswith("RuntimeError: last words\n")


def test_a_link_in_the_logs_place_is_not_followed(tmp_path: Path) -> None:
    log, target = tmp_path / "hub.log", tmp_path / "precious"
    target.write_text("keep\n")
    with start(
        log, WRITER.replace("for number", "sys.stdin.read()\nfor number"), "a", 3, 9000
    ) as w:
        log.unlink()
        log.symlink_to(target)
        finish(w)

    assert target.read_text() == "keep\n"
    assert log.read_text().count("\n") == 3  # a log of its own, and the link is set aside
    assert Path(f"{log}.1").is_symlink()


def test_a_log_that_is_taken_away_is_begun_again(tmp_path: Path) -> None:
    log = tmp_path / "hub.log"
    with start(
        log, WRITER.replace("for number", "sys.stdin.read()\nfor number"), "a", 3, 9000
    ) as w:
        log.unlink()
        finish(w)
    assert log.read_text().count("\n") == 3


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    with start(
        folder / "hub.log", WRITER.replace("for number", "sys.stdin.read()\nfor number"), "a", 3, 9
    ) as w:
        (folder / "hub.log").unlink()
        folder.rmdir()
        finish(w)


def test_a_module_runs_with_its_log_and_its_own_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_daemon.py").write_text(
        "import sys\n"
        "from mdx import log_files\n"
        "print(__name__, sys.argv[1:], log_files.attached())\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    log = tmp_path / "d.log"

    subprocess.run(
        [sys.executable, "-P", "-m", "mdx.log_files", str(log), "a_daemon", "--ready-fd", "3"],
        check=True,
        timeout=30,
    )

    assert log.read_text() == f"__main__ ['--ready-fd', '3'] {log}\n"


def test_the_limit_is_the_promised_one() -> None:
    assert MAX_LOG_BYTES == 2 * 1024 * 1024
