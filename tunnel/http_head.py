"""The head of an HTTP request: the raw rules first, then h11.

h11 alone is too lenient where a request opens a tunnel: it takes bare LF, folded lines, a
Content-Length or Transfer-Encoding on CONNECT, a Host that differs from the target. Two programs
that read one head differently are how a rule is slipped past.

Rules of this file (RFC 9112; "refused" where that lets a server choose):
- Lines end in CR LF and in nothing else. No NUL and no other control character but a tab inside of
  a field's value. No folded line, no empty line before the request line.
- One space between method, target and version; the target is visible ASCII; the version is
  HTTP/1.1, or HTTP/1.0, which some clients use for CONNECT.
- A head is at most `MAX_HEAD_BYTES`, with at most `MAX_FIELDS` fields.
- Host occurs exactly once; with HTTP/1.0 it may be left out. Content-Length occurs at most once and
  is a plain number; Transfer-Encoding is at most one `chunked`; never both.
- What breaks a rule is refused as soon as it is read, however the bytes were cut into pieces.
- What a client sent is never quoted: a head carries credentials.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import h11

from tunnel.errors import RefusalCode, Refused

__all__ = ["MAX_FIELDS", "MAX_HEAD_BYTES", "Head", "HeadReader", "find_head_end", "parse_head"]

MAX_HEAD_BYTES = 16 * 1024  # all of it, with the empty line; browsers stay under 8 KiB
MAX_FIELDS = 64  # browsers send about 20

_HEAD_END = b"\r\n\r\n"
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110, 5.6.2
_REQUEST_LINE = re.compile(rb"(?:%b) [\x21-\x7e]+ (?:HTTP/([0-9]\.[0-9]))" % _TOKEN)
_FIELD = re.compile(rb"(%b):[ \t]*([^\r\n]*?)[ \t]*" % _TOKEN)
_LENGTH = re.compile(rb"[0-9]{1,15}")
_LOOK_BACK = 3  # the longest match of _FORBIDDEN
_FORBIDDEN = re.compile(
    rb"(?P<control>[\x00-\x08\x0b\x0c\x0e-\x1f\x7f])"
    rb"|(?P<ending>\r[^\n]|(?<!\r)\n)"
    rb"|(?P<folded>\r\n[ \t])"
)
_WHAT_IS_FORBIDDEN = {
    "control": "there is a control character in it",
    "ending": "a line does not end in CR LF",
    "folded": "a line is folded",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A request's head. The names of `headers` are in lower case, their values are Latin-1 text.

    `version` is "1.1" or "1.0". `raw_headers` are the same fields in the client's spelling, and
    `raw` is all of the head as it came, with its empty line.
    """

    method: str
    target: str = field(repr=False)  # a path may carry a secret
    version: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    raw_headers: tuple[tuple[bytes, bytes], ...] = field(repr=False)
    raw: bytes = field(repr=False)

    def header(self, name: str) -> str | None:
        """The value of the one field of this (lower-case) name, or None.

        Raises: Refused(MALFORMED) when there are several: nobody can say which one counts.
        """
        values = self.values(name)
        if len(values) > 1:
            raise _malformed(f"{name} occurs more than once")
        return values[0] if values else None

    def values(self, name: str) -> tuple[str, ...]:
        """The values of all fields of this (lower-case) name, in order."""
        return tuple(value for found, value in self.headers if found == name)


