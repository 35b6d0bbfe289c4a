"""The last lines of a log, those that come after, and what they may hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdx.log_reading import (
    BLOCK_BYTES,
    MAX_LINE_BYTES,
    Follower,
    last_lines,
    parse,
    parts_here,
)


def line(number: int, **facts: object) -> str:
    at = f"2026-01-01T00:00:{number % 60:02}.000+00:00"
    return json.dumps({"at": at, "part": "hub", "event": f"e{number}"} | facts) + "\n"


def events(folder: Path, count: int) -> list[str]:
    return [found.event for found in last_lines(folder, "hub", count)]


@pytest.mark.parametrize("filler", [0, 100, 20_000])
def test_the_newest_lines_oldest_first(tmp_path: Path, filler: int) -> None:
    text = "".join(line(number, x="y" * filler) for number in range(20))
    (tmp_path / "hub.log").write_text(text)
    assert events(tmp_path, 3) == ["e17", "e18", "e19"]
    assert events(tmp_path, 20) == events(tmp_path, 99) == [f"e{n}" for n in range(20)]


def test_the_log_before_is_read_on(tmp_path: Path) -> None:
    (tmp_path / "hub.log.1").write_text(line(1) + line(2))
    (tmp_path / "hub.log").write_text(line(3))
    assert events(tmp_path, 2) == ["e2", "e3"]
    assert parts_here(tmp_path) == ["hub"]


def test_no_log_no_lines(tmp_path: Path) -> None:
    assert last_lines(tmp_path, "hub", 5) == []
    (tmp_path / "hub.log").write_text("\n\n")
    assert last_lines(tmp_path, "hub", 5) == []


def test_one_line_longer_than_a_block(tmp_path: Path) -> None:
    (tmp_path / "hub.log").write_text("x" * (3 * BLOCK_BYTES) + "\nlast")
    long, last = last_lines(tmp_path, "hub", 5)
    assert len(long.text) == MAX_LINE_BYTES
    assert last.text == "last"


@pytest.mark.parametrize(
    "raw",
    [
        b"\x1b]0;title\x07\x1b[2J",
        b'{"event": "e\\u001b[2J", "at": "\\u001b[31m", "a\\u001bb": "\\u001b[2J"}',
        b'{"event": "e", "text": "\\u202e\\u2028"}',
        "Tür\r\x9b31m".encode(),
        b"\xff\xfe\x80",
        b"[" * 100_000,
    ],
)
def test_nothing_moves_the_cursor(raw: bytes) -> None:
    found = parse("hub", raw)
    assert all(text.isprintable() for text in (found.at, found.event, found.text))


@given(st.binary(max_size=200))
def test_any_line_is_some_line(raw: bytes) -> None:
    found = parse("hub", raw)
    assert (found.at + found.event + found.text).isprintable()
    json.dumps(found.to_dict())


def test_data_for_programs() -> None:
    assert parse("hub", line(1, port=7).encode()).to_dict() == {
        "at": "2026-01-01T00:00:01.000+00:00",
        "part": "hub",
        "event": "e1",
        "port": 7,
    }
    assert parse("hub", b"Traceback").to_dict() == {
        "at": None,
        "part": "hub",
        "event": None,
        "text": "Traceback",
    }


def test_following_through_rotation_and_emptying(tmp_path: Path) -> None:
    log = tmp_path / "hub.log"
    log.write_text(line(0))
    follower = Follower(tmp_path, "hub")

    def new() -> list[str]:
        return [found.event for found in follower.new_lines()]

    assert new() == []
    with log.open("a") as file:
        file.write(line(1) + line(2)[:10])
    assert new() == ["e1"]
    with log.open("a") as file:
        file.write(line(2)[10:] + line(3))
    log.rename(tmp_path / "hub.log.1")
    assert new() == ["e2", "e3"]
    with (tmp_path / "hub.log.1").open("a") as file:
        file.write(line(4))
    log.write_text(line(5))
    assert new() == ["e4", "e5"]
    log.write_text("")  # emptied in place
    assert new() == []
    log.write_text(line(6))
    assert new() == ["e6"]
    follower.close()


def test_following_a_log_that_is_not_there_yet(tmp_path: Path) -> None:
    follower = Follower(tmp_path, "hub")
    assert list(follower.new_lines()) == []
    (tmp_path / "hub.log").write_text(line(1))
    assert [found.event for found in follower.new_lines()] == ["e1"]
    follower.close()
