"""Text of others, made fit for a terminal. Standard library only, since the launcher needs it."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    """`text` with everything that could move a cursor, change a title or hide other text replaced.

    Line ends are kept, since messages may have several lines.
    """
    return "".join(
        character if character.isprintable() or character == "\n" else "\N{REPLACEMENT CHARACTER}"
        for character in text
    )
