"""Records: named secrets with a kind, and what is checked before one is sealed.

Values are opaque bytes here. A name is 1 to 256 printable characters, taken exactly as given.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from enum import StrEnum

from vault.errors import BadStore, InvalidRecord, InvalidScope

__all__ = [
    "MAX_NAME_CHARACTERS",
    "MAX_VALUE_BYTES",
    "Kind",
    "Record",
    "RecordInfo",
    "check_record",
    "check_scope",
    "decode_meta",
    "encode_meta",
]

MAX_NAME_CHARACTERS = 256
MAX_VALUE_BYTES = 1024 * 1024  # larger things are files, not records
MAX_SCOPE_CHARACTERS = 256
SCOPE_PREFIXES = ("app:", "group:", "none:")


class Kind(StrEnum):
    """What a record's value is."""

    PASSWORD = "password"  # noqa: S105 — the name of a kind
    TOKEN = "token"  # noqa: S105 — the name of a kind
    PKCS12 = "pkcs12"
    SAML = "saml"
    TICKET = "ticket"
    KEY = "key"
    PIN_HISTORY = "pin_history"
    CLIPBOARD_KEY = "clipboard_key"
    BLOB = "blob"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordInfo:
    """All about a record but its value. Times are Unix seconds; `version` only ever grows."""

    scope: str
    name: str
    kind: Kind
    version: int
    written_at: float
    expires_at: float | None
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A record with its value, which `repr` does not show."""

    info: RecordInfo
    value: bytes = field(repr=False)


def check_scope(scope: str) -> None:
    """Raises: InvalidScope unless it is `app:NAME`, `group:NAME` or `none:NAME`."""
    name = scope.partition(":")[2]
    if not (
        scope.startswith(SCOPE_PREFIXES)
        and name
        and name.isprintable()
        and len(scope) <= MAX_SCOPE_CHARACTERS
    ):
        raise InvalidScope(
            f"{scope!r} is not a scope", hint="app:NAME, group:NAME or none:NAME, printable"
        )


def check_name(name: str) -> None:
    """Raises: InvalidRecord."""
    if not (1 <= len(name) <= MAX_NAME_CHARACTERS and name.isprintable()):
        raise InvalidRecord(
            "not a record name", hint=f"1 to {MAX_NAME_CHARACTERS} printable characters"
        )


def check_record(name: str, value: bytes, expires_at: float | None, now: float) -> None:
    """Raises: InvalidRecord, without the value in it."""
    check_name(name)
    if not isinstance(value, bytes):
        raise InvalidRecord("a value is bytes")
    if not 1 <= len(value) <= MAX_VALUE_BYTES:
        raise InvalidRecord(f"a value is 1 to {MAX_VALUE_BYTES} bytes, not {len(value)}")
    if expires_at is not None and not now < expires_at < math.inf:
        raise InvalidRecord("the record's expiry has passed already")


def encode_meta(info: RecordInfo) -> bytes:
    """The bytes to seal beside the value: JSON. Scope and version stand in the context."""
    document = {
        "name": info.name,
        "kind": info.kind,
        "written_at": info.written_at,
        "expires_at": info.expires_at,
        "size_bytes": info.size_bytes,
    }
    return json.dumps(document, separators=(",", ":")).encode()


def decode_meta(scope: str, version: int, encoded: bytes) -> RecordInfo:
    """The record's description again.

    Raises: BadStore for a form that a newer version wrote.
    """
    try:
        document = json.loads(encoded.decode())
        return RecordInfo(
            scope=scope,
            name=document["name"],
            kind=Kind(document["kind"]),
            version=version,
            written_at=document["written_at"],
            expires_at=document["expires_at"],
            size_bytes=document["size_bytes"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise BadStore("a record has a form that this version does not know") from error
