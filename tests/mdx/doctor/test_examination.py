"""Checks side by side: none waits for another, none ends another."""

from __future__ import annotations

import threading
from pathlib import Path

import trio

from mdx.doctor.examination import Check, Role, checks_of, examine, roles_here
from mdx.doctor.findings import Finding, ok, verdict
from mdx.errors import MdxError
from mdx.folders import Folders


async def test_findings_come_in_the_order_of_their_checks() -> None:
    both = threading.Barrier(2, timeout=5)  # one after the other would never pass it

    def look(name: str) -> Finding:
        both.wait()
        return ok(name, "x")

    checks = [
        Check(name="a", look=lambda: look("a")),
        Check(name="b", look=lambda: [look("b"), ok("c", "y")]),
    ]
    assert [found.name for found in await examine(checks)] == ["a", "b", "c"]


async def test_a_check_that_hangs_is_said_to() -> None:
    released = threading.Event()
    checks = [
        Check(name="hangs", look=lambda: ok("never", str(released.wait(30)))),
        Check(name="must", look=lambda: ok("m", str(released.wait(30))), must_answer="restart"),
        Check(name="goes", look=lambda: ok("goes", "x")),
    ]
    begun = trio.current_time()
    hangs, must, goes = await examine(checks, seconds=0.2)
    assert trio.current_time() - begun < 5
    released.set()
    assert (hangs.name, hangs.standing) == ("hangs", "warn")
    assert "longer than 0.2 s" in hangs.what
    assert (must.name, must.standing, must.do) == ("must", "bad", "restart")
    assert goes.standing == "ok"


async def test_a_check_that_fails_is_a_finding() -> None:
    def refuse() -> Finding:
        raise MdxError("no", hint="do this")

    def stumble() -> Finding:
        raise ZeroDivisionError("hunter2")

    refused, stumbled = await examine([Check(name="a", look=refuse), Check(name="b", look=stumble)])
    assert (refused.standing, refused.what, refused.do) == ("bad", "no", "do this")
    assert stumbled.standing == "bad"
    assert "hunter2" not in stumbled.what + stumbled.do


async def test_a_machine_without_anything_is_not_bad(tmp_path: Path) -> None:
    home = tmp_path / "home"
    folders = Folders(home=home)
    environ = {"MDX_HOME": str(home), "HOME": str(tmp_path)}
    found = await examine(checks_of(Role.DEVICE, folders, home, None, environ))
    assert verdict(found) == "warn"
    assert not home.exists()  # looking makes nothing
    level = next(one for one in found if one.name == "level")
    assert "level 1" in level.what
    assert "not held" in level.what
    assert "none is higher" in level.do


def test_roles_by_what_is_there(tmp_path: Path) -> None:
    folders = Folders(home=tmp_path)
    assert roles_here(folders, tmp_path) == [Role.DEVICE]
    (tmp_path / "gateway").mkdir()
    (tmp_path / "control").mkdir()
    assert roles_here(folders, tmp_path) == [Role.GATEWAY, Role.CONTROL]
    folders.vault.mkdir()
    assert roles_here(folders, tmp_path) == [Role.DEVICE, Role.GATEWAY, Role.CONTROL]
