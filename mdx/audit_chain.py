"""A chain of audit records: one JSON object a line, each with the hash of the one before it.

    {"seq":7,"at":"2026-03-01T08:00:00.250Z","writer":"hub","event":"run.ended",
     "fields":{"app":"payroll","run":"0badcafe"},"prev":"<64 hex>","hash":"<64 hex>"}\\n

Rules of this file (the format in full: docs/audit-format.md):
- A record has one encoding: these keys in this order, fields by name, no spaces, printable ASCII.
  Whatever a client put into a name stays inside its string, so a line is always one record.
- `hash` is SHA-256 over the line without `hash`, so a reader need not encode anything again.
- `prev` of the first record stands for the format and the writer.
- What is left out at the end, nothing in the chain itself can show: that takes an anchor, which is
  a record in another chain that says how far this one had come.
- Pure: no clock, no file. It never repairs anything.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import Enum

__all__ = [
    "MAX_FINDINGS",
    "MAX_LINE_BYTES",
    "MAX_TEXT",
    "Anchor",
    "BadRecord",
    "Chain",
    "Checked",
    "Finding",
    "Flaw",
    "Record",
    "Value",
    "check",
    "parse_record",
]

Value = str | int | float | bool | None

MAX_TEXT = 1000  # characters of one field; more is a client's doing, and is cut with a note
MAX_LINE_BYTES = 256 * 1024  # twenty fields of characters that take twelve bytes each
MAX_FINDINGS = 100  # more is for nobody to read; how many were left out is said
MAX_INTEGER = 2**63 - 1  # what other languages read without loss of size

_GENESIS = "mdx audit chain 1\n"
_KEYS = ["seq", "at", "writer", "event", "fields", "prev", "hash"]
_WRITER = re.compile(r"[a-z0-9][a-z0-9:._-]{0,63}", re.ASCII)
_DOTTED = re.compile(r"[a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)*", re.ASCII)
_FIELD = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
_AT = re.compile(r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9](?::[0-5][0-9]){2}\.[0-9]{3}Z", re.ASCII)


class BadRecord(ValueError):
    """A line is not a record, or not the one that was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record; `at` is RFC 3339 in UTC to the millisecond."""

    seq: int
    at: str
    writer: str
    event: str
    fields: Mapping[str, Value]
    prev: str
    hash: str

    @property
    def line(self) -> bytes:
        """The line, with its newline."""
        return _line(_body(self), self.hash)

    def to_dict(self) -> dict[str, object]:
        """Data for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """How far a writer's chain has come: `seq` records, of which the last has this hash.

    Raises: ValueError for a writer that is not `[a-z0-9:._-]`, 64 characters at most.
    """

    writer: str
    seq: int = 0
    hash: str = ""

    def __post_init__(self) -> None:
        if _WRITER.fullmatch(self.writer) is None:
            raise ValueError(f"{self.writer!a} cannot name the writer of a chain")
        if not self.hash:
            object.__setattr__(self, "hash", _genesis(self.writer))

    def record(self, event: str, fields: Mapping[str, Value], *, at: float) -> Record:
        """The record that would come next; `at` is in Unix seconds.

        Raises: ValueError for names and values that have no encoding.
        """
        if _DOTTED.fullmatch(event) is None:
            raise ValueError(f"{event!a} cannot name an event")
        unsealed = Record(
            seq=self.seq + 1,
            at=_timestamp(at),
            writer=self.writer,
            event=event,
            fields={name: _checked_value(name, fields[name]) for name in sorted(fields)},
            prev=self.hash,
            hash="",
        )
        body = _body(unsealed)
        if len(body) > MAX_LINE_BYTES - 100:
            raise ValueError(f"{event}: a record of {len(body)} bytes")
        return replace(unsealed, hash=_hash(body))

    def after(self, record: Record) -> Chain:
        """The chain once `record` is written."""
        return Chain(writer=self.writer, seq=record.seq, hash=record.hash)


