"""Where in a TOML file each key stands, for errors and for the origin of a rule.

`tomllib` reads values and forgets lines. This reads lines and forgets values: it is given a text
that `tomllib` has accepted, walks over it once, and notes the line of each key and array element.

Rules of this file:
- It decides nothing: a key that it does not find has no line, and that is all.
- A path is a tuple of keys and array indexes: `("apps", "payroll", "routes", 2, "tunnel")`.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["KeyPath", "Source", "line_of_error", "locate", "path_text", "shown"]

KeyPath = tuple[str | int, ...]

MAX_SHOWN = 60  # characters of a wrong value; enough to recognise it

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")  # space, ends of lines, comments
_BASIC = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_LITERAL = re.compile(r"'[^'\n]*'")
_LONG_BASIC = re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}(?!")', re.DOTALL)
_LONG_LITERAL = re.compile(r"'''.*?'{3,5}(?!')", re.DOTALL)
_PLAIN_VALUE = re.compile(r"[^,\]}#\r\n]+")
_ERROR_LINE = re.compile(r"\(at line ([0-9]+), column [0-9]+\)")


@dataclass(frozen=True, slots=True)
class Source:
    """A configuration file by its name, and the lines of its keys."""

    name: str = ""
    lines: Mapping[KeyPath, int] = field(default_factory=dict, repr=False)

    def line(self, path: KeyPath) -> int | None:
        """The line of `path`, or of the nearest key around it that has one."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return None

    def origin(self, path: KeyPath) -> str:
        """Such as `mdx.toml:12 apps.payroll.routes[2]`."""
        line = self.line(path)
        place = self.name if line is None else f"{self.name}:{line}"
        return f"{place} {path_text(path)}".lstrip()


def path_text(path: KeyPath) -> str:
    """A path as one would write it in TOML: `apps.payroll.routes[2]`."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            text += ("." if text else "") + (key if _BARE_KEY.fullmatch(key) else shown(key))
    return text


def shown(value: object) -> str:
    """A value in an error: printable, on one line, not too long."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "an array"
    text = json.dumps(value[:MAX_SHOWN] if isinstance(value, str) else value, default=str)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def line_of_error(error: ValueError, text: str) -> int | None:
    """The line that `tomllib` complains about."""
    found = _ERROR_LINE.search(str(error))
    if found:
        return int(found[1])
    return text.count("\n") + 1 if "at end of document" in str(error) else None


def locate(text: str) -> dict[KeyPath, int]:
    """The line of each key and array element of a TOML text."""
    walk = _Walk(text.replace("\r\n", "\n"))
    try:
        walk.document()
    except (_Lost, ValueError, RecursionError):
        return walk.lines  # what was found up to here is right
    return walk.lines


class _Lost(Exception):
    """The text is not what it was taken for."""


class _Walk:
    def __init__(self, text: str) -> None:
        self.text = text
        self.lines: dict[KeyPath, int] = {}
        self._place = 0
        self._line = 1
        self._counts: dict[KeyPath, int] = {}  # how many tables an array of tables has so far

    def document(self) -> None:
        prefix: KeyPath = ()
        while True:
            self._skip(_BLANK)
            if self._place == len(self.text):
                return
            prefix = self._header() if self._next() == "[" else self._pair(prefix)

    def _header(self) -> KeyPath:
        """`[a.b]` or `[[a.b]]`; the path of what follows."""
        is_array = self.text.startswith("[[", self._place)
        self._take("[[" if is_array else "[")
        keys = self._keys()
        self._take("]]" if is_array else "]")
        path: KeyPath = ()
        for key in keys[:-1]:
            path = self._note(self._inside((*path, key)))
        path = (*path, keys[-1])
        if not is_array:
            return self._note(self._inside(path), again=True)
        self._note(path)
        number = self._counts[path] = self._counts.get(path, -1) + 1
        return self._note((*path, number))

    def _inside(self, path: KeyPath) -> KeyPath:
        """The last table of an array of tables, where `path` is one."""
        return (*path, self._counts[path]) if path in self._counts else path

    def _pair(self, prefix: KeyPath) -> KeyPath:
        """`key = value` below `prefix`, which is returned."""
        path = prefix
        for key in self._keys():
            path = self._note((*path, key))
        self._take("=")
        self._value(path)
        return prefix

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._skip(_SPACE)
            keys.append(self._key())
            self._skip(_SPACE)
            if self._next() != ".":
                return keys
            self._take(".")

    def _key(self) -> str:
        match self._next():
            case '"':
                return str(tomllib.loads(f"key = {self._match(_BASIC)}")["key"])
            case "'":
                return self._match(_LITERAL)[1:-1]
        return self._match(_BARE_KEY)

    def _value(self, path: KeyPath) -> None:
        self._skip(_SPACE)
        if self.text.startswith('"""', self._place):
            self._match(_LONG_BASIC)
        elif self.text.startswith("'''", self._place):
            self._match(_LONG_LITERAL)
        elif self._next() == '"':
            self._match(_BASIC)
        elif self._next() == "'":
            self._match(_LITERAL)
        elif self._next() == "[":
            self._array(path)
        elif self._next() == "{":
            self._table(path)
        else:
            self._match(_PLAIN_VALUE)

    def _array(self, path: KeyPath) -> None:
        self._take("[")
        number = 0
        while True:
            self._skip(_BLANK)
            if self._next() == "]":
                break
            self._value(self._note((*path, number)))
            self._comma()
            number += 1
        self._take("]")

    def _table(self, path: KeyPath) -> None:
        self._take("{")
        while True:
            self._skip(_BLANK)
            if self._next() == "}":
                break
            self._pair(path)
            self._comma()
        self._take("}")

    def _comma(self) -> None:
        self._skip(_BLANK)
        if self._next() == ",":
            self._take(",")

    def _note(self, path: KeyPath, *, again: bool = False) -> KeyPath:
        """Note the line of `path`; `again` for a header, which says more than a mention before."""
        if again or path not in self.lines:
            self.lines[path] = self._line
        return path

    def _next(self) -> str:
        return self.text[self._place : self._place + 1]

    def _take(self, wanted: str) -> None:
        if not self.text.startswith(wanted, self._place):
            raise _Lost
        self._place += len(wanted)

    def _match(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self._place)
        if found is None:
            raise _Lost
        self._place = found.end()
        self._line += found[0].count("\n")
        return found[0]

    def _skip(self, pattern: re.Pattern[str]) -> None:
        self._match(pattern)
