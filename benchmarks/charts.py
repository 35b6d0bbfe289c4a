"""Bar charts as SVG, written by hand: one per group of figures, readable on light and dark.

A figure is a block of bars, ours first. Within a block bars are to scale; blocks are not to each
other, since their units differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from benchmarks.figures import OURS, Figure

__all__ = ["chart", "shown"]

WIDTH, NAMES, VALUES = 720, 90, 170  # the whole, and the columns left and right of the bars
BAR, GAP, HEAD, BLOCK_GAP, TOP = 16, 4, 24, 14, 34
OUR_COLOUR, PEER_COLOUR = "#2f6fde", "#9aa5b1"
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#24292f}"
    ".t{font-weight:600}.s{font-size:12px;fill:#57606a}"
    ".b{fill:#ffffff}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.s{fill:#9198a1}.b{fill:#0d1117}}"
)


def chart(title: str, figures: Sequence[Figure]) -> str:
    """An SVG document. `figures` may not be empty."""
    lines: list[str] = []
    y = TOP
    for figure in figures:
        y = _block(lines, figure, y)
    height = y + 4
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"'
            f' viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">',
            f"<style>{STYLE}</style>",
            f'<rect class="b" width="{WIDTH}" height="{height}" rx="6"/>',
            f'<text class="t" x="12" y="22">{escape(title)}</text>',
            *lines,
            "</svg>\n",
        ]
    )


def shown(value: float, unit: str) -> str:
    """A value as people read it: three digits that count, thousands apart."""
    if value >= 1000:
        text = f"{value:,.0f}"
    elif value >= 100:
        text = f"{value:.0f}"
    else:
        text = f"{value:.3g}"
    return f"{text}{'/s' if unit == '1/s' else ' ' + unit}"


def _block(lines: list[str], figure: Figure, y: int) -> int:
    words = f"{figure.figure.replace('`', '')}; {figure.better} is better"
    lines.append(
        f'<text x="12" y="{y + 15}"><tspan class="t">{escape(figure.name)}</tspan>'
        f'<tspan class="s" dx="8">{escape(words)}</tspan></text>'
    )
    y += HEAD
    bars = {OURS: figure.value, **figure.peers}
    most = max(bars.values()) or 1.0
    room = WIDTH - NAMES - VALUES
    for name, value in bars.items():
        length = max(1.0, room * value / most)
        colour = OUR_COLOUR if name == OURS else PEER_COLOUR
        end = NAMES + length
        ratio = "" if name == OURS else f" (×{figure.ratio(name):.2g})"
        lines += [
            f'<text x="{NAMES - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{NAMES}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2"'
            f' fill="{colour}"/>',
            f'<text x="{end + 6:.1f}" y="{y + 13}">{escape(shown(value, figure.unit))}'
            f'<tspan class="s">{ratio}</tspan></text>',
        ]
        y += BAR + GAP
    return y + BLOCK_GAP