def parse_record(line: bytes) -> Record:
    """The record in a line without its newline. Raises: BadRecord unless it is exactly one."""
    if len(line) > MAX_LINE_BYTES:
        raise BadRecord("it is too long for a record")
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise BadRecord("it is not a record") from None
    if not isinstance(found, dict) or list(found) != _KEYS or not _is_shaped(found):
        raise BadRecord("it is not a record")
    record = Record(**found)
    try:
        body = _body(record)
    except ValueError:  # NaN and its like, which Python's JSON reads and no other
        raise BadRecord("it is not a record") from None
    if _line(body, record.hash) != line + b"\n":
        raise BadRecord("it is not spelt as a record is")
    if _hash(body) != record.hash:
        raise BadRecord("it does not match its own hash")
    return record


# Checking -----------------------------------------------------------------------------------------


class Flaw(Enum):
    """What can be wrong with a chain."""

    CHANGED = "changed"
    MISSING = "missing"
    MOVED = "moved"
    REPEATED = "repeated"
    CUT = "cut"
    UNFINISHED = "unfinished"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One flaw, with the number of the line where it shows (0: of the file as a whole)."""

    flaw: Flaw
    line: int
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}" if self.line else self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """What another chain (`origin`) says of this one: its record `seq` had this `hash`."""

    seq: int
    hash: str
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A chain that was read to its end: `chain` is None when it held no record at all."""

    chain: Chain | None
    first_at: str
    last_at: str
    findings: tuple[Finding, ...]
    findings_left_out: int


def check(lines: Iterable[bytes], *, anchors: Sequence[Anchor] = ()) -> Checked:
    """Read a whole chain, in lines that end with their newline, and hold it against `anchors`."""
    walk = _Walk({anchor.seq: set() for anchor in anchors})
    for number, line in enumerate(lines, 1):
        walk.take(number, line)
    return walk.end(anchors)


@dataclass(slots=True)
class _Walk:
    """The state of `check`. Records are placed by `seq`; a gap may still be filled further down."""

    anchored: dict[int, set[str]]  # hashes seen for each seq that an anchor names
    number: int = 0
    chain: Chain | None = None  # up to the record with the highest seq
    unreadable: int = 0  # lines since that record that may have been records
    gaps: list[tuple[int, int, int]] = field(default_factory=list)  # first, last, line
    first_at: str = ""
    last_at: str = ""
    findings: list[Finding] = field(default_factory=list)
    left_out: int = 0

    def take(self, number: int, line: bytes) -> None:
        self.number = number
        if not line.endswith(b"\n"):
            self._find(Flaw.UNFINISHED, f"it was never finished ({len(line)} bytes)")
            return
        try:
            record = parse_record(line[:-1])
        except BadRecord as error:
            self._unreadable(str(error))
            return
        chain = self.chain or Chain(writer=record.writer)
        if record.writer != chain.writer:
            self._unreadable(f"it is by {record.writer}, in the chain of {chain.writer}")
            return
        if record.seq in self.anchored:
            self.anchored[record.seq].add(record.hash)
        if record.seq <= chain.seq:
            self._place_late(record.seq)
            return
        if record.seq > chain.seq + 1 + self.unreadable:
            self.gaps.append((chain.seq + 1, record.seq - 1, number))
        elif record.seq == chain.seq + 1 and record.prev != chain.hash:
            self._find(Flaw.CHANGED, f"record {record.seq} follows another than the one before it")
        self.chain, self.unreadable = chain.after(record), 0
        self.first_at = self.first_at or record.at
        self.last_at = record.at

    def end(self, anchors: Sequence[Anchor]) -> Checked:
        for first, last, number in self.gaps:
            self._find(Flaw.MISSING, f"{_records(first, last)} missing before it", number)
        highest = self.chain.seq if self.chain else 0
        for anchor in anchors:
            if anchor.seq > highest:
                text = f"{_records(highest + 1, anchor.seq)} cut off; {anchor.origin} knows of them"
                self._find(Flaw.CUT, text, 0)
            elif self.anchored[anchor.seq] - {anchor.hash}:
                text = f"record {anchor.seq} is not the one that {anchor.origin} knows of"
                self._find(Flaw.CHANGED, text, 0)
        return Checked(
            chain=self.chain,
            first_at=self.first_at,
            last_at=self.last_at,
            findings=tuple(sorted(self.findings, key=lambda finding: finding.line)),
            findings_left_out=self.left_out,
        )

    def _unreadable(self, text: str) -> None:
        self.unreadable += 1
        self._find(Flaw.CHANGED, text)

    def _place_late(self, seq: int) -> None:
        for place, (first, last, number) in enumerate(self.gaps):
            if first <= seq <= last:
                left = [(first, seq - 1, number), (seq + 1, last, number)]
                self.gaps[place : place + 1] = [gap for gap in left if gap[0] <= gap[1]]
                self._find(Flaw.MOVED, f"record {seq} stands after a later one")
                return
        self._find(Flaw.REPEATED, f"there is a record {seq} already")

    def _find(self, flaw: Flaw, text: str, line: int | None = None) -> None:
        if len(self.findings) < MAX_FINDINGS:
            number = self.number if line is None else line
            self.findings.append(Finding(flaw=flaw, line=number, text=text))
        else:
            self.left_out += 1


