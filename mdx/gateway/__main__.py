"""`python -m mdx.gateway`: the gateway daemon. Its log is JSON lines on standard error.

SIGHUP reads `gateway.toml` anew (a wrong one is logged, and the old stays); SIGUSR1 asks control at
once whom it revoked; SIGTERM and SIGINT end it.
"""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path
from typing import NoReturn

import trio

from mdx import process
from mdx.audit import AuditLog
from mdx.errors import AuditUnwritable, MdxError
from mdx.folders import private_folder
from mdx.gateway.live import Live
from mdx.gateway.redeeming import redeem_at
from mdx.gateway.renewing import keep_renewed
from mdx.gateway.revoking import Nudge, follow_revocations
from mdx.hub.wire import error_message
from mdx.json_log import Log, json_log
from mdx.listening import open_listeners, port_of
from mdx.own_addresses import own_addresses
from mdx.spawn import DaemonLock, report_ready
from tunnel import GatewaySetup, Revocations, serve_gateway
from vault import now

__all__ = ["main"]


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="mdx gateway")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--admin-socket", type=Path, help="control's; renews the certificate by it")
    parser.add_argument("--dialled-at", help="where devices dial it; goes with --admin-socket")
    parser.add_argument("--ready-fd", type=int)
    options = parser.parse_args()
    process.harden()
    for early in (signal.SIGHUP, signal.SIGUSR1):  # before it serves they are no reason to end
        signal.signal(early, signal.SIG_IGN)
    try:
        file: Path = options.config.absolute()
        log = json_log("gateway", _wall_clock)
        live = Live(file, clock=_wall_clock, log=log)
        audit_folder = private_folder(file.parent / live.config.audit)
        state = private_folder(file.parent / live.config.state)
        lock = DaemonLock(state / "gateway.lock")
        audit = AuditLog(audit_folder / "gateway.jsonl", writer="gateway")
        trio.run(_serve, live, audit, log, options)
    except MdxError as error:
        _fail(error, options.ready_fd)
    audit.close()
    lock.release()


def _fail(error: MdxError, ready: int | None) -> NoReturn:
    report_ready(ready, error_message(error))
    raise SystemExit(error.exit_code) from None


async def _serve(live: Live, audit: AuditLog, log: Log, options: argparse.Namespace) -> None:
    config = live.config
    revoked, nudge = Revocations(), Nudge()
    setup = GatewaySetup(
        name=config.name,
        tenant=config.tenant,
        context=lambda: live.current().server,
        redeem=redeem_at(lambda: live.current().control, log),
        allow=live.allow,
        record=audit.append,
        log=log,
        clock=_wall_clock,
        hosts=lambda: live.current().hosts,
        own=own_addresses,
        revoked=revoked,
    )
    listeners = await open_listeners(config.listen.host, config.listen.port)
    port = port_of(listeners)
    audit.append("gateway.started", name=config.name, pid=os.getpid(), port=port)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_gateway, listeners, setup)
        nursery.start_soon(follow_revocations, lambda: live.current().control, revoked, log, nudge)
        if options.admin_socket is not None:
            nursery.start_soon(_keep_renewed, config.name, log, options)
        with trio.open_signal_receiver(
            signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1
        ) as signals:
            log("gateway.started", host=config.listen.host, port=port, name=config.name)
            report_ready(options.ready_fd, {"port": port, "pid": os.getpid()})
            async for received in signals:
                if received == signal.SIGHUP:
                    _reload(live, audit, log)
                elif received == signal.SIGUSR1:
                    nudge.give()
                else:
                    break
        nursery.cancel_scope.cancel()
    log("gateway.stopped")
    try:
        audit.append("gateway.stopped", name=config.name, pid=os.getpid())
    except AuditUnwritable as error:  # it ends in any case
        log("audit.failed", about="gateway.stopped", reason=str(error))


async def _keep_renewed(name: str, log: Log, options: argparse.Namespace) -> None:
    await keep_renewed(
        options.config.absolute().parent,
        name=name,
        host=options.dialled_at,
        admin_socket=options.admin_socket,
        log=log,
    )


def _reload(live: Live, audit: AuditLog, log: Log) -> None:
    name = live.config.name
    try:
        live.reload(lambda: audit.append("gateway.reloaded", name=name, pid=os.getpid()))
    except MdxError as error:
        log("config.not_reloaded", reason=str(error))
    else:
        log("config.reloaded", allow=len(live.config.allow), hosts=len(live.config.hosts))


def _wall_clock() -> float:
    return now().wall


if __name__ == "__main__":
    main()
