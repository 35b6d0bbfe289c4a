"""What one call measured is merged into what others did, and everything is written from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, Unit
from benchmarks.report import BEGIN, END, Conditions, keep, present_conditions

MONDAY = Conditions(
    date="2025-06-02", machine="2 × CPU", load=0.1, command="make bench", versions="age 1.1"
)
TUESDAY = Conditions(
    date="2025-06-03", machine="4 × CPU", load=1.5, command="python …", versions="age 1.2"
)


def figure(name: str, value: float, unit: Unit = "ms") -> Figure:
    return Figure(
        name=name, figure="words", unit=unit, value=value, better="lower", peers={"age": 2.0}
    )


def results(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "results.json").read_text())
    return found


def test_a_second_call_replaces_its_own_figures_and_keeps_the_others(tmp_path: Path) -> None:
    keep(tmp_path, [figure("run.start", 1.0), figure("crypto.raw_1k", 4.0)], MONDAY)
    keep(tmp_path, [figure("run.start", 8.0)], TUESDAY)
    kept = {entry["name"]: entry for entry in results(tmp_path)}
    assert list(kept) == ["crypto.raw_1k", "run.start"]
    assert kept["run.start"]["value"] == 8.0
    assert kept["run.start"]["peers"] == {"age": {"value": 2.0, "ratio": 0.25}}
    page = (tmp_path / "README.md").read_text()
    monday = (
        "- `crypto.raw_1k`: 2025-06-02, by `make bench`, on 2 × CPU, where the load average was 0.1"
    )
    tuesday = "- `run.start`: 2025-06-03, by `python …`, on 4 × CPU, where the load average was 1.5"
    assert f"{monday} before; age 1.1\n" in page
    assert f"{tuesday} before; age 1.2\n" in page
    assert "| `run.start` | words | 8 ms | age 2 ms (×0.25) |" in page


def test_words_around_the_marks_are_kept_and_what_is_between_is_not(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    for _ in range(2):
        keep(tmp_path, [figure("run.start", 1.0)], MONDAY)
    page = file.read_text()
    assert page.startswith(f"above\n{BEGIN}\n")
    assert page.endswith(f"{END}\nbelow\n")
    assert "old" not in page
    assert page.count("`run.start`") == 1
    assert "- everything: 2025-06-02" in page


def test_each_group_has_a_chart_that_the_page_shows(tmp_path: Path) -> None:
    keep(tmp_path, [figure("run.start", 1.0), figure("vault.get", 2.0)], MONDAY)
    assert sorted(file.name for file in (tmp_path / "charts").iterdir()) == ["run.svg", "vault.svg"]
    page = (tmp_path / "README.md").read_text()
    assert "(charts/run.svg)" in page
    assert "(charts/vault.svg)" in page


def test_conditions_name_the_command_the_date_and_the_processor() -> None:
    present = present_conditions(["run.start"])
    assert present.command == "python -m benchmarks run.start"
    assert len(present.date) == len("2025-06-02")
    assert "Linux" in present.machine
    assert present.versions.startswith("Python 3.")
