"""What control says no to, with the HTTP status that goes with it."""

from __future__ import annotations

from mdx.errors import MdxError

__all__ = ["RequestRefused"]


class RequestRefused(MdxError):
    """A request is refused. Message and hint are for the client, `reason` for the audit alone.

    What would help somebody who guesses is in the reason only. `recorded` says that the audit has
    it already.
    """

    exit_code = 77

    def __init__(
        self,
        message: str,
        *,
        status: int,
        hint: str = "",
        reason: str = "",
        recorded: bool = False,
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.reason = reason or message
        self.recorded = recorded
