"""Audit chains as bytes: one encoding for each record, and every edit of a chain shows."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdx.audit_chain import (
    MAX_FINDINGS,
    MAX_LINE_BYTES,
    MAX_TEXT,
    Anchor,
    BadRecord,
    Chain,
    Checked,
    Flaw,
    Record,
    Value,
    check,
    parse_record,
)

AT = 1_772_352_000.25

values = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=()), max_size=40),
    st.integers(-(2**63) + 1, 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none(),
)
names = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)


def chain_of(count: int, *, writer: str = "hub", start: Chain | None = None) -> list[Record]:
    chain, records = start or Chain(writer=writer), []
    for number in range(count):
        records.append(chain.record("run.ended", {"run": f"r{number}"}, at=AT + number))
        chain = chain.after(records[-1])
    return records


def lines_of(records: Sequence[Record]) -> list[bytes]:
    return [record.line for record in records]


def flaws(checked: Checked) -> list[tuple[Flaw, int]]:
    return [(finding.flaw, finding.line) for finding in checked.findings]


def split(content: bytes) -> list[bytes]:
    pieces = content.split(b"\n")
    lines = [piece + b"\n" for piece in pieces[:-1]]
    return [*lines, pieces[-1]] if pieces[-1] else lines


# One encoding -------------------------------------------------------------------------------------


def test_the_exact_bytes_of_the_documented_example() -> None:
    # Both hashes were taken with sha256sum, as docs/audit-format.md shows.
    record = Chain(writer="hub").record("run.ended", {"run": "0badcafe", "app": "payroll"}, at=AT)
    assert record.line == (
        b'{"seq":1,"at":"2026-03-01T08:00:00.250Z","writer":"hub","event":"run.ended",'
        b'"fields":{"app":"payroll","run":"0badcafe"},'
        b'"prev":"c23f809e317c93824009e62f4bf766ed8c52eb01ab8dc5236a82c537d0e5c4da",'
        b'"hash":"dcd6f656f8d35761532c197c80dc1230c8c664e3532fac301138b1dac99b0349"}\n'
    )


@given(st.dictionaries(names, values, max_size=8), st.floats(0, 4e9))
def test_any_fields_are_one_line_of_printable_ascii_and_come_back(
    fields: dict[str, Value], at: float
) -> None:
    record = Chain(writer="agent:0badcafe").record("flow.allowed", fields, at=at)
    line = record.line
    assert line.endswith(b"\n")
    assert all(0x20 <= byte < 0x7F for byte in line[:-1])
    assert parse_record(line[:-1]) == record
    found = json.loads(line)
    assert list(found["fields"]) == sorted(fields)
    for name, value in fields.items():
        if isinstance(value, str):
            value = value.encode("utf-8", "backslashreplace").decode()
        assert found["fields"][name] == value


@pytest.mark.parametrize(
    "text",
    [
        'a\r\n{"seq":2,"event":"run.ended"}',
        "\x1b[2J\x1b]0;title\x07",
        "quote \" backslash \\ tick ' end",
        "abc\u202egnp.exe\u2066\u2069",
        "\u2028\u2029\x85\x0b\x0c\x00\x7f\x9b",
        os.fsdecode(b"undecodable \xff"),
    ],
)
def test_what_a_client_chose_stays_inside_its_string(text: str) -> None:
    line = Chain(writer="hub").record("run.ended", {"run": text}, at=AT).line
    assert len(line.decode("ascii").splitlines()) == 1
    assert line[:-1].decode("ascii").isprintable()
    assert flaws(check([line])) == []
    assert parse_record(line[:-1]).fields["run"] == text.replace("\udcff", "\\udcff")


def test_long_text_is_cut_with_a_note() -> None:
    record = Chain(writer="hub").record("run.ended", {"run": "x" * (MAX_TEXT + 7)}, at=AT)
    assert record.fields["run"] == "x" * MAX_TEXT + "... (7 more)"


def test_twenty_fields_of_the_worst_characters_still_fit() -> None:
    worst = {f"f{number}": "\U0001f600" * (MAX_TEXT + 1) for number in range(20)}
    record = Chain(writer="w" * 64).record("run.ended", worst, at=AT)
    assert parse_record(record.line[:-1]) == record
    assert len(record.line) < MAX_LINE_BYTES
    with pytest.raises(ValueError, match="a record of"):
        Chain(writer="hub").record("run.ended", worst | {"g": worst["f0"], "h": worst["f0"]}, at=AT)


@pytest.mark.parametrize(
    ("event", "fields"),
    [
        ("Run.ended", {}),
        ("run..ended", {}),
        ("run.ended\n", {}),
        ("", {}),
        ("run.ended", {"Run": 1}),
        ("run.ended", {"a b": 1}),
        ("run.ended", {"": 1}),
        ("run.ended", {"run": float("nan")}),
        ("run.ended", {"run": float("inf")}),
        ("run.ended", {"run": 2**63}),
        ("run.ended", {"run": b"bytes"}),
        ("run.ended", {"run": ["list"]}),
    ],
)
def test_what_has_no_encoding_is_a_programming_error(event: str, fields: dict[str, Value]) -> None:
    with pytest.raises(ValueError, match=r"cannot"):
        Chain(writer="hub").record(event, fields, at=AT)


@pytest.mark.parametrize("writer", ["", "Hub", "hub\n", "a b", ":x", "x" * 65, "hüb"])
def test_a_writer_has_a_plain_name(writer: str) -> None:
    with pytest.raises(ValueError, match="cannot name the writer"):
        Chain(writer=writer)


def test_chains_of_two_writers_begin_differently() -> None:
    assert Chain(writer="hub").hash != Chain(writer="control").hash


# Lines that are no records ------------------------------------------------------------------------


def altered(change: Callable[[dict[str, object]], object]) -> bytes:
    """A record that was changed and spelt properly again, with its old hash."""
    found = json.loads(chain_of(1)[0].line)
    change(found)
    return json.dumps(found, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "not a record"),
        (b"{}", "not a record"),
        (b"[1]", "not a record"),
        (b"null", "not a record"),
        (b"\xff\xfe", "not a record"),
        (b"[" * 100_000, "not a record"),
        (b'{"seq":' + b"9" * 5000 + b"}", "not a record"),
        (b" " * (MAX_LINE_BYTES + 1), "too long"),
        (altered(lambda found: found.update(seq=True)), "not a record"),
        (altered(lambda found: found.update(seq=0)), "not a record"),
        (altered(lambda found: found.update(seq=1.0)), "not a record"),
        (altered(lambda found: found.update(fields={"run": float("nan")})), "not a record"),
        (altered(lambda found: found.update(fields={"run": {}})), "not a record"),
        (altered(lambda found: found.update(extra=1)), "not a record"),
        (altered(lambda found: found.pop("fields")), "not a record"),
        (altered(lambda found: found.update(seq=2)), "own hash"),
        (altered(lambda found: found.update(fields={"run": "other"})), "own hash"),
        (chain_of(1)[0].line, "not spelt"),
        (chain_of(1)[0].line[:-1] + b" ", "not spelt"),
        (chain_of(1)[0].line[:-1].replace(b'"run":', b'"run": '), "not spelt"),
        (chain_of(1)[0].line[:-1].replace(b'"run":"r0"', b'"run":"x","run":"r0"'), "not spelt"),
        (chain_of(1)[0].line[:-1].replace(b"r0", b"\\u00720"), "not spelt"),
    ],
)
def test_a_line_that_is_not_exactly_a_record(line: bytes, why: str) -> None:
    with pytest.raises(BadRecord, match=why):
        parse_record(line)


@given(st.binary(max_size=300))
def test_any_bytes_are_no_record(line: bytes) -> None:
    with pytest.raises(BadRecord):
        parse_record(line)


# Flaws --------------------------------------------------------------------------------------------


def test_a_whole_chain_has_none() -> None:
    records = chain_of(5)
    checked = check(lines_of(records))
    assert checked.findings == ()
    assert checked.chain == Chain(writer="hub", seq=5, hash=records[-1].hash)
    assert (checked.first_at, checked.last_at) == (records[0].at, records[-1].at)


def test_an_empty_chain_has_none() -> None:
    assert check([]) == Checked(
        chain=None, first_at="", last_at="", findings=(), findings_left_out=0
    )


def test_a_changed_record_is_named_by_its_line() -> None:
    lines = lines_of(chain_of(5))
    lines[2] = lines[2].replace(b"r2", b"r9")
    assert flaws(check(lines)) == [(Flaw.CHANGED, 3)]


def test_a_record_that_was_changed_and_hashed_anew_shows_at_the_next() -> None:
    records = chain_of(5)
    before = Chain(writer="hub").after(records[1])
    forged = before.record("run.ended", {"run": "forged"}, at=AT)
    checked = check(lines_of([*records[:2], forged, *records[3:]]))
    assert flaws(checked) == [(Flaw.CHANGED, 4)]
    assert "record 4 follows another" in str(checked.findings[0])


def test_missing_records_are_counted() -> None:
    lines = lines_of(chain_of(9))
    checked = check(lines[:2] + lines[5:])
    assert flaws(checked) == [(Flaw.MISSING, 3)]
    assert str(checked.findings[0]) == "line 3: records 3 to 5 are missing before it"
    assert flaws(check(lines[1:])) == [(Flaw.MISSING, 1)]
    assert str(check(lines[1:]).findings[0]) == "line 1: record 1 is missing before it"


def test_swapped_records_are_moved_and_not_missing() -> None:
    lines = lines_of(chain_of(5))
    lines[1], lines[2] = lines[2], lines[1]
    assert flaws(check(lines)) == [(Flaw.MOVED, 3)]


def test_a_record_that_stands_twice() -> None:
    lines = lines_of(chain_of(3))
    assert flaws(check([*lines, lines[1]])) == [(Flaw.REPEATED, 4)]


def test_a_line_put_between_is_one_finding() -> None:
    lines = lines_of(chain_of(3))
    assert flaws(check([lines[0], b"#\n", *lines[1:]])) == [(Flaw.CHANGED, 2)]


def test_one_line_too_many_does_not_stand_for_a_record_that_is_missing_later() -> None:
    lines = lines_of(chain_of(5))
    checked = check([lines[0], b"#\n", lines[1], lines[3], lines[4]])
    assert flaws(checked) == [(Flaw.CHANGED, 2), (Flaw.MISSING, 4)]


def test_a_record_from_another_writers_chain() -> None:
    lines = lines_of(chain_of(3))
    strange = lines_of(chain_of(2, writer="control"))[1]
    checked = check([lines[0], strange, lines[2]])
    assert flaws(checked) == [(Flaw.CHANGED, 2)]
    assert "by control, in the chain of hub" in str(checked.findings[0])


def test_records_from_an_older_copy_of_the_chain() -> None:
    common = chain_of(2)
    start = Chain(writer="hub").after(common[-1])
    other = [start.record("run.ended", {"run": "other"}, at=AT)]
    checked = check(lines_of([*common, *other, *chain_of(2, start=start)[1:]]))
    assert flaws(checked) == [(Flaw.CHANGED, 4)]


def test_a_torn_last_line() -> None:
    content = b"".join(lines_of(chain_of(3)))
    checked = check(split(content[:-10]))
    assert flaws(checked) == [(Flaw.UNFINISHED, 3)]
    assert checked.chain is not None
    assert checked.chain.seq == 2


def test_a_cut_shows_only_against_an_anchor() -> None:
    records = chain_of(5)
    anchor = Anchor(seq=5, hash=records[4].hash, origin="record 9 of hub.jsonl")
    cut = lines_of(records[:3])
    assert flaws(check(cut)) == []
    checked = check(cut, anchors=[anchor])
    assert flaws(checked) == [(Flaw.CUT, 0)]
    text = "records 4 to 5 are cut off; record 9 of hub.jsonl knows of them"
    assert str(checked.findings[0]) == text
    assert flaws(check([], anchors=[anchor])) == [(Flaw.CUT, 0)]
    assert flaws(check(lines_of(records), anchors=[anchor])) == []


def test_a_chain_written_anew_does_not_fit_its_anchor() -> None:
    anchor = Anchor(seq=2, hash=chain_of(2)[1].hash, origin="record 9 of hub.jsonl")
    forged = Chain(writer="hub").record("run.ended", {"run": "forged"}, at=AT)
    chain = Chain(writer="hub").after(forged)
    checked = check(lines_of([forged, *chain_of(3, start=chain)]), anchors=[anchor])
    assert flaws(checked) == [(Flaw.CHANGED, 0)]
    assert "is not the one that record 9 of hub.jsonl knows of" in str(checked.findings[0])


def test_findings_end_somewhere() -> None:
    checked = check([b"#\n"] * (MAX_FINDINGS + 50))
    assert len(checked.findings) == MAX_FINDINGS
    assert checked.findings_left_out == 50


# Any edit is found --------------------------------------------------------------------------------

ORIGINAL = chain_of(12)
CONTENT = b"".join(lines_of(ORIGINAL))
LAST = Anchor(seq=12, hash=ORIGINAL[-1].hash, origin="an anchor")

places = st.integers(0, len(CONTENT))
numbers = st.integers(0, len(ORIGINAL) - 1)


def _replace(place: int, length: int, fresh: bytes) -> bytes:
    return CONTENT[:place] + fresh + CONTENT[place + length :]


def _rearranged(order: Sequence[int]) -> bytes:
    lines = lines_of(ORIGINAL)
    return b"".join(lines[number] for number in order)


edits = st.one_of(
    st.builds(_replace, places, st.integers(0, 5), st.binary(max_size=5)),
    st.builds(_replace, places, st.integers(0, 2000), st.just(b"")),
    st.builds(
        _replace, places, st.just(0), st.sampled_from([b"\n", b"\r", b" ", b"\x00", b"\x7f"])
    ),
    st.permutations(range(len(ORIGINAL))).map(_rearranged),
    st.lists(numbers, max_size=15).map(_rearranged),
)


@settings(max_examples=max(500, settings().max_examples))
@given(edits)
def test_a_chain_that_was_edited_shows_it(edited: bytes) -> None:
    checked = check(split(edited), anchors=[LAST])
    assert bool(checked.findings) == (edited != CONTENT)


@given(places)
def test_one_flipped_bit_shows_in_its_line(place: int) -> None:
    place = min(place, len(CONTENT) - 1)
    edited = bytearray(CONTENT)
    edited[place] ^= 1 << (place % 8)
    number = CONTENT.count(b"\n", 0, place) + 1
    findings = check(split(bytes(edited))).findings
    assert findings
    assert findings[0].line == number
