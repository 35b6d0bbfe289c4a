"""The kernel's features, as this kernel has them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mdx import spawn
from mdx.doctor import kernel
from mdx.doctor.findings import Finding, ok, warn


@pytest.fixture(scope="module")
def found() -> dict[str, Finding]:
    return {finding.name: finding for finding in kernel.check_kernel()}


def test_what_runs_need_is_found_where_runs_work(found: dict[str, Finding]) -> None:
    # The scenario tests run here, so these are here.
    assert found["sock_diag"].standing == "ok"
    assert found["pidfd"].standing == "ok"


def test_no_feature_of_later_levels_makes_a_machine_bad(found: dict[str, Finding]) -> None:
    later = ("user namespaces", "nftables", "AppArmor", "seccomp notify", "landlock")
    assert all(found[name].standing != "bad" for name in later)
    for name in later:
        if found[name].standing == "warn":
            assert "level 2" in found[name].what


def test_asking_changes_nothing_about_this_process(found: dict[str, Finding]) -> None:
    here = os.readlink("/proc/self/ns/user"), os.readlink("/proc/self/ns/net")
    kernel.check_kernel()
    assert (os.readlink("/proc/self/ns/user"), os.readlink("/proc/self/ns/net")) == here


@pytest.mark.parametrize(("content", "restricted"), [("0\n", False), ("1\n", True), (None, False)])
def test_the_switch_of_apparmor(tmp_path: Path, content: str | None, restricted: bool) -> None:
    switch = tmp_path / "switch"
    if content is not None:
        switch.write_text(content)
    expected = "warn" if restricted and os.geteuid() != 0 else "ok"
    assert kernel._apparmor(switch).standing == expected


def test_what_is_lacking_is_named() -> None:
    found = [ok("landlock", "ABI 4"), warn("nftables", "none"), warn("SO_PEERPIDFD", "none")]
    assert kernel.lacking_for_higher_levels(found) == ["nftables"]


def test_a_script_has_nothing_of_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDX_SECRET", "hunter2")
    said = spawn.output_of_script("import json, os; print(json.dumps(dict(os.environ)))")
    assert "hunter2" not in said
    assert "MDX_SECRET" not in json.loads(said)


def test_a_script_that_fails_or_hangs_says_nothing() -> None:
    assert spawn.output_of_script("print('x'); raise SystemExit(1)") == "x\n"
    assert spawn.output_of_script("while True: pass") == ""
