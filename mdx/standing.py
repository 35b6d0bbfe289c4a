"""`mdx agent` in the foreground: keeps an agent at one address for programs mdx did not start.

This process holds the listener and is the run's first process, so the agent that the hub forks
ends with it. It follows the hub: when that is gone, it waits for the next one (or starts it) and
brings the listener; meanwhile the agent serves on. SIGHUP loads the policy again, SIGTERM ends.

Never: a key, a byte of what passes through.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from mdx import process
from mdx.container.admission import rule_text
from mdx.errors import HubRefused, HubUnreachable, MdxError
from mdx.folders import Folders, find_folders, private_folder
from mdx.hub.link import HubLink
from mdx.hub.starting import connect_or_start
from mdx.hub.wire import call
from mdx.launcher import CONFIG_VARIABLES
from mdx.listen_address import Executable, ListenAddress, bind, pin_executable
from mdx.notify import Notifier
from mdx.printable import printable
from mdx.spawn import DaemonLock

__all__ = ["Standing", "admission_rule"]

BIND_TRIES, BIND_SECONDS = 10, 0.1  # who was killed at this address lets go within a moment
RECONNECT_SECONDS = 0.5
MANAGER_SECONDS = 10.0  # systemd is given this long to start its own hub again, before we do
MAX_WAIT_SECONDS = 30.0


def admission_rule(
    address: ListenAddress, *, uid: int | None, executable: Executable | None
) -> dict[str, Any]:
    """Whom to serve. Raises: MdxError where that is nobody in particular."""
    if address.is_unix:
        if uid is None and executable is None:
            return {"kind": "user"}
        raise MdxError(
            "--uid and --executable are for 127.0.0.1:PORT; a Unix socket serves your user",
            exit_code=2,
        )
    if uid is not None and executable is not None:
        raise MdxError("use --uid or --executable, not both", exit_code=2)
    if executable is not None:
        return executable.rule()
    if uid is None:
        raise MdxError(
            f"--listen {address} needs a rule: without one everybody on this machine is served",
            hint="add --uid UID or --executable PATH, or use --listen unix:/path",
            exit_code=2,
        )
    return {"kind": "uid", "uid": uid}


@dataclass(slots=True, kw_only=True)
class Standing:
    """What one `mdx agent` was asked for."""

    app: str
    address: ListenAddress
    uid: int | None
    executable: Path | None
    config: Path | None

    def run(self, report: Callable[[dict[str, Any]], None]) -> None:
        """Serve until SIGTERM, SIGINT or `mdx stop`; `report(facts)` is called when it does.

        Raises: MdxError.
        """
        process.harden()
        notifier = Notifier.taken_from(os.environ)
        has_manager = "INVOCATION_ID" in os.environ
        pinned = self._pin()
        folders = find_folders(os.environ)
        for folder in (folders.home, folders.run):
            private_folder(folder)
        lock = self._lock(folders)
        try:
            trio.run(_Serving(self, folders, notifier, pinned, has_manager, report).run)
        except BaseExceptionGroup as group:  # an error raised in `except*` is a group again
            ours, others = group.split((MdxError, KeyboardInterrupt))
            if ours is None or others is not None:
                raise
            raise _first(ours) from None
        finally:
            if lock is not None:
                lock.release()

    def check(self) -> None:
        """Raises: MdxError for options that make no sense, or not here."""
        if (pinned := self._pin()) is not None:
            pinned.close()

    def _pin(self) -> Executable | None:
        pinned = pin_executable(self.executable) if self.executable else None
        try:
            admission_rule(self.address, uid=self.uid, executable=pinned)
        except MdxError:
            if pinned is not None:
                pinned.close()
            raise
        return pinned

    def _lock(self, folders: Folders) -> DaemonLock | None:
        """Nobody else serves this address from this state folder; any free port is nobody's."""
        if not self.address.is_unix and not self.address.port:
            return None
        path = private_folder(folders.run / "agents") / self.address.lock_name
        try:
            return DaemonLock(path)
        except MdxError:
            raise MdxError(
                f"an agent serves {self.address} already", hint="mdx ps lists it"
            ) from None


