"""What a run costs: the time before its command begins, and the memory of its agent."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter

from benchmarks.figures import OURS, TURNS, Figure, measure
from benchmarks.programs import Missing, find
from benchmarks.stage import APP, MDX, Stage

__all__ = ["BENCHMARKS", "private_megabytes"]

START_TURNS = 31


def start(stage: Stage) -> Figure:
    """`mdx run APP -- true` with a warm hub, beside the bare command and two sandboxes."""
    true = find("true")
    commands: dict[str, list[str | Path]] = {
        OURS: [MDX, "run", "--quiet", APP, "--", true],
        "exec": [true],
    }
    for program, options in (
        # An empty network namespace and everything else shared, as near to a run as they come.
        ("bwrap", ["--dev-bind", "/", "/", "--unshare-net"]),
        ("firejail", ["--quiet", "--noprofile", "--net=none"]),
    ):
        try:
            command: list[str | Path] = [find(program), *options, true]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                raise Missing(f"{program} does not run here: {done.stderr.strip()[-100:]}")
        except Missing as why:
            stage.left_out.append(str(why))
        else:
            commands[program] = command
    environment = stage.environment

    def timed(command: Sequence[str | Path]) -> Callable[[], float]:
        return lambda: _milliseconds(command, environment)

    medians = measure(START_TURNS, {name: timed(command) for name, command in commands.items()})
    words = "`mdx run APP -- true`, hub warm; sandboxes without a network"
    return Figure.of("run.start", words, "ms", "lower", medians)


def agent_rss(stage: Stage) -> Figure:
    """Memory that only this agent has, after its first flow; and the clients' sides of peers."""

    def ours() -> float:
        with ExitStack() as stack:
            before = {run["run"] for run in stage.runs()}
            driver = stage.run_driver(stack)
            driver.order("latency", 1)
            (agent,) = (run["agent"] for run in stage.runs() if run["run"] not in before)
            return private_megabytes(agent)

    contenders: dict[str, Callable[[], float]] = {OURS: ours}
    for name, pair in stage.pairs.items():
        # nginx serves in a worker, whose memory is not the master's; both are nginx's.
        stage.drivers[name].order("latency", 1)
        contenders[name] = lambda pid=pair.client_pid: sum(  # type: ignore[misc]
            private_megabytes(process) for process in (pid, *_children(pid))
        )
    medians = measure(TURNS, contenders)
    words = "private memory of an agent after its first flow; of peers, the client's side"
    return Figure.of("run.agent_rss", words, "MB", "lower", medians)


BENCHMARKS: Mapping[str, Callable[[Stage], Figure]] = {
    "run.start": start,
    "run.agent_rss": agent_rss,
}


def private_megabytes(pid: int) -> float:
    """Memory of a process that no other shares, proc(5) smaps_rollup. Raises: Missing."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except PermissionError:
        raise Missing("the memory of an agent is hidden from other processes: needs root") from None
    kilobytes = sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
    return kilobytes * 1024 / 1e6


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def _milliseconds(command: Sequence[str | Path], environment: Mapping[str, str]) -> float:
    begun = perf_counter()
    subprocess.run(command, env=environment, check=True)
    return (perf_counter() - begun) * 1000
