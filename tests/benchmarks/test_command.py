"""`python -m benchmarks`: names, errors and files, without measuring what takes time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
UNITS = {"GB/s", "1/s", "us", "ms", "s", "bytes", "MB"}


def benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_the_list_has_every_figure_and_results_have_no_other() -> None:
    listed = benchmarks("--list").stdout.split()
    for promised in ("crypto.raw_1k", "tunnel.bulk_1", "tunnel.connections", "run.start"):
        assert promised in listed
    kept = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    assert {entry["name"] for entry in kept} == set(listed)
    for entry in kept:
        assert list(entry) == ["name", "figure", "unit", "value", "better", "peers"]
        assert entry["unit"] in UNITS
        assert entry["better"] in ("higher", "lower")
        assert entry["value"] > 0
        for peer in entry["peers"].values():
            assert list(peer) == ["value", "ratio"]


def test_the_page_shows_what_results_say() -> None:
    page = (ROOT / "benchmarks" / "README.md").read_text()
    for entry in json.loads((ROOT / "benchmarks" / "results.json").read_text()):
        assert f"| `{entry['name']}` | {entry['figure']} |" in page
        assert f"charts/{entry['name'].partition('.')[0]}.svg" in page


def test_a_name_that_fits_nothing_is_a_usage_error_that_says_where_the_names_are() -> None:
    done = benchmarks("tunel.bulk_1")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == (
        "python -m benchmarks: error: no figure is called tunel.bulk_1 or begins so;"
        " --list shows them all"
    )


def test_a_folder_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    done = benchmarks("crypto", "--into", str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert "there is no such folder" in done.stderr
