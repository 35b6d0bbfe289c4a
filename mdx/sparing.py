"""How many records a stranger may cause: a few at once, and then a count of those left out.

Without it whoever can reach a socket chooses how fast the audit grows, until the disk is full and
nothing that must be recorded can happen any more. Pure: the time comes as an argument.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Sparing"]


@dataclass(slots=True)
class Sparing:
    """Lets `at_most` through in `seconds`. The clock is any that does not run backwards."""

    at_most: int = 20
    seconds: float = 60.0
    _begun_at: float = float("-inf")
    _let: int = 0
    _left_out: int = 0

    def let(self, now: float) -> int | None:
        """None when this one is left out; otherwise how many were since the last one."""
        if now >= self._begun_at + self.seconds:
            self._begun_at, self._let = now, 0
        if self._let >= self.at_most:
            self._left_out += 1
            return None
        self._let += 1
        left_out, self._left_out = self._left_out, 0
        return left_out
