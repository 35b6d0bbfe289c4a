"""What figures share, made when it is first asked for: a whole machine, a backend, the peers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks import load, peers
from benchmarks.certificates import Certificates, make_certificates
from benchmarks.figures import OURS
from benchmarks.programs import HOST, Missing

__all__ = ["APP", "MDX", "Stage"]

MDX = Path(sys.executable).with_name("mdx")
APP = "payroll"  # of the policy that `mdx up` writes: *.corp.internal goes through the tunnel
LOAD_NAME, LOAD_PORT = "load.corp.internal", 7000
SECONDS = 120


class Stage:
    """Everything lives in one temporary folder; leaving the block ends and removes it."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.left_out: list[str] = []  # peers that do not run here, and why

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @cached_property
    def folder(self) -> Path:
        """In the system's temporary folder, since a Unix socket's path must be short."""
        folder = Path(tempfile.mkdtemp(prefix="mdx-bench-"))
        self._stack.callback(shutil.rmtree, folder)
        return folder

    @cached_property
    def environment(self) -> dict[str, str]:
        """The environment of a machine that serves: `mdx up`, and a host behind its gateway."""
        home = self.folder / "m"
        home.mkdir(mode=0o700)
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.lower().endswith("_proxy") and not name.startswith("MDX_")
        } | {"MDX_HOME": str(home)}
        self._stack.callback(_mdx, environment, "down")
        ports = [f"--{part}-port=0" for part in ("gateway", "control", "site")]
        _mdx(environment, "up", *ports)
        _mdx(environment, "down")
        with (home / "gateway" / "gateway.toml").open("a") as file:
            file.write(
                f'\n[[hosts]]\nname = "{LOAD_NAME}"\nport = {LOAD_PORT}\n'
                f'dial = "{HOST}:{self.backend}"\n'
            )
        _mdx(environment, "up", *ports)
        return environment

    @cached_property
    def program(self) -> Path:
        return load.build(self.folder)

    @cached_property
    def backend(self) -> int:
        return load.serve(self._stack, self.program, self.folder / "backend.log")

    @cached_property
    def certificates(self) -> Certificates:
        return make_certificates(self.folder)

    @cached_property
    def pairs(self) -> dict[str, peers.Started]:
        """The peers that run here. Each has one stream's worth of warmth from its check."""
        started: dict[str, peers.Started] = {}
        for name in peers.PAIRS:
            try:
                started[name] = peers.start_pair(
                    self._stack, name, self.certificates, self.folder, self.backend
                )
            except Missing as why:
                self.left_out.append(str(why))
        try:
            started["ssh"] = peers.start_ssh(self._stack, self.folder)
        except Missing as why:
            self.left_out.append(str(why))
        return started

    @cached_property
    def drivers(self) -> dict[str, load.Driver]:
        """One driver for each way to the backend: ours within a run of its own, and each peer's."""
        drivers = {OURS: self.run_driver(self._stack)}
        for name, pair in self.pairs.items():
            drivers[name] = load.Driver(
                self._stack,
                [self.program, "drive"],
                via=pair.via,
                host=HOST,
                port=pair.port or self.backend,
                log=self.folder / "drive.log",
            )
        return drivers

    def run_driver(self, stack: ExitStack) -> load.Driver:
        """`mdx run APP -- load drive`: everything it sends goes the whole way of the product."""
        environment = self.environment
        return load.Driver(
            stack,
            [MDX, "run", "--quiet", APP, "--", self.program, "drive"],
            via="env",
            host=LOAD_NAME,
            port=LOAD_PORT,
            log=self.folder / "run.log",
            environment=environment,
        )

    def runs(self) -> list[dict[str, Any]]:
        """What `mdx ps` shows."""
        found: list[dict[str, Any]] = json.loads(_mdx(self.environment, "ps", "--json"))
        return found


def _mdx(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [str(MDX), *arguments], env=environment, capture_output=True, text=True, timeout=SECONDS
    )
    if done.returncode != 0:
        raise RuntimeError(f"mdx {' '.join(arguments)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout
