"""Reading the logs of our daemons: the last lines, those that come after, and what they say.

Lines are JSON (`mdx.json_log`) or plain text (last words of a process that died). Whatever they
hold is data: what is no printable character does not reach the terminal.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdx.errors import MdxError

__all__ = ["PARTS", "Follower", "Line", "escaped", "last_lines", "parts_here"]

PARTS = ("control", "gateway", "site", "hub")
BLOCK_BYTES = 64 * 1024
MAX_LINE_BYTES = 64 * 1024  # of a line that is shown; a longer one is cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line. `at` is its time as text (ISO 8601, UTC), empty where it has none.

    `event` is empty for plain text, which stands in `text` then.
    """

    part: str
    at: str
    event: str
    text: str
    facts: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Data for JSON."""
        said: dict[str, Any] = self.facts if self.event else {"text": self.text}
        return {"at": self.at or None, "part": self.part, "event": self.event or None} | said


def parts_here(folder: Path) -> list[str]:
    """The parts that have a log in this folder; others than ours are not shown."""
    return [part for part in PARTS if (folder / f"{part}.log").is_file()]


def last_lines(folder: Path, part: str, count: int) -> list[Line]:
    """The newest lines of a part, oldest first, from its log and the one before that.

    Raises: MdxError.
    """
    lines: list[bytes] = []
    for path in (folder / f"{part}.log.1", folder / f"{part}.log"):
        try:
            lines += _tail(path, count)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise MdxError(f"{path}: {error.strerror}") from None
    return [parse(part, line) for line in lines[-count:]]


def parse(part: str, raw: bytes) -> Line:
    """What a line says, whatever it is."""
    text = raw[:MAX_LINE_BYTES].decode("utf-8", "replace")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("event"), str):
        return Line(part=part, at="", event="", text=escaped(text))
    at = found.pop("at", "")
    event = escaped(found.pop("event"))
    found.pop("part", None)
    words = [f"{name}={json.dumps(value)}" for name, value in found.items()]
    return Line(
        part=part,
        at=escaped(str(at)),
        event=event,
        text=escaped(" ".join(words)),
        facts=found,
    )


class Follower:
    """What is added to a part's log from now on; a log that is replaced is followed into the new.

    `new_lines()` gives what has come since, without waiting.
    """

    def __init__(self, folder: Path, part: str) -> None:
        self._path = folder / f"{part}.log"
        self._part = part
        self._rest = b""
        self._descriptor = -1
        self._open(at_end=True)

    def new_lines(self) -> Iterator[Line]:
        """Whole lines only."""
        yield from self._read()
        if self._was_replaced():
            yield from self._read()  # what was written to the old one until it was replaced
            self.close()
            self._open(at_end=False)
            yield from self._read()

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self, *, at_end: bool) -> None:
        try:
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        self._rest = b""
        if at_end:
            os.lseek(self._descriptor, 0, os.SEEK_END)

    def _was_replaced(self) -> bool:
        try:
            named = os.stat(self._path)
        except FileNotFoundError:
            return False
        if self._descriptor < 0:
            return True
        held = os.fstat(self._descriptor)
        if (held.st_dev, held.st_ino) != (named.st_dev, named.st_ino):
            return True
        if os.lseek(self._descriptor, 0, os.SEEK_CUR) > held.st_size:
            os.lseek(self._descriptor, 0, os.SEEK_SET)  # it was emptied in place
            self._rest = b""
        return False

    def _read(self) -> Iterator[Line]:
        while self._descriptor >= 0 and (piece := os.read(self._descriptor, BLOCK_BYTES)):
            *whole, self._rest = (self._rest + piece).split(b"\n")
            self._rest = self._rest[:MAX_LINE_BYTES]
            yield from (parse(self._part, line) for line in whole if line.strip())


def escaped(text: str) -> str:
    """The text on one line, without what could move a terminal's cursor."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _tail(path: Path, count: int) -> list[bytes]:
    """The last `count` lines that are not empty. Raises: OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        start = file.seek(0, os.SEEK_END)
        held = b""
        while start > 0 and held.count(b"\n") <= count:
            step = min(BLOCK_BYTES, start)
            start -= step
            file.seek(start)
            held = file.read(step) + held
    lines = held.split(b"\n")
    if start > 0:
        lines = lines[1:]  # begun before what was read
    return [line for line in lines if line.strip()][-count:]
