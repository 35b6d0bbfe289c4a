"""The hub's protocol: length-prefixed JSON over its Unix socket, descriptors beside it.

A frame is four bytes of length (big-endian) and one JSON object. A request has `op`; its answer
has `ok` with the result or `error` with message, hint, exit code and what would help. Bytes
travel as base64. This file holds the frames and the blocking client; standard library only,
since the launcher imports it. The hub's own side, on trio, is `mdx.hub.serving`.
"""

from __future__ import annotations

import array
import json
import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

from mdx.errors import HubRefused, HubUnreachable, MdxError

__all__ = [
    "ANSWER_SECONDS",
    "HEADER",
    "MAX_DESCRIPTORS",
    "MAX_FRAME_BYTES",
    "Message",
    "call",
    "connect",
    "encode",
    "error_message",
    "length_of",
    "peer_of",
    "result_of",
]

TYPE_CHECKING = False  # typing's own, without the 9 ms that importing it takes
if TYPE_CHECKING:
    from typing import Any, Protocol, TypeAlias

    class _HasSocketOptions(Protocol):
        def getsockopt(self, level: int, option: int, buffersize: int, /) -> bytes: ...


Message: TypeAlias = "dict[str, Any]"

HEADER = struct.Struct(">I")
MAX_FRAME_BYTES = 4 * 1024 * 1024  # a record of 1 MiB in base64, with room
MAX_DESCRIPTORS = 4
ANSWER_SECONDS = 60.0  # Argon2id on a slow machine, or control at the other end of the world

_PEER = struct.Struct("=iII")


def encode(message: Message) -> bytes:
    """One frame. Raises: MdxError when it is larger than MAX_FRAME_BYTES."""
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > MAX_FRAME_BYTES:
        raise MdxError(f"a message of {len(body)} bytes; at most {MAX_FRAME_BYTES} are allowed")
    return HEADER.pack(len(body)) + body


def length_of(header: bytes) -> int:
    """The length of the body after `header`. Raises: MdxError when it is too large."""
    length: int = HEADER.unpack(header)[0]
    if length > MAX_FRAME_BYTES:
        raise MdxError(f"a message of {length} bytes; at most {MAX_FRAME_BYTES} are allowed")
    return length


def error_message(error: Exception) -> Message:
    """How an error travels: what a person needs, never a traceback."""
    return {
        "error": {
            "message": str(error),
            "hint": getattr(error, "hint", ""),
            "exit_code": getattr(error, "exit_code", 1),
            "needs": getattr(error, "needs", ""),
            "kind": getattr(error, "kind", type(error).__name__),
        }
    }


def result_of(answer: Message) -> Any:
    """The result in an answer. Raises: HubRefused when it is an error."""
    if "error" in answer:
        error = answer["error"]
        raise HubRefused(
            error["message"],
            hint=error["hint"],
            exit_code=error["exit_code"],
            needs=error["needs"],
            kind=error.get("kind", ""),  # a hub that is older than its client does not say
        )
    return answer["ok"]


def peer_of(connection: _HasSocketOptions) -> tuple[int, int]:
    """(pid, uid) of the process at the other end of a Unix socket, as the kernel knows them."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    pid, uid, _ = _PEER.unpack(raw)
    return pid, uid


def connect(path: Path) -> socket.socket:
    """A connection to the hub of this user.

    Raises: HubUnreachable when nothing listens there, or somebody else does.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    connection.settimeout(ANSWER_SECONDS)
    try:
        connection.connect(os.fspath(path))
    except OSError as error:
        connection.close()
        raise HubUnreachable(f"no hub answers at {path}: {error.strerror}") from None
    _, uid = peer_of(connection)
    if uid != os.getuid():
        connection.close()
        raise HubUnreachable(f"the hub at {path} runs as uid {uid}, not as you")
    return connection


def call(connection: socket.socket, request: Message, descriptors: Sequence[int] = ()) -> Any:
    """Send one request, wait for its answer, return its result.

    Raises: HubRefused with the hub's own error; HubUnreachable when it goes away meanwhile.
    """
    frame = encode(request)
    try:
        if descriptors:
            passed = array.array("i", descriptors).tobytes()
            sent = connection.sendmsg([frame], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)])
        else:
            sent = connection.send(frame)
        if sent < len(frame):  # sendall of nothing still fails when the answer came with an end
            connection.sendall(frame[sent:])
        header = _receive_exactly(connection, HEADER.size)
        answer = json.loads(_receive_exactly(connection, length_of(header)))
    except OSError as error:
        raise HubUnreachable(f"the hub went away: {error}", hint="try again") from None
    return result_of(answer)


def _receive_exactly(connection: socket.socket, count: int) -> bytes:
    collected = bytearray()
    while len(collected) < count:
        piece = connection.recv(count - len(collected))
        if not piece:
            raise HubUnreachable("the hub closed the connection", hint="try again")
        collected += piece
    return bytes(collected)
