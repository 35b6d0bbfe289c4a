"""The records of an app as a mapping: `app.vault["database"]` is bytes, `app.vault.text` is text.

Rules of this file:
- Each use asks the hub, which decides and writes the audit; nothing is kept here, so that a lock or
  an expiry counts from the next use on.
- Bytes and text are two views, and neither guesses: a record that is not UTF-8 is no text.
- A value is never in a repr or a message.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass

from mdx.errors import MdxError, NoSuchRecord
from mdx.library.asking import Caller
from vault import Kind, now

__all__ = ["RecordFacts", "Records", "TextRecords"]

_KINDS = [kind.value for kind in Kind]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFacts:
    """What is known of a record without its value. Times are Unix seconds."""

    name: str
    kind: str
    version: int
    written_at: float
    expires_at: float | None
    size_bytes: int


class Records(MutableMapping[str, bytes]):
    """The records of one app. A record whose own expiry has passed counts as not there.

    Every operation blocks for about a millisecond, and raises Locked (KeyExpired) when the app has
    no lease, ConfigError when there is no such app. In async code, run it in a thread.
    """

    __slots__ = ("_caller", "text")

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self.text = TextRecords(self)

    def __repr__(self) -> str:
        return f"<records of {self._caller.app}>"

    __eq__ = object.__eq__  # comparing would read every secret
    __hash__ = object.__hash__

    def __getitem__(self, name: str) -> bytes:
        """The value. Raises: NoSuchRecord (a KeyError), RecordExpired, Locked."""
        return base64.b64decode(self._caller.ask("vault.get", name=_checked(name))["value"])

    def __setitem__(self, name: str, value: bytes) -> None:
        """Seal `value`, 1 byte to 1 MiB, as a record of the kind `password`, without expiry."""
        self.put(name, value)

    def __delitem__(self, name: str) -> None:
        """Remove the record for good. Raises: NoSuchRecord, Locked."""
        self._caller.ask("vault.remove", name=_checked(name))

    def __contains__(self, name: object) -> bool:
        return any(facts.name == name for facts in self.facts())

    def __iter__(self) -> Iterator[str]:
        return iter([facts.name for facts in self.facts()])

    def __len__(self) -> int:
        return len(self.facts())

    def put(
        self,
        name: str,
        value: bytes,
        *,
        kind: str = Kind.PASSWORD.value,
        lifetime_seconds: float | None = None,
    ) -> RecordFacts:
        """Seal `value` under `name`, in place of what was there; durable when this returns.

        With `lifetime_seconds` the record expires by itself, however long the lease lasts.
        Raises: Locked; TypeError for text; ValueError for a kind that there is not.
        """
        if not isinstance(value, bytes):
            raise TypeError("a value is bytes; for text: app.vault.text[name] = value")
        if kind not in _KINDS:
            raise ValueError(f"{kind!r} is no kind of record; there are {', '.join(_KINDS)}")
        expires_at = None if lifetime_seconds is None else now().wall + lifetime_seconds
        fields = self._caller.ask(
            "vault.put",
            name=_checked(name),
            value=base64.b64encode(value).decode(),
            kind=kind,
            expires_at=expires_at,
        )
        return RecordFacts(**fields)

    def facts(self) -> list[RecordFacts]:
        """All records that have not expired, without values. Raises: Locked."""
        listed = [RecordFacts(**fields) for fields in self._caller.ask("vault.list")]
        at = now().wall
        return [facts for facts in listed if facts.expires_at is None or facts.expires_at > at]

    def fact(self, name: str) -> RecordFacts:
        """What is known of one record. Raises: NoSuchRecord, Locked."""
        for facts in self.facts():
            if facts.name == name:
                return facts
        raise NoSuchRecord(f"{self._caller.app} has no record {name!r}")


class TextRecords(MutableMapping[str, str]):
    """The same records as text in UTF-8."""

    __slots__ = ("_records",)

    def __init__(self, records: Records) -> None:
        self._records = records

    def __repr__(self) -> str:
        return f"<text of {self._records!r}>"

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __getitem__(self, name: str) -> str:
        """The value. Raises: NoSuchRecord, Locked; MdxError when it is not text in UTF-8."""
        value = self._records[name]
        try:
            return value.decode()
        except UnicodeDecodeError:
            pass  # its own message would show a byte of the secret
        raise MdxError(f"{name!r} is not text in UTF-8", hint="take the bytes: app.vault[name]")

    def __setitem__(self, name: str, value: str) -> None:
        self.put(name, value)

    def __delitem__(self, name: str) -> None:
        del self._records[name]

    def __contains__(self, name: object) -> bool:
        return name in self._records

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def put(
        self,
        name: str,
        value: str,
        *,
        kind: str = Kind.PASSWORD.value,
        lifetime_seconds: float | None = None,
    ) -> RecordFacts:
        """As `Records.put`, for text."""
        if not isinstance(value, str):
            raise TypeError("text is str; for bytes: app.vault[name] = value")
        return self._records.put(name, value.encode(), kind=kind, lifetime_seconds=lifetime_seconds)


def _checked(name: str) -> str:
    if not isinstance(name, str):
        raise TypeError("a record's name is text")
    return name
