"""The load generator `load.c`: compiled when it is needed, driven by orders in lines."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.programs import Missing, find, start

__all__ = ["Driver", "build", "serve"]

SOURCE = Path(__file__).with_name("load.c")


def build(folder: Path) -> Path:
    """The program, in `folder`. Raises: Missing without a compiler."""
    program = folder / "load"
    command = [find("cc"), "-O2", "-pthread", "-o", str(program), str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise Missing(f"load.c does not compile: {done.stderr.strip().splitlines()[-1:]}")
    return program


def serve(stack: ExitStack, program: Path, log: Path) -> int:
    """Start the backend; its port on loopback."""
    process = start(stack, [program, "serve"], log=log, pipes=True)
    return int(_read_line(process))


class Driver:
    """One `load drive`, as such or under `mdx run`, whose streams go `via` to `host`:`port`."""

    def __init__(
        self,
        stack: ExitStack,
        command: Sequence[str | Path],
        *,
        via: str,
        host: str,
        port: int,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._target = f"{via} {host} {port}"
        self._log = log
        self._process = start(stack, command, log=log, environment=environment, pipes=True)

    @property
    def pid(self) -> int:
        return self._process.pid

    def order(self, kind: str, *numbers: int) -> float:
        """Carry out one order of load.c. Raises: RuntimeError with what went wrong."""
        assert self._process.stdin is not None
        words = " ".join([kind, self._target, *map(str, numbers)])
        try:
            print(words, file=self._process.stdin, flush=True)
            answer = _read_line(self._process)
        except (BrokenPipeError, EOFError):
            said = self._log.read_text(errors="replace").strip().splitlines()
            raise RuntimeError(f"{words}: the driver ended: {said[-1:]}") from None
        if answer.startswith("error"):
            raise RuntimeError(f"{words}: {answer.removeprefix('error: ')}")
        return float(answer)


def _read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise EOFError
    return line.strip()
