"""The daemons' log: a line is an event, whatever a stranger put into it."""

from __future__ import annotations

import json

import pytest

from mdx.json_log import json_log


def test_an_event_is_one_line_of_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    log = json_log("site", lambda: 1_800_000_000.25)
    log("request", target='a\r\n{"event":"forged"}\x1b[31m\u202e\u2028', status=404, device=None)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.isascii()
    assert said.removesuffix("\n").isprintable()
    event = json.loads(said)
    assert event["at"] == "2027-01-15T08:00:00.250+00:00"
    assert (event["part"], event["event"], event["status"]) == ("site", "request", 404)
    assert event["target"].startswith("a\r\n")


def test_facts_cannot_change_what_the_line_is_about(capsys: pytest.CaptureFixture[str]) -> None:
    json_log("site", lambda: 0.0)("request", part="gateway", at="never")
    event = json.loads(capsys.readouterr().err)
    assert (event["part"], event["at"]) == ("site", "1970-01-01T00:00:00.000+00:00")
