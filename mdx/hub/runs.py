"""The runs of this device: which command, which agent, and what to do when one of them ends.

A run begins with the launcher's request and ends with its process, known by pidfd, so that a
reused pid can never be taken for it. What a restarted hub must know stands in one small file per
run; an agent that it finds there is recognised by pid and start time.

A standing agent (`mdx agent`) is a run, too: its first process is the one in the foreground, which
holds the listener, follows the hub, and brings the listener to the next one.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from mdx.errors import MdxError, RunFailed
from mdx.hub.forking import Forked, Zygote
from mdx.hub.serving import Connection
from mdx.hub.wire import Message
from mdx.process import start_time

__all__ = ["LOOK", "Run", "Runs"]

LOOK: Message = {"event": "look"}
# An agent that keeps dying has a cause that another fork does not cure.
MAX_REPLACEMENTS, REPLACEMENTS_SECONDS = 5, 3600.0
STOP_SECONDS = 10.0
TAKE_SECONDS = 5.0
SAVED = {  # what a run's file says
    *("run", "app", "command", "level", "started_at", "pid", "agent", "spec"),
    *("root_start", "agent_start", "stop_at_end", "renew_for_seconds"),
}


@dataclass(slots=True, kw_only=True)
class Run:
    """One running command. `listener` is kept so that a dead agent can be replaced on its port
    and nobody else can take the port over; it is None after a restart of the hub."""

    id: str
    app: str
    command: str
    level: int
    started_at: float
    root: int
    root_pidfd: int
    agent: int = 0
    agent_pidfd: int = -1
    listener: int | None = None
    listen: str = ""  # the address of a standing agent; empty for a command
    stop_at_end: bool = False  # on_lease_end of the policy with which it was started
    renew_for_seconds: float | None = None  # where its policy lets leases be renewed unattended
    spec: dict[str, Any] = field(default_factory=dict, repr=False)
    replaced_at: list[float] = field(default_factory=list)  # trio's clock
    given_up: bool = False  # it has no agent any more, and gets none
    listener_came: trio.Event = field(default_factory=trio.Event, repr=False)
    watchers: list[Connection] = field(default_factory=list, repr=False)  # of a standing agent
    followers: list[Connection] = field(default_factory=list, repr=False)
    over: trio.Event = field(default_factory=trio.Event, repr=False)
    taken_version: int = 0  # of the description, by the agent
    _taken: trio.Event = field(default_factory=trio.Event, repr=False)

    def take(self, version: int) -> None:
        """The agent says which version of the description it goes by."""
        self.taken_version = max(self.taken_version, version)
        self._taken.set()
        self._taken = trio.Event()

    async def wait_until_taken(self) -> None:
        """Until the agent goes by the description as it is, or does not for too long."""
        with trio.move_on_after(TAKE_SECONDS):
            while self.taken_version < self.spec["version"]:
                await self._taken.wait()

    def close(self) -> None:
        """Close every descriptor that the run holds."""
        for descriptor in (self.root_pidfd, self.agent_pidfd, self.listener):
            if descriptor is not None and descriptor >= 0:
                os.close(descriptor)
        self.root_pidfd = self.agent_pidfd = -1
        self.listener = None

    def facts(self) -> dict[str, Any]:
        """What `mdx ps` shows."""
        return {
            "run": self.id,
            "kind": "agent" if self.listen else "run",
            "app": self.app,
            "listen": self.listen or None,
            "command": self.command,
            "level": self.level,
            "started_at": self.started_at,
            "pid": self.root,
            "agent": self.agent,
        }


class Runs:
    """All runs of this user's hub.

    `record(event, **fields)` writes the audit; `ended(run id, app)` is awaited when a run is over.
    """

    def __init__(
        self,
        folder: Path,
        *,
        zygote: Zygote,
        nursery: trio.Nursery,
        record: Callable[..., None],
        ended: Callable[[str, str], Awaitable[None]],
    ) -> None:
        self._folder = folder
        self._zygote = zygote
        self._nursery = nursery
        self._record = record
        self._ended = ended
        self._runs: dict[str, Run] = {}

    def all_(self) -> list[Run]:
        """The living runs, oldest first."""
        return sorted(self._runs.values(), key=lambda run: run.started_at)

    def of_app(self, app: str) -> list[Run]:
        """The living runs of one app."""
        return [run for run in self.all_() if run.app == app]

    def of_agent(self, pid: int, run_id: str) -> Run:
        """The run whose agent is the process `pid`. Raises: MdxError for anybody else."""
        run = self._runs.get(run_id)
        if run is None or run.agent != pid or not _alive(run.agent_pidfd):
            raise MdxError(f"process {pid} is not the agent of run {run_id}", exit_code=77)
        return run

    def of_root(self, pid: int, run_id: str) -> Run:
        """The run whose first process is `pid`. Raises: MdxError for anybody else."""
        run = self._runs.get(run_id)
        if run is None or run.root != pid or not _alive(run.root_pidfd):
            raise MdxError(f"process {pid} is not the first of run {run_id}", exit_code=77)
        return run

    def named(self, name: str) -> list[Run]:
        """The runs with this id, or of this app. Raises: MdxError when there is none."""
        found = [run for run in self.all_() if name in (run.id, run.app)]
        if not found:
            raise MdxError(f"no run and no running app is named {name}", hint="mdx ps lists them")
        return found

    async def start(self, run: Run) -> None:
        """Fork the agent of `run` and watch over both. Takes over the run's descriptors.

        Raises: RunFailed when no agent can be forked, or a restarted hub could not find the run
        again; the descriptors are closed then.
        """
        try:
            await self._fork_agent(run)
            self._save(run)
        except BaseException:
            _kill(run.agent_pidfd)
            run.close()
            raise
        self._runs[run.id] = run
        self._nursery.start_soon(self._watch, run)

    async def stop(self, run: Run) -> None:
        """SIGTERM to the command, SIGKILL when it is still there after a while."""
        for sent in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(run.root_pidfd, sent)
            with trio.move_on_after(STOP_SECONDS):
                await run.over.wait()
                return

    async def tell(self, app: str) -> None:
        """Have the agents of `app` look at its lease; one that is not there asks when it is."""
        for run in self.of_app(app):
            await _tell(run.followers)
            await _tell(run.watchers)

    def attach(self, run: Run, connection: Connection, listener: int) -> None:
        """An agent follows its run; `listener` is its own, which a restarted hub lacks."""
        run.followers.append(connection)
        self._take_listener(run, listener)

    def watch(self, run: Run, connection: Connection, listener: int) -> None:
        """The first process of a standing agent follows it, and brings its listener."""
        run.watchers.append(connection)
        self._take_listener(run, listener)

    async def reload(self, run: Run, changes: Mapping[str, Any]) -> None:
        """Change the description of `run`, and have its agent look. Raises: RunFailed."""
        before = dict(run.spec)
        run.spec.update(changes, version=run.spec["version"] + 1)
        try:
            self._save(run)
        except RunFailed:
            run.spec.clear()
            run.spec.update(before)
            raise
        await _tell(run.followers)

    def _take_listener(self, run: Run, listener: int) -> None:
        if run.listener is None:
            run.listener = listener
            run.listener_came.set()
        else:
            os.close(listener)

    async def restore(self) -> None:
        """After a restart: find the runs again that an earlier hub started."""
        for path in sorted(self._folder.glob("*.json")):
            found = _read(path)
            run = _restored(found) if found else None
            if run is not None:
                self._runs[run.id] = run
                self._nursery.start_soon(self._watch, run)
                continue
            path.unlink()
            if found:  # it ended while no hub was there to see it
                await self._ended(found["run"], found["app"])

    async def _fork_agent(self, run: Run) -> None:
        listener = run.listener
        if listener is None:
            raise MdxError("the listener of this run is not ours any more")
        forked: Forked = await self._zygote.fork(run.spec, [listener, run.root_pidfd])
        if run.agent_pidfd >= 0:
            os.close(run.agent_pidfd)
        run.agent, run.agent_pidfd = forked.pid, forked.pidfd

    async def _watch(self, run: Run) -> None:
        async with trio.open_nursery() as watching:
            watching.start_soon(self._watch_agent, run)
            await trio.lowlevel.wait_readable(run.root_pidfd)
            watching.cancel_scope.cancel()
        with trio.move_on_after(5) as patience:  # it sees the same pidfd and ends by itself
            if run.agent_pidfd >= 0:
                await trio.lowlevel.wait_readable(run.agent_pidfd)
        if patience.cancelled_caught:
            _kill(run.agent_pidfd)
        del self._runs[run.id]
        run.over.set()
        self._path(run).unlink(missing_ok=True)
        try:
            await self._ended(run.id, run.app)
        finally:
            run.close()

    async def _watch_agent(self, run: Run) -> None:
        while True:
            died_here = run.agent_pidfd >= 0
            if died_here:
                await trio.lowlevel.wait_readable(run.agent_pidfd)
            if run.listener is None and (run.listen or not died_here):
                await run.listener_came.wait()  # a standing agent's first process brings it
            if not _alive(run.root_pidfd):
                return
            try:
                await self._replace_agent(run)
            except MdxError as error:
                sys.stderr.write(f"hub: run {run.id} has no agent any more: {error}\n")
                sys.stderr.flush()
                self._give_up(run)
                await _tell(run.watchers)
                return  # the app has no way out any more, which is the safe end

    def _give_up(self, run: Run) -> None:
        run.given_up = True
        if run.agent_pidfd >= 0:
            _kill(run.agent_pidfd)
            os.close(run.agent_pidfd)
            run.agent_pidfd = -1
        run.agent = 0
        if run.listener is not None:
            _refuse_all(run.listener)

    async def _replace_agent(self, run: Run) -> None:
        """Raises: MdxError when there is to be none, or it cannot be written down."""
        self._record("agent.died", run=run.id, app=run.app, pid=run.agent)
        at = trio.current_time()
        run.replaced_at = [then for then in run.replaced_at if then > at - REPLACEMENTS_SECONDS]
        if len(run.replaced_at) >= MAX_REPLACEMENTS:
            raise MdxError(f"it died {len(run.replaced_at) + 1} times")
        run.replaced_at.append(at)
        run.followers.clear()
        run.spec["lease"] = None  # it may have ended since: the new agent asks first
        await self._fork_agent(run)
        self._save(run)
        self._record("agent.replaced", run=run.id, app=run.app, pid=run.agent)

    def _path(self, run: Run) -> Path:
        return self._folder / f"{run.id}.json"

    def _save(self, run: Run) -> None:
        """Raises: RunFailed when it cannot be written."""
        facts = run.facts() | {
            "root_start": start_time(run.root),
            "agent_start": start_time(run.agent),
            "stop_at_end": run.stop_at_end,
            "renew_for_seconds": run.renew_for_seconds,
            "spec": run.spec,
        }
        path = self._path(run)
        fresh = path.with_suffix(".new")
        try:
            fresh.write_text(json.dumps(facts))
            fresh.chmod(0o600)
            fresh.replace(path)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise RunFailed(f"{path} cannot be written: {error.strerror}") from None


async def _tell(connections: list[Connection]) -> None:
    """Have them look; those that do not take it are dropped, and ask when they come back."""
    for connection in list(connections):
        if not await connection.tell(LOOK) and connection in connections:
            connections.remove(connection)


def _read(path: Path) -> dict[str, Any] | None:
    """What stands in a run's file; None for one half-written by a hub that was killed.

    Then the launcher had no answer either, so there was no run.
    """
    try:
        facts = json.loads(path.read_text())
    except ValueError:
        return None
    return facts if isinstance(facts, dict) and facts.keys() >= SAVED else None


def _restored(facts: Mapping[str, Any]) -> Run | None:
    """The run of these facts, if its command still lives."""
    root_pidfd = _pidfd(facts["pid"], facts["root_start"])
    if root_pidfd is None:
        return None
    agent_pidfd = _pidfd(facts["agent"], facts["agent_start"])
    return Run(
        id=facts["run"],
        app=facts["app"],
        command=facts["command"],
        level=facts["level"],
        started_at=facts["started_at"],
        root=facts["pid"],
        root_pidfd=root_pidfd,
        agent=facts["agent"] if agent_pidfd is not None else 0,
        agent_pidfd=-1 if agent_pidfd is None else agent_pidfd,
        listen=facts.get("listen") or "",
        stop_at_end=facts["stop_at_end"],
        renew_for_seconds=facts["renew_for_seconds"],
        spec={"admit": {"kind": "run"}, "version": 0} | facts["spec"],
    )


def _refuse_all(listener: int) -> None:
    """Connections are refused from now on, but nobody else can bind the port while it is open."""
    with socket.socket(fileno=os.dup(listener)) as listening, suppress(OSError):
        listening.shutdown(socket.SHUT_RDWR)


def _pidfd(pid: int, started: int | None) -> int | None:
    """A pidfd of exactly the process that had `pid` and started then."""
    if not pid or started is None:
        return None
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if start_time(pid) != started or not _alive(pidfd):
        os.close(pidfd)
        return None
    return pidfd


def _kill(pidfd: int) -> None:
    """SIGKILL to the process behind this pidfd (-1: none), if it still runs."""
    if pidfd >= 0:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def _alive(pidfd: int) -> bool:
    """Is the process behind this pidfd (-1: none) still running?"""
    return pidfd >= 0 and not select.select([pidfd], [], [], 0)[0]
