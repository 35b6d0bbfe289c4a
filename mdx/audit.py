"""Audit chains on disk: one file of JSON lines for each writer, `audit/WRITER.jsonl`.

Rules of this file:
- A writer holds a lock on its file for as long as it lives; a second writer is refused. After a
  restart, or a crash, the next one goes on where the last whole record ends.
- `append` returns when the record is written (`durable`: and on the disk). When it cannot be, it
  raises and takes back what was half-written: no partial line is ever followed by another record.
- A file that is a link, or open to others, or moved away, or changed behind the writer's back is
  not written to. What is found broken is reported and never repaired.
"""

from __future__ import annotations

import errno
import fcntl
import heapq
import os
import stat
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from mdx.audit_chain import (
    MAX_LINE_BYTES,
    Anchor,
    BadRecord,
    Chain,
    Finding,
    Flaw,
    Record,
    Value,
    check,
    parse_record,
)
from mdx.audit_events import check_event
from mdx.errors import AuditUnwritable, MdxError
from vault import now

__all__ = ["AuditLog", "ChainReport", "read", "verify"]

SUFFIX = ".jsonl"

_HINTS = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "your disk quota is used up: free some space",
    errno.EFBIG: "the file may not grow further: raise the limit (ulimit -f), or move it away",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "see who owns the folder, and its mode",
    errno.ENOENT: "the folder is gone: mdx down, then start again",
    errno.ELOOP: "links are not followed: put a folder of your own in its place",
}
_VERIFY_HINT = "run: mdx audit verify; to begin a new chain, move the file away"


def _wall_clock() -> float:
    return now().wall


