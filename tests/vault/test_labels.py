"""Encodings: exact bytes, and no two uses with the same ones."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vault import labels

VAULT = bytes(range(16))
FUNCTIONS = [getattr(labels, name) for name in labels.__all__]
VALUES: dict[str, Any] = {
    "vault_id": VAULT,
    "kind": "k",
    "parameters": b"p",
    "scope": "app:a",
    "epoch": 1,
    "older": 1,
    "newer": 2,
    "wrapped_by": 2,
    "wrapped": b"w",
    "shared": False,
    "name": "n",
    "record": b"r" * 16,
    "version": 7,
    "meta_hash": b"h" * 32,
    "value_hash": b"v" * 32,
    "node": b"n",
}
OTHERS = {
    name: not value
    if isinstance(value, bool)
    else value + 5
    if isinstance(value, int)
    else value[:-1] + value[:1] * 2
    for name, value in VALUES.items()
}


def encoded(function: Callable[..., bytes], **changed: object) -> bytes:
    names = inspect.signature(function).parameters
    return function(**{name: (VALUES | changed)[name] for name in names})


def test_an_encoding_to_the_byte() -> None:
    assert labels.record_id(b"V" * 16, "app:ä", "n") == (
        b"\x00\x00\x00\x15mdx vault 1 record id"
        b"\x00\x00\x00\x10VVVVVVVVVVVVVVVV"
        b"\x00\x00\x00\x06app:\xc3\xa4"
        b"\x00\x00\x00\x01n"
    )
    assert labels.epoch_place(VAULT, "s", 258).endswith(b"\x00\x00\x00\x08\0\0\0\0\0\0\x01\x02")


def test_no_two_uses_share_an_encoding() -> None:
    assert len({encoded(function) for function in FUNCTIONS}) == len(FUNCTIONS) == len(labels.Label)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_field_counts(function: Callable[..., bytes]) -> None:
    for name in inspect.signature(function).parameters:
        assert encoded(function, **{name: OTHERS[name]}) != encoded(function)


@given(st.lists(st.text(), min_size=2, max_size=2), st.lists(st.text(), min_size=2, max_size=2))
def test_two_pairs_of_fields_never_run_together(one: list[str], other: list[str]) -> None:
    same = labels.record_id(VAULT, *one) == labels.record_id(VAULT, *other)
    assert same == (one == other)
