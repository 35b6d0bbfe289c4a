"""`python -m mdx.control`: the control daemon."""

from __future__ import annotations

import argparse
import os
import re
import signal
from contextlib import ExitStack
from pathlib import Path

import trio

from mdx import process
from mdx.audit import AuditLog
from mdx.control.admin import admin_face, serve_admin
from mdx.control.ca_records import Authorities, authorities_at
from mdx.control.enrollment import Enrollment
from mdx.control.own_certificate import OwnCertificate
from mdx.control.service import device_face, serve
from mdx.control.sta import TicketAuthority
from mdx.control.store import Store
from mdx.errors import MdxError
from mdx.folders import MAX_SOCKET_PATH, private_folder
from mdx.hub import serving
from mdx.hub.wire import error_message
from mdx.json_log import json_log
from mdx.listening import open_listeners, port_of
from mdx.spawn import DaemonLock, report_ready
from tunnel import Destination, Refused, destination, is_identity_name
from vault import VaultError, now

__all__ = ["main"]

# What can be a DNS label, an identity's name and a ticket authority's name at once.
_SERVICE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


def main() -> None:
    """Serve until SIGTERM."""
    arguments = _parser().parse_args()
    process.harden()
    try:
        with ExitStack() as held:
            _serve(arguments, held)
    except (MdxError, VaultError) as error:  # before it served: later ones come in groups
        report_ready(arguments.ready_fd, error_message(error))
        raise SystemExit(error.exit_code) from None
    except OSError as error:
        said = MdxError(f"{error.filename or 'control'}: {error.strerror}")
        report_ready(arguments.ready_fd, error_message(said))
        raise SystemExit(said.exit_code) from None


def _serve(arguments: argparse.Namespace, held: ExitStack) -> None:
    _check(arguments)
    state: Path = arguments.state
    chains: Path = arguments.audit or state.parent / "audit"
    for folder in (state, chains):
        private_folder(folder)
    held.callback(DaemonLock(state / "control.lock").release)
    audit = AuditLog(chains / "control.jsonl", writer="control", durable=True)
    held.callback(audit.close)
    trio.run(_run, arguments, audit)


async def _run(arguments: argparse.Namespace, audit: AuditLog) -> None:
    state: Path = arguments.state
    tenant, name = arguments.tenant, arguments.name
    authorities = authorities_at(state, tenant, _clock())
    listeners = await open_listeners(arguments.listen or arguments.host, arguments.port)
    address = destination(arguments.host, port_of(listeners))
    store = Store(state / "control.db")
    enrollment = Enrollment(
        store,
        tenant=tenant,
        root_pem=authorities.root_pem,
        root_pin=authorities.root_pin,
        issuing=authorities.issuing,
        address=address,
        record=audit.append,
    )
    own = OwnCertificate(enrollment, name=name, clock=_clock)
    control = {"host": address.host, "port": address.port, "name": name}
    devices = device_face(
        enrollment,
        TicketAuthority(store, name=name, record=audit.append),
        control=control,
        gateway={
            "host": arguments.gateway_host,
            "port": arguments.gateway_port,
            "name": arguments.gateway_name,
        },
        record=audit.append,
        clock=_clock,
    )
    administrator = admin_face(
        enrollment, control=control, pin=authorities.root_pin, record=audit.append, clock=_clock
    )
    admin_listener = serving.listen(_admin_socket(state))
    log = json_log("control", _clock)
    audit.append("control.started", tenant=tenant, pid=os.getpid(), port=address.port)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop_on_signal, nursery.cancel_scope)
        nursery.start_soon(serve_admin, admin_listener, administrator, log)

        async def serve_devices() -> None:
            await serve(listeners, context=own.context, face=devices, clock=_clock, log=log)

        nursery.start_soon(serve_devices)
        report_ready(arguments.ready_fd, _report(state, address, authorities))
    _admin_socket(state).unlink(missing_ok=True)
    store.close()
    audit.append("control.stopped", tenant=tenant, pid=os.getpid())


async def _stop_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()
            return


def _report(state: Path, address: Destination, authorities: Authorities) -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "host": address.host,
        "port": address.port,
        "pin": authorities.root_pin,
        "ca": authorities.root_pem,
        "admin_socket": str(_admin_socket(state)),
    }


def _admin_socket(state: Path) -> Path:
    return state / "admin.sock"


def _clock() -> float:
    return now().wall


def _check(arguments: argparse.Namespace) -> None:
    """Raises: MdxError, naming the argument that cannot be."""
    for option, value in (
        ("--tenant", arguments.tenant),
        ("--gateway-name", arguments.gateway_name),
    ):
        if not is_identity_name(value):
            raise MdxError(f"{option} {value!a} is not a name", hint=_NAME_HINT, exit_code=78)
    if not _SERVICE_NAME.fullmatch(arguments.name):
        raise MdxError(
            f"--name {arguments.name!a} cannot name a control service",
            hint=_NAME_HINT,
            exit_code=78,
        )
    for option, host, port in (
        ("--host", arguments.host, arguments.port or 1),
        ("--gateway-host", arguments.gateway_host, arguments.gateway_port),
    ):
        try:
            where = destination(host, port)
        except Refused as refused:
            raise MdxError(f"{option}: {refused.rule}", exit_code=78) from None
        if where.address is not None and where.address.is_unspecified:
            raise MdxError(
                f"{option} {host} is no address that others can dial",
                hint="name the address that they know; --listen says where to listen",
                exit_code=78,
            )
    length = len(os.fsencode(_admin_socket(arguments.state)))
    if length > MAX_SOCKET_PATH:
        raise MdxError(
            f"the administrator's socket path has {length} bytes, "
            f"the kernel allows {MAX_SOCKET_PATH}",
            hint="use a state folder with a shorter path",
            exit_code=78,
        )


_NAME_HINT = "1 to 63 of a-z, 0-9 and hyphen, a letter or digit first"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mdx control", allow_abbrev=False)
    add = parser.add_argument
    add("--state", type=lambda text: Path(os.path.abspath(text)), required=True)
    add("--audit", type=lambda text: Path(os.path.abspath(text)), help="beside --state by default")
    add("--host", required=True, help="address or name by which devices reach it")
    add("--listen", help="address to listen on, when it is not --host")
    add("--port", type=int, default=8443, help="0: any free one")
    add("--name", default="control", help="its name as a service and ticket authority")
    add("--tenant", required=True)
    add("--gateway-host", required=True)
    add("--gateway-port", type=int, default=4433)
    add("--gateway-name", required=True)
    add("--ready-fd", type=int)
    return parser


if __name__ == "__main__":
    main()
