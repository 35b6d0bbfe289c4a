"""Durations as people write them: a whole number and its unit, `90s`, `15m`, `8h`, `7d`.

`off` and `now` are words that a setting may allow: never, and at once. A bare 0 is refused, since
readers take it for either of the two; so is every number without a unit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection

__all__ = ["DURATION_PATTERN", "MAX_DURATION_SECONDS", "WORDS", "parse_duration"]

DURATION_PATTERN = "^[1-9][0-9]{0,8}[smhd]$"  # for JSON Schema too, so in the syntax of ECMA 262
MAX_DURATION_SECONDS = 366 * 86400.0  # longer is a slip of the pen, and keeps sums of times exact
WORDS = {"off": math.inf, "now": 0.0}

_UNIT_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(DURATION_PATTERN[1:-1])


def parse_duration(text: str, *, words: Collection[str] = ()) -> float:
    """Seconds; for the words that are allowed here, `off` is infinity and `now` is 0.

    Raises: ValueError that says what would be right.
    """
    if text in WORDS and text in words:
        return WORDS[text]
    if _DURATION.fullmatch(text) is None:
        named = "".join(f', or "{word}"' for word in sorted(words))
        raise ValueError(f'write a whole number above 0 and s, m, h or d, such as "8h"{named}')
    seconds = int(text[:-1]) * _UNIT_SECONDS[text[-1]]
    if seconds > MAX_DURATION_SECONDS:
        raise ValueError(f"at most {MAX_DURATION_SECONDS / 86400:.0f} days are allowed")
    return seconds
