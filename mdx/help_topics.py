"""The pages of `mdx help`: Markdown files that are installed with the program.

In a checkout they stand in `docs/help/`; a wheel has them as `mdx/help/`.
"""

from __future__ import annotations

from pathlib import Path

from mdx.errors import MdxError

__all__ = ["FIRST", "page", "summary", "topics"]

FIRST = ("start", "policies", "secrets", "levels", "two-machines", "audit", "errors", "faq")
"""The order in which they are listed; others follow."""
_PACKAGE = Path(__file__).parent
_PLACES = (_PACKAGE / "help", _PACKAGE.parent / "docs" / "help")


def topics() -> list[str]:
    """The names of the pages there are."""
    found = {path.stem for path in _folder().glob("*.md")}
    return [name for name in FIRST if name in found] + sorted(found - set(FIRST))


def page(topic: str) -> str:
    """A page as Markdown. Raises: MdxError."""
    if topic not in topics():  # so a topic is never a path
        raise MdxError(
            f"there is no help on {topic!a}", hint=f"topics: {', '.join(topics())}", exit_code=2
        )
    return (_folder() / f"{topic}.md").read_text(encoding="utf-8")


def summary(topic: str) -> str:
    """The line below a page's title."""
    return page(topic).split("\n\n", 2)[1].replace("\n", " ")


def _folder() -> Path:
    return next((place for place in _PLACES if place.is_dir()), _PLACES[0])