class AuditLog:
    """The one living writer of a chain. `durable` waits for the disk at each record.

    Thread-safe. Raises: AuditUnwritable when the chain cannot be gone on with.
    """

    def __init__(
        self,
        path: Path,
        *,
        writer: str,
        durable: bool = False,
        clock: Callable[[], float] = _wall_clock,
    ) -> None:
        self._path = path
        self._durable = durable
        self._clock = clock
        self._lock = threading.Lock()
        self._half_written = False
        self._descriptor = _open_own(path)
        try:
            self._chain, self._end, dropped_bytes = self._take_up(Chain(writer=writer))
            if dropped_bytes:
                os.ftruncate(self._descriptor, self._end)
                self.append("audit.recovered", dropped_bytes=dropped_bytes)
            elif durable:
                _sync_folder(path.parent)
        except OSError as error:
            self.close()
            raise _unwritable(path, error) from None
        except BaseException:
            self.close()
            raise

    @property
    def path(self) -> Path:
        return self._path

    def append(self, event: str, **fields: Value) -> None:
        """Write one record.

        Raises: AuditUnwritable, and then it is as if it had never been tried. ValueError for an
        event or a field that is not in the catalogue.
        """
        check_event(event, fields)
        with self._lock:
            try:
                self._look()
                record = self._chain.record(event, fields, at=self._clock())
                self._write(record.line)
            except OSError as error:
                raise _unwritable(self._path, error) from None
            self._chain = self._chain.after(record)

    def anchor(self, chain: Path) -> None:
        """Write down how far another chain of this folder has come, so that it cannot be cut.

        What is wrong with that chain is written down too. Raises: AuditUnwritable; ValueError for
        a chain in another folder.
        """
        if chain.parent != self._path.parent:
            raise ValueError(f"{chain} is not in {self._path.parent}")
        try:
            with _opened_for_reading(chain) as file:
                last, _, _ = _last_record(file.fileno())
        except (OSError, BadRecord) as error:
            flaw = error.strerror if isinstance(error, OSError) else f"its last record: {error}"
            self.append("audit.anchored", chain=chain.name, flaw=flaw)
        else:
            seq, digest = (last.seq, last.hash) if last else (0, "")
            self.append("audit.anchored", chain=chain.name, last_seq=seq, last_hash=digest)

    def close(self) -> None:
        """Let the next writer in; the end of the process does the same."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def __enter__(self) -> AuditLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _take_up(self, fresh: Chain) -> tuple[Chain, int, int]:
        """The chain so far, where it ends in the file, and how many bytes follow that end."""
        try:
            last, end, dropped_bytes = _last_record(self._descriptor)
        except BadRecord as error:
            raise AuditUnwritable(
                f"the audit {self._path} is broken at its end: {error}", hint=_VERIFY_HINT
            ) from None
        if last is not None and last.writer != fresh.writer:
            raise AuditUnwritable(
                f"the audit {self._path} is the chain of {last.writer}, not of {fresh.writer}",
                hint=_VERIFY_HINT,
            )
        return (fresh if last is None else fresh.after(last)), end, dropped_bytes

    def _look(self) -> None:
        """See that the file is still the one that was opened, and as long as it was left."""
        if self._descriptor < 0:
            raise AuditUnwritable(f"the audit {self._path} is closed")
        if self._half_written:
            os.ftruncate(self._descriptor, self._end)
            self._half_written = False
        ours = os.fstat(self._descriptor)
        try:
            there = os.lstat(self._path)
        except FileNotFoundError:
            there = None
        if there is None or not os.path.samestat(ours, there):
            raise AuditUnwritable(
                f"the audit {self._path} was moved or removed",
                hint="put it back, or start anew: mdx down, then again",
            )
        if ours.st_size != self._end:
            raise AuditUnwritable(
                f"the audit {self._path} was changed by somebody else "
                f"({ours.st_size - self._end:+} bytes)",
                hint=_VERIFY_HINT,
            )

    def _write(self, line: bytes) -> None:
        self._half_written = True
        try:
            written = 0
            while written < len(line):
                written += os.write(self._descriptor, line[written:])
            if self._durable:
                os.fsync(self._descriptor)
        except BaseException:
            self._take_back()
            raise
        self._half_written = False
        self._end += len(line)

    def _take_back(self) -> None:
        """Cut off a line that was not finished. If even that fails, the next append tries again."""
        try:
            os.ftruncate(self._descriptor, self._end)
        except OSError:
            return
        self._half_written = False


# Reading ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainReport:
    """What became of one chain. `anchored` is the highest record that another chain vouches for."""

    path: Path
    writer: str
    records: int
    first_at: str
    last_at: str
    anchored: int
    findings: tuple[Finding, ...]
    findings_left_out: int

    @property
    def problems(self) -> list[str]:
        """The findings in words; empty when the chain is whole."""
        texts = [str(finding) for finding in self.findings]
        return [*texts, f"and {self.findings_left_out} more"] if self.findings_left_out else texts

    def to_dict(self) -> dict[str, object]:
        """Data for JSON."""
        return {
            "path": str(self.path),
            "writer": self.writer,
            "records": self.records,
            "first_at": self.first_at,
            "last_at": self.last_at,
            "anchored": self.anchored,
            "whole": not self.findings,
            "findings": [
                {"flaw": found.flaw.value, "line": found.line, "text": found.text}
                for found in self.findings
            ],
            "findings_left_out": self.findings_left_out,
        }


def verify(folder: Path) -> list[ChainReport]:
    """Check every chain in `folder`, by itself and against the anchors in the others.

    Living writers may go on meanwhile. Raises: MdxError when there is no such folder.
    """
    paths = _chains(folder)
    # All anchors first: by the time a chain is read, it can only have grown beyond them.
    anchors: dict[str, list[Anchor]] = defaultdict(list)
    flaws: dict[str, list[Finding]] = defaultdict(list)
    for path in paths:
        _collect_anchors(path, anchors, flaws)
    names = {path.name for path in paths}
    gone = [folder / name for name in sorted({*anchors, *flaws} - names)]
    return [
        *(_report(path, anchors[path.name], flaws[path.name]) for path in paths),
        *(_report_gone(path, anchors[path.name], flaws[path.name]) for path in gone),
    ]


def read(
    folder: Path, *, unreadable: Callable[[Path, int, str], None] | None = None
) -> Iterator[Record]:
    """The records of all chains in `folder`, by time; those of one chain stay in their order.

    A line that is no record is left out, and told to `unreadable` (file, line, why).
    Raises: MdxError when there is no such folder; OSError.
    """
    chains = [_records(path, unreadable) for path in _chains(folder)]
    return heapq.merge(*chains, key=lambda record: record.at)


def _chains(folder: Path) -> list[Path]:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise MdxError(f"there is no audit to read in {folder}: {error.strerror}") from None
    return [folder / name for name in names if name.endswith(SUFFIX)]


def _records(path: Path, unreadable: Callable[[Path, int, str], None] | None) -> Iterator[Record]:
    with _opened_for_reading(path) as file:
        for number, line in enumerate(_lines(file), 1):
            try:
                yield parse_record(line.removesuffix(b"\n"))
            except BadRecord as error:
                if unreadable is not None:
                    unreadable(path, number, str(error))


def _collect_anchors(
    path: Path, anchors: dict[str, list[Anchor]], flaws: dict[str, list[Finding]]
) -> None:
    try:
        file = _opened_for_reading(path)
    except OSError:
        return  # its own report says so
    with file:
        for line in _lines(file):
            if b'"event":"audit.anchored"' not in line:
                continue
            try:
                record = parse_record(line.removesuffix(b"\n"))
            except BadRecord:
                continue  # its own report says so
            origin = f"record {record.seq} of {path.name}"
            name = str(record.fields.get("chain"))
            seq, digest = record.fields.get("last_seq"), record.fields.get("last_hash")
            if flaw := record.fields.get("flaw"):
                text = f"{origin} could not anchor it: {flaw}"
                flaws[name].append(Finding(flaw=Flaw.CHANGED, line=0, text=text))
            elif isinstance(seq, int) and isinstance(digest, str) and seq > 0:
                anchors[name].append(Anchor(seq=seq, hash=digest, origin=origin))


def _report(path: Path, anchors: Sequence[Anchor], flaws: Sequence[Finding]) -> ChainReport:
    for _ in range(3):  # a record may be on its way into the file just now
        try:
            with _opened_for_reading(path) as file:
                checked = check(_lines(file), anchors=anchors)
        except OSError as error:
            text = f"it cannot be read: {error.strerror}"
            return _unread(path, [Finding(flaw=Flaw.MISSING, line=0, text=text)])
        if not any(finding.flaw is Flaw.UNFINISHED for finding in checked.findings):
            break
    chain = checked.chain
    return ChainReport(
        path=path,
        writer=chain.writer if chain else "",
        records=chain.seq if chain else 0,
        first_at=checked.first_at,
        last_at=checked.last_at,
        anchored=max((anchor.seq for anchor in anchors), default=0),
        findings=(*flaws, *checked.findings),
        findings_left_out=checked.findings_left_out,
    )


def _report_gone(path: Path, anchors: Sequence[Anchor], flaws: Sequence[Finding]) -> ChainReport:
    gone = [
        Finding(flaw=Flaw.MISSING, line=0, text=f"the whole chain is gone; {anchor.origin} knew it")
        for anchor in anchors[-1:]
    ]
    return _unread(path, [*flaws, *gone])


def _unread(path: Path, findings: Sequence[Finding]) -> ChainReport:
    return ChainReport(
        path=path,
        writer="",
        records=0,
        first_at="",
        last_at="",
        anchored=0,
        findings=tuple(findings),
        findings_left_out=0,
    )


# Files --------------------------------------------------------------------------------------------


def _open_own(path: Path) -> int:
    """The chain's file, made if missing, locked. Raises: AuditUnwritable."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        _demand_own(path, os.fstat(descriptor))
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise AuditUnwritable(
            f"the audit {path} has a living writer already", hint="each chain has one writer"
        ) from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _demand_own(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise AuditUnwritable(f"the audit {path} is not a regular file")
    if found.st_uid != os.geteuid():
        raise AuditUnwritable(f"the audit {path} belongs to uid {found.st_uid}, not to you")
    if found.st_mode & 0o077:
        raise AuditUnwritable(
            f"the audit {path} has mode {stat.S_IMODE(found.st_mode):04o}; others could get at it",
            hint=f"chmod 600 {path}",
        )
    if found.st_nlink > 1:
        raise AuditUnwritable(f"the audit {path} has {found.st_nlink} names (hard links)")


def _last_record(descriptor: int) -> tuple[Record | None, int, int]:
    """The last whole record, where it ends, and how many bytes follow. Raises: BadRecord."""
    size = os.fstat(descriptor).st_size
    window_bytes = min(size, 2 * MAX_LINE_BYTES + 2)
    tail = os.pread(descriptor, window_bytes, size - window_bytes)
    ends = tail.rfind(b"\n") + 1
    unfinished = len(tail) - ends
    if not ends and window_bytes < size:
        raise BadRecord("it is longer than a record can be")
    if not ends:
        return None, 0, unfinished
    line = tail[tail.rfind(b"\n", 0, ends - 1) + 1 : ends - 1]
    return parse_record(line), size - unfinished, unfinished


def _opened_for_reading(path: Path) -> BinaryIO:
    """Raises: OSError, for anything but a regular file too."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return open(descriptor, "rb")


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines with their newline; of one that is too long only as much as shows that it is."""
    while line := file.readline(MAX_LINE_BYTES + 2):
        piece = line
        while not piece.endswith(b"\n"):
            piece = file.readline(MAX_LINE_BYTES + 2)
            if not piece:
                break
        yield line + b"\n" if piece.endswith(b"\n") and piece is not line else line


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(path: Path, error: OSError) -> AuditUnwritable:
    hint = _HINTS.get(error.errno or 0, "")
    return AuditUnwritable(f"the audit {path} cannot be written: {error.strerror}", hint=hint)
