"""A figure is a median of turns in alternation, and its ratios point the right way."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest

from benchmarks.figures import OURS, Figure, chosen, measure


def test_contenders_take_turns_and_the_first_turn_only_warms_up() -> None:
    order: list[str] = []
    clock = count()

    def contender(name: str) -> Callable[[], float]:
        def once() -> float:
            order.append(name)
            return float(next(clock))

        return once

    medians = measure(5, {name: contender(name) for name in ("a", "b")})
    assert order == ["a", "b"] * 6
    assert medians == {"a": 6.0, "b": 7.0}  # of 2, 4, 6, 8, 10 and of 3, 5, 7, 9, 11


@pytest.mark.parametrize(("better", "ratio"), [("higher", 2.0), ("lower", 0.5)])
def test_a_ratio_above_one_means_that_we_are_better(better: str, ratio: float) -> None:
    figure = Figure.of("x.y", "words", "1/s", better, {OURS: 10.0, "peer": 5.0})  # type: ignore[arg-type]
    assert figure.ratio("peer") == ratio
    assert figure.to_dict() == {
        "name": "x.y",
        "figure": "words",
        "unit": "1/s",
        "value": 10.0,
        "better": better,
        "peers": {"peer": {"value": 5.0, "ratio": ratio}},
    }
    assert Figure.from_dict(figure.to_dict()) == figure


def test_names_choose_whole_figures_and_prefixes_in_the_known_order() -> None:
    known = ["crypto.raw_1k", "tunnel.bulk_1", "tunnel.connections", "run.start"]
    assert chosen([], known) == known
    assert chosen(["tunnel"], known) == known[1:3]
    assert chosen(["run.start", "crypto"], known) == [known[0], known[3]]
    with pytest.raises(ValueError, match=r"^tunel$"):
        chosen(["run", "tunel"], known)
