"""What a check found: good, worth a look, or broken, and what to do about it.

A finding is for a person who never saw how mdx is built: `what` is one line, `do` is the next step
and empty where there is none. Never: a secret, a value out of a vault, a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Finding", "Standing", "bad", "ok", "verdict", "warn"]


class Standing(StrEnum):
    """How things stand. `WARN` is for what works, but not for long or not as well as it could."""

    OK = "ok"
    WARN = "warn"
    BAD = "bad"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of `mdx doctor`."""

    name: str
    standing: Standing
    what: str
    do: str = ""

    def to_dict(self) -> dict[str, str]:
        """Data for JSON."""
        return {
            "name": self.name,
            "standing": self.standing.value,
            "what": self.what,
            "do": self.do,
        }


def ok(name: str, what: str, do: str = "") -> Finding:
    return Finding(name=name, standing=Standing.OK, what=what, do=do)


def warn(name: str, what: str, do: str = "") -> Finding:
    return Finding(name=name, standing=Standing.WARN, what=what, do=do)


def bad(name: str, what: str, do: str = "") -> Finding:
    return Finding(name=name, standing=Standing.BAD, what=what, do=do)


def verdict(findings: Sequence[Finding]) -> Standing:
    """The worst of them."""
    order = list(Standing)
    return max((finding.standing for finding in findings), key=order.index, default=Standing.OK)
