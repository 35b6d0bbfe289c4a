"""The client's side of CONNECT, as this process speaks it to its own agent. No I/O.

CONNECT rather than SOCKS5, because a refusal says which rule it was and what to do; SOCKS5 has one
byte for that. What comes behind a yes belongs to the destination and is never taken here.
"""

from __future__ import annotations

import errno

import h11

from mdx.errors import BlockedByRule, ConnectionFailed, GatewayDown, LeaseEnded
from tunnel import RefusalCode, Refused, destination

__all__ = ["MAX_ANSWER_BYTES", "ConnectHandshake", "refusal"]

MAX_ANSWER_BYTES = 64 * 1024  # an agent's longest answer is about 3 KiB

_CLASSES: dict[str, type[ConnectionFailed]] = {
    "ADDRESS_GUARD": BlockedByRule,
    "BLOCKED_BY_RULE": BlockedByRule,
    "GATEWAY_DOWN": GatewayDown,
    "LEASE_ENDED": LeaseEnded,
    "NOT_ALLOWED": BlockedByRule,
}
# For code that knows only numbers; those that are not here get ECONNREFUSED.
_NUMBERS = {
    "ADDRESS_GUARD": errno.EACCES,
    "BLOCKED_BY_RULE": errno.EACCES,
    "GATEWAY_DOWN": errno.ENETUNREACH,
    "LEASE_ENDED": errno.EACCES,
    "NAME_NOT_FOUND": errno.EHOSTUNREACH,
    "NOT_ALLOWED": errno.EACCES,
    "TIMED_OUT": errno.ETIMEDOUT,
    "UNREACHABLE": errno.ENETUNREACH,
}


class ConnectHandshake:
    """One CONNECT. `request` is what to send; `leftover` is what came behind the answer.

    Raises: ConnectionFailed when `host` and `port` are no destination.
    """

    def __init__(self, host: str, port: int) -> None:
        try:
            target = str(destination(host, port))
        except Refused as refused:
            raise refusal(refused.code.value, refused.rule, refused.hint) from None
        self._target = target
        self._connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_ANSWER_BYTES)
        head = h11.Request(method="CONNECT", target=target, headers=[("Host", target)])
        self.request: bytes = (self._connection.send(head) or b"") + (
            self._connection.send(h11.EndOfMessage()) or b""
        )
        self._response: h11.Response | None = None
        self._body = bytearray()

    def receive(self, data: bytes) -> bool:
        """Whether the destination is connected now; `b""` is the end of the agent's stream.

        Raises: ConnectionFailed, of the class that says why.
        """
        try:
            self._connection.receive_data(data)
            while (event := self._connection.next_event()) is not h11.NEED_DATA:
                if isinstance(event, h11.Response):
                    self._response = event
                    if event.status_code // 100 == 2:
                        return True
                elif isinstance(event, h11.Data) and len(self._body) < MAX_ANSWER_BYTES:
                    self._body += event.data
                elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                    raise self._refused()
        except h11.RemoteProtocolError:
            raise _gone() from None
        return False

    @property
    def leftover(self) -> bytes:
        """What the destination sent already."""
        connected = self._response is not None and self._response.status_code // 100 == 2
        return self._connection.trailing_data[0] if connected else b""

    def _refused(self) -> ConnectionFailed:
        if self._response is None:
            return _gone()
        code = dict(self._response.headers).get(b"mdx-refused", b"").decode("latin-1")
        text = " ".join(self._body.decode("utf-8", "replace").split())
        rule, hint = _split_hint(text.removeprefix(f"{code}: "))
        return refusal(code, f"{self._target}: {rule}", hint)


def refusal(code: str, rule: str, hint: str) -> ConnectionFailed:
    """The error for a refusal with this code."""
    made = _CLASSES.get(code, ConnectionFailed)
    known = code in RefusalCode.__members__
    number = _NUMBERS.get(code, errno.ECONNREFUSED)
    return made(rule, hint=hint, code=code if known else "", errno=number)


def _split_hint(text: str) -> tuple[str, str]:
    """The rule, and the hint that stands behind it in parentheses, which may hold others."""
    depth = 0
    for index in range(len(text) - 1, 0, -1):
        depth += (text[index] == ")") - (text[index] == "(")
        if depth == 0:
            if text.endswith(")") and text[index - 1] == " ":
                return text[: index - 1], text[index + 1 : -1]
            break
    return text, ""


def _gone() -> ConnectionFailed:
    return ConnectionFailed(
        "the agent of this run does not answer", hint="try again; mdx status", code="AGENT_GONE"
    )
