"""Records: what may be one, and that its description survives."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vault.errors import BadStore, InvalidRecord, InvalidScope
from vault.records import (
    MAX_NAME_CHARACTERS,
    MAX_VALUE_BYTES,
    Kind,
    Record,
    RecordInfo,
    check_name,
    check_record,
    check_scope,
    decode_meta,
    encode_meta,
)

INFO = RecordInfo(
    scope="app:a",
    name="n",
    kind=Kind.TOKEN,
    version=3,
    written_at=1.5,
    expires_at=2.5,
    size_bytes=4,
)


@pytest.mark.parametrize("scope", ["app:a", "group:finance team", "none:hub", "app:ä/ö:x"])
def test_scopes(scope: str) -> None:
    check_scope(scope)


@pytest.mark.parametrize(
    "scope",
    [
        "",
        "app",
        "app:",
        "App:a",
        "hub:x",
        " app:a",
        "app:\n",
        "app:a\0",
        "app:\ud800",
        "app:" + "x" * 253,
    ],
)
def test_what_is_no_scope(scope: str) -> None:
    with pytest.raises(InvalidScope):
        check_scope(scope)


@pytest.mark.parametrize(
    "name", ["", "x" * (MAX_NAME_CHARACTERS + 1), "a\nb", "\x1b[31m", "\ud800"]
)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(InvalidRecord):
        check_name(name)


def test_limits_are_inclusive() -> None:
    check_record("x" * MAX_NAME_CHARACTERS, bytes(MAX_VALUE_BYTES), 11.0, 10.0)
    check_record("x", b"v", None, 10.0)


@pytest.mark.parametrize(
    ("value", "expires_at"),
    [
        (b"", None),
        (bytes(MAX_VALUE_BYTES + 1), None),
        (b"v", 10.0),
        (b"v", math.inf),
        (b"v", math.nan),
        ("text", None),
    ],
)
def test_what_is_no_record(value: bytes, expires_at: float | None) -> None:
    with pytest.raises(InvalidRecord) as refused:
        check_record("name", value, expires_at, 10.0)
    assert "text" not in str(refused.value)


@given(
    name=st.text(min_size=1),
    kind=st.sampled_from(Kind),
    written_at=st.floats(allow_nan=False, allow_infinity=False),
    expires_at=st.none() | st.floats(allow_nan=False, allow_infinity=False),
)
def test_a_description_survives(
    name: str, kind: Kind, written_at: float, expires_at: float | None
) -> None:
    info = RecordInfo(
        scope="app:a",
        name=name,
        kind=kind,
        version=9,
        written_at=written_at,
        expires_at=expires_at,
        size_bytes=4,
    )
    assert decode_meta("app:a", 9, encode_meta(info)) == info


@pytest.mark.parametrize("change", [{"kind": "unheard of"}, {"name": None, "kind": []}])
def test_a_form_of_a_newer_version_is_said_to_be_one(change: dict[str, object]) -> None:
    document = json.loads(encode_meta(INFO)) | change
    with pytest.raises(BadStore):
        decode_meta("app:a", 3, json.dumps(document).encode())


@pytest.mark.parametrize("encoded", [b"", b"[]", b"{}", b"\xff", b"null"])
def test_what_is_no_description(encoded: bytes) -> None:
    with pytest.raises(BadStore):
        decode_meta("app:a", 3, encoded)


def test_a_record_does_not_show_its_value() -> None:
    record = Record(info=INFO, value=b"hunter2")
    assert "hunter2" not in f"{record!r} {record}"
