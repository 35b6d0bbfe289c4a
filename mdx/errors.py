"""Errors that a person sees: one line of what was wrong, one of what to do, and an exit code.

Exit codes: 1 failed, 2 usage, 77 locked or refused, 78 configuration; `mdx run` alone uses
125 (mdx could not start or keep the command), 126 (not executable) and 127 (not found).
"""

from __future__ import annotations

__all__ = [
    "AuditUnwritable",
    "BadStatus",
    "BlockedByRule",
    "ConfigError",
    "ConnectionCut",
    "ConnectionFailed",
    "GatewayDown",
    "HubRefused",
    "HubUnreachable",
    "KeyExpired",
    "LeaseEnded",
    "Locked",
    "MdxError",
    "NoSuchRecord",
    "RecordExpired",
    "RunFailed",
]


class MdxError(Exception):
    """What went wrong in one line, `hint` for what to do next, `exit_code` for scripts."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", exit_code: int | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        if exit_code is not None:
            self.exit_code = exit_code


class ConfigError(MdxError):
    """A configuration file that exists is wrong; the message has one line per problem."""

    exit_code = 78


class AuditUnwritable(MdxError):
    """An audit record could not be written, so what it records must not happen."""


class HubUnreachable(MdxError):
    """The hub does not answer and could not be started."""


class HubRefused(MdxError):
    """The hub answered with an error. `needs` names what would help: a passphrase, a go-ahead.

    `kind` is the name of the error's class inside the hub, so that nobody goes by its text.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        exit_code: int = 1,
        needs: str = "",
        kind: str = "HubRefused",
    ) -> None:
        super().__init__(message, hint=hint, exit_code=exit_code)
        self.needs = needs
        self.kind = kind


class RunFailed(MdxError):
    """`mdx run` could not start or keep the command (exit code 125)."""

    exit_code = 125


# What programs that use the library meet besides -------------------------------------------------


class Locked(MdxError):
    """The app has no lease: nobody signed in, or somebody locked it."""

    exit_code = 77


class KeyExpired(Locked):
    """The app's lease is over by time alone."""


class NoSuchRecord(MdxError, KeyError):
    """The app has no record of that name; a KeyError, since its records are a mapping."""

    __str__ = Exception.__str__  # KeyError shows the repr of its text


class RecordExpired(NoSuchRecord):
    """The record's own expiry has passed, so its value is not handed out."""


class ConnectionFailed(MdxError, OSError):
    """A connection of an app was not made, or broke.

    `code` is the reason in the words of docs/gateway-protocol.md, such as `TIMED_OUT`. It is an
    OSError, with an errno, for code that knows only those.
    """

    def __init__(
        self, message: str, *, hint: str = "", code: str = "", errno: int | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.errno = errno


class BlockedByRule(ConnectionFailed):
    """A rule said no: the app's routes, the address guard, or the gateway's list."""

    exit_code = 77


class GatewayDown(ConnectionFailed):
    """The gateway does not answer, or this device has joined none."""


class ConnectionCut(ConnectionFailed):
    """A connection broke before its end: what came before it may be incomplete."""


class LeaseEnded(Locked, ConnectionFailed):
    """The app's lease is over, so there are no connections for it: new ones or old ones."""


class BadStatus(MdxError):
    """An HTTP answer whose status is not a success. `status` is the number."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status