def _records(first: int, last: int) -> str:
    return f"record {first} is" if first == last else f"records {first} to {last} are"


# Encoding -----------------------------------------------------------------------------------------


def _genesis(writer: str) -> str:
    return hashlib.sha256(f"{_GENESIS}{writer}".encode()).hexdigest()


def _hash(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _body(record: Record) -> bytes:
    """The record as an object without its hash: what the hash is taken over."""
    text = json.dumps(
        {
            "seq": record.seq,
            "at": record.at,
            "writer": record.writer,
            "event": record.event,
            "fields": {name: record.fields[name] for name in sorted(record.fields)},
            "prev": record.prev,
        },
        ensure_ascii=True,
        allow_nan=False,
        separators=(",", ":"),
    )
    return text.encode("ascii")


def _line(body: bytes, digest: str) -> bytes:
    return b'%s,"hash":"%s"}\n' % (body[:-1], digest.encode("ascii", "replace"))


def _timestamp(at: float) -> str:
    text = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"


def _checked_value(name: str, value: Value) -> Value:
    if _FIELD.fullmatch(name) is None:
        raise ValueError(f"{name!a} cannot name a field")
    if isinstance(value, str):
        return _text(value)
    if not _is_value(value):
        raise ValueError(f"the field {name} cannot hold this {type(value).__name__}")
    return value


def _text(value: str) -> str:
    cut = value[:MAX_TEXT]
    if len(value) > MAX_TEXT:
        cut += f"... ({len(value) - MAX_TEXT} more)"
    # Half a surrogate pair, as undecodable bytes become in Python, is not text for other readers.
    return cut.encode("utf-8", "backslashreplace").decode("utf-8")


def _is_value(value: object) -> bool:
    if isinstance(value, bool | str) or value is None:
        return True
    if isinstance(value, int):
        return abs(value) <= MAX_INTEGER
    return isinstance(value, float) and value - value == 0  # neither NaN nor an infinity


def _is_shaped(found: dict[str, object]) -> bool:
    seq, fields = found["seq"], found["fields"]
    return (
        type(seq) is int
        and 1 <= seq <= MAX_INTEGER
        and _matches(_AT, found["at"])
        and _matches(_WRITER, found["writer"])
        and _matches(_DOTTED, found["event"])
        and isinstance(fields, dict)
        and all(_FIELD.fullmatch(name) and _is_value(value) for name, value in fields.items())
        and _matches(_HASH, found["prev"])
        and _matches(_HASH, found["hash"])
    )


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None
