"""The log of a daemon in two files: what is written now, and what was before (`.1`).

`python -m mdx.log_files LOG MODULE ARGUMENTS…` runs a daemon whose standard error is its log. A
log is shared (the hub's by its zygote and all agents), and whoever finds it full renames it and
begins the next. Each writer looks, under a lock on the folder, whether the name still leads to
the file that it holds, so no line lands in a file that is already forgotten.

Rules of this file:
- A log that cannot be written stops nothing, and waits for nobody but another writer's line.
- Nothing is opened but by a name without links, and mode 0600.
Standard library only.
"""

from __future__ import annotations

import fcntl
import io
import os
import runpy
import stat
import sys
import threading
from contextlib import suppress
from pathlib import Path

__all__ = ["MAX_LOG_BYTES", "LogStream", "attach", "attached", "main"]

MAX_LOG_BYTES = 2 * 1024 * 1024  # of each of the two files
_OUTPUTS = (1, 2)


class LogStream(io.TextIOBase):
    """Text for the log at `path`, written line by line to descriptor 2."""

    def __init__(self, path: Path, *, max_bytes: int = MAX_LOG_BYTES) -> None:
        super().__init__()
        self.path = path
        self._max_bytes = max_bytes
        self._begun = ""
        self._writing = threading.Lock()

    def write(self, text: str) -> int:
        """Take `text`; whole lines are written at once."""
        with self._writing:
            whole, end, self._begun = (self._begun + text).rpartition("\n")
            if end:
                self._put(f"{whole}\n")
        return len(text)

    def flush(self) -> None:
        """Write the line that was begun, too."""
        with self._writing:
            begun, self._begun = self._begun, ""
            if begun:
                self._put(begun)

    def fileno(self) -> int:
        return _OUTPUTS[-1]

    def writable(self) -> bool:
        return True

    def _put(self, text: str) -> None:
        content = text.encode("utf-8", "backslashreplace")
        with suppress(OSError):
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                _lock(folder, fcntl.LOCK_SH)
                if not self._takes(len(content)):
                    _lock(folder, fcntl.LOCK_EX)  # not in one step: look again
                    if not self._takes(len(content)):
                        self._renew(len(content))
                os.write(self.fileno(), content)  # O_APPEND: one line never cuts another
            finally:
                os.close(folder)

    def _takes(self, count: int) -> bool:
        """Is what we hold the log, and is there room in it?"""
        held = os.fstat(self.fileno())
        try:
            named = os.lstat(self.path)
        except FileNotFoundError:
            return False
        same = (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino)
        return same and self._has_room(named.st_size, count)

    def _has_room(self, size: int, count: int) -> bool:
        return size == 0 or size + count <= self._max_bytes

    def _renew(self, count: int) -> None:
        with suppress(FileNotFoundError):
            named = os.lstat(self.path)
            if not stat.S_ISREG(named.st_mode) or not self._has_room(named.st_size, count):
                self.path.replace(f"{self.path}.1")
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        fresh = os.open(self.path, flags, 0o600)
        for output in _OUTPUTS:
            os.dup2(fresh, output)
        os.close(fresh)


def attach(path: Path, *, max_bytes: int = MAX_LOG_BYTES) -> None:
    """Make the log at `path` this process's standard output and error."""
    sys.stdout = sys.stderr = LogStream(path, max_bytes=max_bytes)


def attached() -> Path | None:
    """The log that this process writes, for a child that is to share it."""
    return sys.stderr.path if isinstance(sys.stderr, LogStream) else None


def main() -> None:
    """Run the module named second on the command line, with the log named first."""
    log, module = sys.argv[1:3]
    attach(Path(log))
    del sys.argv[:2]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _lock(folder: int, kind: int) -> None:
    with suppress(OSError):  # a file system without locks: then only a double rotation can lose
        fcntl.flock(folder, kind)


if __name__ == "__main__":
    # By its own name, so that `attached` knows the class of the stream.
    from mdx import log_files

    log_files.main()