class _Serving:
    def __init__(
        self,
        asked: Standing,
        folders: Folders,
        notifier: Notifier,
        pinned: Executable | None,
        has_manager: bool,
        report: Callable[[dict[str, Any]], None],
    ) -> None:
        self._report = report
        self._asked = asked
        self._folders = folders
        self._hub = HubLink(folders.hub_socket)
        self._notifier = notifier
        self._pinned = pinned
        self._has_manager = has_manager
        self._run = ""
        self._has_terminal = os.isatty(0)
        self._where = str(asked.address)
        self._locked = ""

    async def run(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._notifier.keep_alive)
                nursery.start_soon(self._serve)
                async for number in signals:
                    # A terminal that was closed says SIGHUP as well, and means the end.
                    if number != signal.SIGHUP or (self._has_terminal and not os.isatty(0)):
                        break
                    await self._reload()
                self._notifier.stopping()
                nursery.cancel_scope.cancel()

    async def _serve(self) -> None:
        listening = await self._bind()
        with listening:
            if not self._asked.address.is_unix:
                host, port = listening.getsockname()
                self._where = f"{host}:{port}"
            held = _identity(self._asked.address.path)
            try:
                await self._begin(listening)
                await self._follow(listening)
            finally:
                _remove(self._asked.address.path, held)

    async def _bind(self) -> socket.socket:
        for _ in range(BIND_TRIES):
            with suppress(MdxError):
                return bind(self._asked.address)
            await trio.sleep(BIND_SECONDS)
        return bind(self._asked.address)

    # The hub --------------------------------------------------------------------------------

    async def _begin(self, listening: socket.socket) -> None:
        request = self._request("serve") | {"app": self._asked.app, "listen": self._where}

        def ask() -> dict[str, Any]:
            with connect_or_start(self._folders) as hub:
                return dict(call(hub, request, [listening.fileno()]))

        granted = await trio.to_thread.run_sync(ask, abandon_on_cancel=True)
        self._run = granted["run"]
        self._locked = granted["locked"]
        self._report(granted | {"listen": self._where, "serves": rule_text(self._rule())})
        if self._locked:
            self._say_lease()
        self._notifier.ready(self._status())

    async def _follow(self, listening: socket.socket) -> None:
        watch = {"op": "serve.watch", "run": self._run}
        while True:
            with suppress(HubUnreachable):
                await self._hub.follow(watch, self._look, [listening.fileno()])
            self._say("the hub is gone; what has a session goes on")
            self._notifier.status("waits for the hub")
            await self._wait_for_hub()
            self._say("a hub answers again")
            self._notifier.status(self._status())

    async def _wait_for_hub(self) -> None:
        """Until a hub answers. One that the service manager keeps is given the time to come."""
        patience = trio.current_time() + (MANAGER_SECONDS if self._has_manager else 0.0)
        wait = RECONNECT_SECONDS
        while True:
            await trio.sleep(wait)
            with suppress(HubUnreachable):
                await self._hub.call({"op": "ps"})
                return
            if trio.current_time() < patience:
                continue
            try:
                await trio.to_thread.run_sync(self._start_hub, abandon_on_cancel=True)
                return
            except (MdxError, OSError) as error:
                self._say(f"the hub does not start: {error}")
            wait = min(wait * 2, MAX_WAIT_SECONDS)

    def _start_hub(self) -> None:
        connect_or_start(self._folders).close()

    async def _look(self) -> None:
        """How the agent stands, whenever the hub says that something changed.

        Raises: MdxError when there is none any more: then a service manager starts anew.
        """
        state = await self._hub.call({"op": "serve.state", "run": self._run})
        if state["given_up"]:
            raise MdxError("the agent died too often", hint="mdx logs hub says why")
        if state["locked"] != self._locked:
            self._locked = state["locked"]
            self._say_lease()
            self._notifier.status(self._status())

    async def _reload(self) -> None:
        """SIGHUP: the policy, and the program behind the name, as they are now."""
        if not self._run:
            return
        self._notifier.reloading()
        before = self._pinned
        try:
            if self._asked.executable is not None:
                self._pinned = pin_executable(self._asked.executable)
            answer = await self._hub.call(self._request("serve.reload") | {"run": self._run})
        except (HubRefused, HubUnreachable, MdxError) as error:
            if self._pinned is not before and self._pinned is not None:
                self._pinned.close()
            self._pinned = before
            hint = f" ({error.hint})" if error.hint else ""
            self._say(f"not reloaded, what was loaded before holds: {error}{hint}")
        else:
            if before is not None:
                before.close()
            self._say("reloaded" if answer["changed"] else "reloaded; nothing has changed")
        self._notifier.ready(self._status())

    def _request(self, operation: str) -> dict[str, Any]:
        config = self._asked.config
        return {
            "op": operation,
            "admit": self._rule(),
            "config": os.path.abspath(config) if config else None,
            "environ": {name: os.environ[name] for name in CONFIG_VARIABLES if name in os.environ},
        }

    def _rule(self) -> dict[str, Any]:
        return admission_rule(self._asked.address, uid=self._asked.uid, executable=self._pinned)

    # Words ----------------------------------------------------------------------------------

    def _status(self) -> str:
        return f"{self._locked}; refuses" if self._locked else f"serves {self._where}"

    def _say_lease(self) -> None:
        if self._locked:
            self._say(f"connections are refused: {self._locked}; mdx unlock {self._asked.app}")
        else:
            self._say("unlocked; connections are served")

    def _say(self, text: str) -> None:
        with suppress(OSError):  # nobody reads it any more, and that stops nothing
            sys.stderr.write(f"mdx: {self._asked.app}: {printable(' '.join(text.split()))}\n")
            sys.stderr.flush()


def _identity(path: Path | None) -> tuple[int, int] | None:
    if path is None:
        return None
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def _remove(path: Path | None, held: tuple[int, int] | None) -> None:
    """Remove our socket from its path, unless another one stands there by now."""
    with suppress(FileNotFoundError):
        if path is not None and _identity(path) == held:
            path.unlink()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
