"""examples/mail: by the library and by `mdx run`, to the same mailbox, with the same end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import subprocess

    from tests.scenarios.conftest import Machine

EXAMPLE = Path(__file__).parents[2] / "examples" / "mail"
PASSWORD = "analytical engine\n"
INBOX = "1  grace@corp.internal  The moth\n2  radia@corp.internal  Spanning tree\n"
WAYS = {
    "library": [sys.executable, str(EXAMPLE / "with_library.py")],
    "mdx run": [str(EXAMPLE / "mail.sh")],
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Sequence[str]:
    return WAYS[request.param]


@pytest.fixture
def mail(machine: Machine, way: Sequence[str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        environment = {"PYTHON": sys.executable}
        return machine.run(*way, *arguments, stdin=stdin, environment=environment)

    return run


Mail = Callable[..., "subprocess.CompletedProcess[str]"]


def test_it_signs_in_keeps_its_token_and_reads(machine: Machine, mail: Mail) -> None:
    done = mail("sign-in", stdin=PASSWORD)
    assert done.returncode == 0, done.stderr
    record = next(r for r in machine.json("vault", "list", "payroll") if r["name"] == "mail-token")
    assert record["kind"] == "token"

    done = mail("inbox")
    assert (done.stdout, done.stderr, done.returncode) == (INBOX, "", 0)
    assert "log book" in mail("read", "1").stdout

    token = machine.mdx("vault", "get", "payroll", "mail-token").stdout.strip()
    assert token not in done.stdout + done.stderr
    machine.mdx("vault", "remove", "payroll", "mail-token")
    assert mail("inbox").returncode != 0


def test_a_wrong_password_leaves_no_token(machine: Machine, mail: Mail) -> None:
    done = mail("sign-in", stdin="wrong\n")
    assert done.returncode != 0
    assert "403" in done.stderr
    names = [record["name"] for record in machine.json("vault", "list", "payroll")]
    assert "mail-token" not in names


def test_a_locked_app_has_neither_token_nor_tunnel(
    own_machine: Machine, way: Sequence[str]
) -> None:
    environment = {"PYTHON": sys.executable}
    own_machine.run(*way, "sign-in", stdin=PASSWORD, environment=environment)
    own_machine.mdx("lock", "payroll")
    done = own_machine.run(*way, "inbox", environment=environment)
    assert done.returncode in (77, 125)
    assert done.stdout == ""
    assert "payroll: locked" in done.stderr
    assert "mdx unlock payroll" in done.stderr


def test_the_plain_client_alone_does_not_get_there(machine: Machine) -> None:
    done = machine.run(sys.executable, str(EXAMPLE / "plain.py"), "sign-in", stdin=PASSWORD)
    assert done.returncode == 1
    assert done.stdout == ""
