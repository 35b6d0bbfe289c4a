"""Whole machines: `mdx up` in a state folder of its own, driven by the real command line."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

BIN = Path(sys.executable).parent
SITE = "intranet.corp.internal"
SECONDS = 60

APPS = """
[apps.visitor]
network_access = "tunneled"
routes = [{ tunnel = "*.corp.internal" }]
ca_file = "@CA@"

[apps.offline]

[apps.short]
key_lifetime = "3s"
network_access = "tunneled"
routes = [{ tunnel = "*.corp.internal" }]
ca_file = "@CA@"

[apps.stopped]
key_lifetime = "2s"
on_lease_end = "stop"

[apps.robot]
key_lifetime = "1s"
unattended = true

[apps.strict]
minimum_level = 2

[apps.direct]
network_access = "unrestricted"
routes = [
  { direct = "127.0.0.9" },
  { block = "*.blocked.test", reason = "for this test" },
]
"""


class Machine:
    """One all-in-one machine. Commands run in its environment, from its folder."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.lower().endswith("_proxy") and not name.startswith("MDX_")
        } | {
            "MDX_HOME": str(home),
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "COLUMNS": "200",
        }

    def run(
        self, *command: str, stdin: str = "", environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Any command, to its end; whatever its status."""
        return subprocess.run(
            command,
            env=self.environment | dict(environment or {}),
            cwd=self.home,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )

    def mdx(
        self, *arguments: str, status: int = 0, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """`mdx ARGUMENTS`, which must end with `status`."""
        done = self.run("mdx", *arguments, stdin=stdin)
        assert done.returncode == status, (arguments, done.stdout, done.stderr)
        return done

    def json(self, *arguments: str) -> Any:
        """What `mdx ARGUMENTS --json` prints."""
        return json.loads(self.mdx(*arguments, "--json").stdout)

    def start(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        """A command that goes on beside the test, with pipes."""
        return subprocess.Popen(
            command,
            env=self.environment,
            cwd=self.home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def up(self) -> None:
        self.mdx("up", "--gateway-port=0", "--control-port=0", "--site-port=0")
        config = self.home / "mdx.toml"
        if "apps.visitor" not in config.read_text():
            ca = next(
                line.split('"')[1] for line in config.read_text().splitlines() if "ca_file" in line
            )
            with config.open("a") as file:
                file.write(APPS.replace("@CA@", ca))
            self.mdx("login")

    def down(self) -> None:
        self.mdx("down")

    @property
    def ports(self) -> dict[str, int]:
        ports: dict[str, int] = json.loads((self.home / "allinone.json").read_text())["ports"]
        return ports

    def until(self, condition: Callable[[], bool]) -> None:
        """Ask again until it holds. Asking starts a process or two, so this is no busy loop."""
        if not any(condition() for _ in range(200)):
            raise AssertionError("it never came to hold")

    def records(self, event: str) -> list[dict[str, Any]]:
        """All audit records of one event, as data."""
        shown = self.json("audit", "show", "--last", "100000")
        return [record for record in shown if record["event"] == event]


@pytest.fixture(scope="session")
def make_machine() -> Iterator[Callable[[], Machine]]:
    """Make machines in short folders, since a Unix socket's path must be short."""
    made: list[Machine] = []

    def make() -> Machine:
        machine = Machine(Path(tempfile.mkdtemp(prefix="mdx-test-")) / "state")
        machine.home.mkdir(mode=0o700)
        made.append(machine)
        return machine

    yield make
    for machine in made:
        machine.run("mdx", "down")
        shutil.rmtree(machine.home.parent)


@pytest.fixture(scope="session")
def machine(make_machine: Callable[[], Machine]) -> Machine:
    """The machine that tests share; they leave it as it was."""
    machine = make_machine()
    machine.up()
    return machine


@pytest.fixture
def own_machine(make_machine: Callable[[], Machine]) -> Machine:
    """A machine for one test that breaks things."""
    machine = make_machine()
    machine.up()
    return machine


@pytest.fixture(scope="session")
def site() -> str:
    return SITE


@pytest.fixture
def passphrase_machine(make_machine: Callable[[], Machine]) -> Machine:
    """A machine without a gateway whose vault's root key is kept by a passphrase, and locked."""
    machine = make_machine()
    (machine.home / "mdx.toml").write_text("[apps.payroll]\n")
    init = ["vault", "init", "--keeper", "passphrase", "--passphrase-file", "/dev/stdin"]
    machine.mdx(*init, stdin="correct horse battery staple")
    machine.mdx("logout")
    return machine


@pytest.fixture(scope="session")
def run_function() -> Callable[..., str]:
    """Run a function of a test as a program of its own on a machine; what it printed.

    Only its own text goes there, so it imports what it needs. Warnings are errors in it.
    """

    def run(machine: Machine, function: Callable[..., None], *arguments: object) -> str:
        lines = inspect.getsource(function)
        call = f"{function.__name__}({', '.join(map(repr, arguments))})"
        program = f"from __future__ import annotations\n{textwrap.dedent(lines)}\n{call}\n"
        done = machine.run(sys.executable, "-P", "-W", "error", "-c", program)
        assert (done.returncode, done.stderr) == (0, ""), (done.stdout, done.stderr)
        return done.stdout

    return run


@pytest.fixture(scope="session")
def let_others_in() -> Callable[[Path], None]:
    """Open a test's folder, and pytest's own above it, to other users. Never /tmp itself."""

    def open_up(folder: Path) -> None:
        top = Path(tempfile.gettempdir())
        for each in (folder, *folder.parents):
            if each == top or each.stat().st_uid != os.getuid():
                return
            each.chmod(0o755)

    return open_up
