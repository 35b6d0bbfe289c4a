"""`python -m mdx.hub`: the hub daemon of one user. It is started on demand, by whoever needs it.

As a service it is started by systemd, with `--take-over`: a hub that was started on demand ends,
and what it knows of runs is found again.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys

import trio

from mdx import process
from mdx.audit import AuditLog
from mdx.errors import AuditUnwritable, MdxError
from mdx.folders import Folders, find_folders, private_folder
from mdx.hub import serving
from mdx.hub.forking import Zygote
from mdx.hub.hub import Hub
from mdx.hub.starting import hub_lock
from mdx.hub.wire import error_message
from mdx.notify import Notifier
from mdx.spawn import DaemonLock, report_ready, stop_daemon

__all__ = ["main"]


def main() -> None:
    """Serve until SIGTERM or `mdx down`."""
    parser = argparse.ArgumentParser(prog="mdx hub")
    parser.add_argument("--ready-fd", type=int)
    parser.add_argument("--take-over", action="store_true", help="end a hub that runs already")
    options = parser.parse_args()
    ready: int | None = options.ready_fd
    process.harden()
    notifier = Notifier.taken_from(os.environ)
    try:
        folders = find_folders(os.environ)
        for folder in (folders.home, folders.run, folders.runs, folders.log, folders.audit):
            private_folder(folder)
        if options.take_over:
            stop_daemon(hub_lock(folders))
        lock = DaemonLock(hub_lock(folders))
        audit = AuditLog(folders.audit / "hub.jsonl", writer="hub", durable=True)
    except MdxError as error:
        report_ready(ready, error_message(error))
        if ready is None:
            sys.stderr.write(f"hub: {error}\n")
        raise SystemExit(error.exit_code) from None
    trio.run(_serve, folders, audit, ready, notifier)
    lock.release()


async def _serve(folders: Folders, audit: AuditLog, ready: int | None, notifier: Notifier) -> None:
    zygote = Zygote()  # before any vault is opened: what is forked from it has no key
    listener = serving.listen(folders.hub_socket)
    async with trio.open_nursery() as nursery:
        hub = Hub(folders, audit=audit, zygote=zygote, nursery=nursery)
        audit.append("hub.started", pid=os.getpid())
        await hub.runs.restore()
        nursery.start_soon(hub.leases.watch)
        nursery.start_soon(serving.serve, listener, hub.handle)
        nursery.start_soon(notifier.keep_alive)
        report_ready(ready, {"pid": os.getpid()})
        notifier.ready(f"socket {folders.hub_socket}")
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                break
        notifier.stopping()
        nursery.cancel_scope.cancel()
    folders.hub_socket.unlink(missing_ok=True)
    hub.leases.close()
    zygote.close()
    try:
        audit.append("hub.stopped", pid=os.getpid())
    except AuditUnwritable as error:  # it ends in any case
        sys.stderr.write(f"hub: stopped: {error}\n")


if __name__ == "__main__":
    main()