class HeadReader:
    """Collects the bytes of one head. `leftover` is what came behind it."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._checked_bytes = 0
        self._end: int | None = None

    def receive(self, data: bytes) -> Head | None:
        """The head, once it is all there; not to be called again after that, or after a refusal.

        Raises: Refused(MALFORMED), or UNSUPPORTED for another version of HTTP.
        """
        if self._end is not None:
            raise RuntimeError("the head has been read already")
        self._buffer += data
        start = max(0, self._checked_bytes - _LOOK_BACK)
        end = find_head_end(self._buffer, start)
        _check_bytes(self._buffer, start, min(end or len(self._buffer), MAX_HEAD_BYTES))
        self._checked_bytes = len(self._buffer)
        if (end or len(self._buffer)) > MAX_HEAD_BYTES:
            raise _malformed(f"it is longer than {MAX_HEAD_BYTES} bytes")
        if end is None:
            return None
        self._end = end
        return parse_head(bytes(self._buffer[:end]))

    @property
    def leftover(self) -> bytes:
        """The bytes behind the head; empty before it is all there."""
        return b"" if self._end is None else bytes(self._buffer[self._end :])


def find_head_end(data: bytes | bytearray, start: int = 0) -> int | None:
    """The length of the head at the beginning of `data`, with its empty line, if it ends there.

    The end is sought from `start` on.
    """
    found = data.find(_HEAD_END, start)
    return None if found == -1 else found + len(_HEAD_END)


def parse_head(raw: bytes) -> Head:
    """Read exactly one head, with the empty line that ends it.

    Raises: Refused(MALFORMED), or UNSUPPORTED for another version of HTTP.
    """
    if len(raw) > MAX_HEAD_BYTES:
        raise _malformed(f"it is longer than {MAX_HEAD_BYTES} bytes")
    if find_head_end(raw) != len(raw):
        raise _malformed("it does not end in the first empty line")
    _check_bytes(raw, 0, len(raw))
    line, *lines = raw.removesuffix(_HEAD_END).split(b"\r\n")
    version = _check_request_line(line)
    _check_fields([_parse_field(text) for text in lines], version)
    return _read(raw, version)


def _check_bytes(data: bytes | bytearray, start: int, end: int) -> None:
    found = _FORBIDDEN.search(data, start, end)
    if found is not None and found.lastgroup is not None:
        raise _malformed(_WHAT_IS_FORBIDDEN[found.lastgroup])


def _check_request_line(line: bytes) -> bytes:
    found = _REQUEST_LINE.fullmatch(line)
    if found is None:
        raise _malformed("its first line is not METHOD TARGET HTTP/1.1")
    if found[1] not in (b"1.1", b"1.0"):
        rule = "the request is in another version of HTTP than 1.1 (or 1.0)"
        raise Refused(RefusalCode.UNSUPPORTED, rule, "use HTTP/1.1")
    return found[1]


def _parse_field(line: bytes) -> tuple[bytes, bytes]:
    found = _FIELD.fullmatch(line)
    if found is None:
        raise _malformed("a line of it is not NAME: VALUE")
    return found[1].lower(), found[2]


def _check_fields(fields: list[tuple[bytes, bytes]], version: bytes) -> None:
    if len(fields) > MAX_FIELDS:
        raise _malformed(f"it has more than {MAX_FIELDS} fields")
    hosts = sum(name == b"host" for name, _ in fields)
    if hosts > 1 or (not hosts and version == b"1.1"):
        raise _malformed("it has not exactly one Host")
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [value for name, value in fields if name == b"transfer-encoding"]
    if len(lengths) + len(codings) > 1:
        raise _malformed("it says more than once how long its body is")
    if not all(_LENGTH.fullmatch(length) for length in lengths):
        raise _malformed("its Content-Length is not a number")
    if codings and (codings[0].lower() != b"chunked" or version == b"1.0"):
        raise _malformed("its Transfer-Encoding is not the one of HTTP/1.1: chunked")


def _read(raw: bytes, version: bytes) -> Head:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
    try:
        connection.receive_data(raw)
        request = connection.next_event()
    except h11.RemoteProtocolError:
        raise _malformed("it breaks RFC 9112") from None
    if not isinstance(request, h11.Request) or request.http_version != version:
        raise _malformed("it is no request")
    headers = tuple(
        (name.decode("ascii"), value.decode("latin-1")) for name, value in request.headers
    )
    return Head(
        method=request.method.decode("ascii"),
        target=request.target.decode("ascii"),
        version=version.decode("ascii"),
        headers=headers,
        raw_headers=tuple(request.headers.raw_items()),
        raw=raw,
    )


def _malformed(what: str) -> Refused:
    return Refused(
        RefusalCode.MALFORMED,
        f"the head of the request is not understood: {what}",
        "speak HTTP/1.1 to this port",
    )
