"""What a figure is, and how it is measured: turns in alternation, medians, ratios of one run.

Machines are shared and noisy. A ratio of two medians from the same minutes says something; a
figure alone says how it was on that day.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

__all__ = ["OURS", "TURNS", "Figure", "Unit", "chosen", "measure"]

OURS = "mdx"
TURNS = 5  # at least; odd, so that the median is a turn that happened

Unit = Literal["GB/s", "1/s", "us", "ms", "s", "bytes", "MB"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured figure. `peers` are medians under their programs' names."""

    name: str
    figure: str
    unit: Unit
    value: float
    better: Literal["higher", "lower"]
    peers: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        name: str,
        words: str,
        unit: Unit,
        better: Literal["higher", "lower"],
        medians: Mapping[str, float],
    ) -> Figure:
        """The figure of what `measure` gave: ours, and everyone else as a peer."""
        peers = {peer: value for peer, value in medians.items() if peer != OURS}
        return cls(
            name=name, figure=words, unit=unit, better=better, value=medians[OURS], peers=peers
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Figure:
        """What `to_dict` made."""
        peers = {peer: entry["value"] for peer, entry in data["peers"].items()}
        return cls(**{**data, "peers": peers})

    def ratio(self, peer: str) -> float:
        """How many times better we are than `peer`; below 1 when it is better."""
        theirs = self.peers[peer]
        return theirs / self.value if self.better == "lower" else self.value / theirs

    def to_dict(self) -> dict[str, Any]:
        """Data for results.json."""
        return {
            "name": self.name,
            "figure": self.figure,
            "unit": self.unit,
            "value": round(self.value, 6),
            "better": self.better,
            "peers": {
                peer: {"value": round(value, 6), "ratio": round(self.ratio(peer), 4)}
                for peer, value in self.peers.items()
            },
        }


def measure(turns: int, contenders: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """The median of `turns` turns of each contender, taken in alternation after one to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(turns + 1):
        for name, once in contenders.items():
            value = once()
            if turn:
                taken[name].append(value)
    return {name: median(values) for name, values in taken.items()}


def chosen(names: list[str], known: list[str]) -> list[str]:
    """The known figures that `names` name, whole or by a prefix; all when there are none.

    Raises: ValueError with the first name that fits nothing.
    """
    for name in names:
        if not any(figure.startswith(name) for figure in known):
            raise ValueError(name)
    return [figure for figure in known if not names or figure.startswith(tuple(names))]
