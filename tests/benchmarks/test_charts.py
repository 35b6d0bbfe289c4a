"""A chart is well-formed, to scale, and shows every value."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from benchmarks.charts import chart, shown
from benchmarks.figures import Figure

SVG = "{http://www.w3.org/2000/svg}"


def figure(name: str = "tunnel.x", **peers: float) -> Figure:
    return Figure(
        name=name, figure="a < b & c", unit="1/s", value=50.0, better="higher", peers=peers
    )


def test_bars_are_to_scale_within_a_figure_and_stay_inside() -> None:
    document = ElementTree.fromstring(chart("A & B", [figure(nginx=100.0), figure("t.y", age=25)]))  # noqa: S314
    width = float(document.attrib["width"])
    bars = [bar for bar in document.iter(f"{SVG}rect") if "fill" in bar.attrib]
    lengths = [float(bar.attrib["width"]) for bar in bars]
    assert lengths[1] == pytest.approx(2 * lengths[0], abs=0.2)
    assert lengths[2] == pytest.approx(2 * lengths[3], abs=0.2)
    assert all(float(bar.attrib["x"]) + float(bar.attrib["width"]) < width for bar in bars)
    tops = [float(bar.attrib["y"]) for bar in bars]
    assert tops == sorted(tops)
    assert tops[-1] < float(document.attrib["height"])


def test_every_name_value_and_ratio_is_shown() -> None:
    document = ElementTree.fromstring(chart("title", [figure(nginx=100.0, ssh=0.5)]))  # noqa: S314
    text = " ".join("".join(element.itertext()) for element in document.iter(f"{SVG}text"))
    for wanted in (
        "title",
        "tunnel.x",
        "a < b & c",
        "mdx",
        "50/s",
        "nginx",
        "100/s",
        "×0.5",
        "ssh",
    ):
        assert wanted in text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (16677.4, "1/s", "16,677/s"),
        (0.16849, "GB/s", "0.168 GB/s"),
        (355.7, "us", "356 us"),
        (2.8512, "ms", "2.85 ms"),
    ],
)
def test_values_show_the_digits_that_count(value: float, unit: str, text: str) -> None:
    assert shown(value, unit) == text
