"""A gateway's host: control and gateway beside each other, for devices elsewhere.

    STATE/gateway-host.json    where devices reach it: decided once, since devices remember it
    STATE/control/             control's CA, database and socket
    STATE/gateway/             gateway.toml, certificate
    STATE/audit/, STATE/log/   as on every machine of mdx

Rules of this file:
- What devices have been told is not changed by a second `init`; what only the gateway goes by is in
  `gateway.toml`, which belongs to its administrator and is never written again.
- Nothing is allowed by what `init` writes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import trio

from mdx.control.ca_records import authorities_at
from mdx.errors import ConfigError, MdxError
from mdx.folders import MAX_SOCKET_PATH, private_folder
from mdx.gateway.config import load
from mdx.gateway.credentials import Credentials
from mdx.gateway.enrolling import enroll
from mdx.gateway.supervising import Part, keep_running
from mdx.notify import Notifier
from mdx.private_files import read_file, write_file
from mdx.spawn import DaemonLock, running_pid, signal_daemon
from tunnel import Refused, destination, is_identity_name, parse_host
from vault import now

__all__ = ["Host", "admin_socket", "init", "is_host", "nudge", "read_host", "reload", "run"]

CONTROL_NAME = "control"
FILE = "gateway-host.json"
ALL_IN_ONE = "allinone.json"  # of `mdx up`, whose parts listen on loopback only


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Where devices reach gateway and control, and where those listen."""

    host: str
    listen: str
    gateway_port: int = 4433
    control_port: int = 8443
    name: str = "gateway"
    tenant: str = "home"


def is_host(state: Path) -> bool:
    """Whether `state` was made by `mdx gateway init`."""
    return (state / FILE).exists()


def read_host(state: Path) -> Host:
    """What `init` wrote. Raises: MdxError when there is nothing."""
    content = read_file(state / FILE)
    if content is None:
        raise MdxError(
            f"no gateway was set up in {state}",
            hint="mdx gateway init --host ADDRESS, or --state FOLDER where it was",
            exit_code=78,
        )
    return Host(**json.loads(content))


def admin_socket(state: Path) -> Path:
    """Control's administrator socket, on a gateway's host or an all-in-one machine.

    Raises: MdxError where there is no control service's state.
    """
    if not (state / "control").is_dir():
        raise MdxError(
            f"there is no control service in {state}",
            hint="run this on the gateway's host, as its user; --state FOLDER names another folder",
            exit_code=78,
        )
    return state / "control" / "admin.sock"


# Setting up -----------------------------------------------------------------------------------


def init(state: Path, wanted: Host) -> tuple[str, bool]:
    """Make a gateway's host of `state`; gives control's root fingerprint, and whether it is new.

    Raises: MdxError (exit code 78) for what cannot be, and when it is another host's already.
    """
    _check(state, wanted)
    if is_host(state):
        kept = read_host(state)
        changed = [key for key, value in asdict(wanted).items() if asdict(kept)[key] != value]
        if changed:
            shown = ", ".join(f"{key} {asdict(kept)[key]}" for key in changed)
            raise MdxError(
                f"{state} is set up already, with {shown}: devices that joined know it so",
                hint="leave that out, or use another --state folder (devices then join anew)",
                exit_code=78,
            )
    for folder in (state, state / "control", state / "gateway", state / "audit", state / "log"):
        private_folder(folder)
    root = authorities_at(state / "control", wanted.tenant, now().wall)
    config = state / "gateway" / "gateway.toml"
    if not config.exists():
        write_file(config, _gateway_config(wanted).encode())
    is_new = not is_host(state)
    if is_new:  # last, since it says that all the rest is there
        write_file(state / FILE, json.dumps(asdict(wanted), indent=2).encode() + b"\n")
    return root.root_pin, is_new


def _check(state: Path, wanted: Host) -> None:
    if (state / ALL_IN_ONE).exists():
        raise MdxError(
            f"{state} belongs to an all-in-one machine (mdx up)",
            hint="use another folder: --state FOLDER, or MDX_HOME",
            exit_code=78,
        )
    for option, host in (("--host", wanted.host), ("--listen", wanted.listen)):
        try:
            address = destination(host, wanted.gateway_port).address
        except Refused as refused:
            raise MdxError(f"{option}: {refused.rule}", exit_code=78) from None
        if option == "--host" and address is not None and address.is_unspecified:
            raise MdxError(
                f"--host {host} is no address that devices can dial",
                hint="name the address that they know; --listen says where to listen",
                exit_code=78,
            )
        if option == "--listen" and address is None:
            raise MdxError(f"--listen {host} is not an address", exit_code=78)
    if wanted.gateway_port == wanted.control_port:
        raise MdxError("--port and --control-port must differ", exit_code=78)
    if not is_identity_name(wanted.tenant):
        raise MdxError(f"--tenant {wanted.tenant!a} is not a name", hint=_NAMES, exit_code=78)
    try:
        named = is_identity_name(wanted.name) and "_" not in parse_host(wanted.name)
    except Refused:
        named = False
    if not named:
        raise MdxError(f"--name {wanted.name!a} cannot name a gateway", hint=_NAMES, exit_code=78)
    length = len(os.fsencode(state / "control" / "admin.sock"))
    if length > MAX_SOCKET_PATH:
        raise MdxError(
            f"control's socket path would have {length} bytes, the kernel allows {MAX_SOCKET_PATH}",
            hint="use a --state folder with a shorter path",
            exit_code=78,
        )


_NAMES = "1 to 63 of a-z, 0-9, dot and hyphen, a letter or digit first"


# Running --------------------------------------------------------------------------------------


def run(state: Path, say: Callable[[str, str], None]) -> None:
    """Serve in the foreground until SIGTERM or SIGINT; `say(part, what)` is told what happens.

    SIGHUP makes the gateway read `gateway.toml` again, unless this is a terminal that hangs up.
    Raises: MdxError.
    """
    host = read_host(state)
    lock = DaemonLock(private_folder(state) / "gateway-run.lock")
    notifier = Notifier.taken_from(os.environ)
    failed: list[MdxError] = []
    try:
        trio.run(_run, state, host, say, notifier, failed)
    finally:
        lock.release()
    if failed:
        raise failed[0]


async def _run(
    state: Path,
    host: Host,
    say: Callable[[str, str], None],
    notifier: Notifier,
    failed: list[MdxError],
) -> None:
    ending = {signal.SIGTERM, signal.SIGINT}
    if sys.stdin is not None and sys.stdin.isatty():
        ending.add(signal.SIGHUP)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_start_parts, nursery, state, host, say, notifier, failed)
            nursery.start_soon(notifier.keep_alive)
            async for received in signals:
                if received in ending:
                    break
                notifier.reloading()
                say("gateway", _reloaded(state))
                notifier.ready("control and gateway serve")
            notifier.stopping()
            say("all", f"ends, by {signal.Signals(received).name}")
            nursery.cancel_scope.cancel()


async def _start_parts(
    nursery: trio.Nursery,
    state: Path,
    host: Host,
    say: Callable[[str, str], None],
    notifier: Notifier,
    failed: list[MdxError],
) -> None:
    try:
        for part, port in (
            (_control(state, host), host.control_port),
            (_gateway(state, host), host.gateway_port),
        ):
            report = await nursery.start(keep_running, part, say)
            say(part.name, f"serves {host.host} port {port} (process {report['pid']})")
    except MdxError as error:
        failed.append(error)
        nursery.cancel_scope.cancel()
    else:
        notifier.ready("control and gateway serve")


def _control(state: Path, host: Host) -> Part:
    arguments = {
        "--state": state / "control",
        "--audit": state / "audit",
        "--host": host.host,
        "--listen": host.listen,
        "--port": host.control_port,
        "--name": CONTROL_NAME,
        "--tenant": host.tenant,
        "--gateway-host": host.host,
        "--gateway-port": host.gateway_port,
        "--gateway-name": host.name,
    }
    return Part(
        name="control",
        module="mdx.control",
        arguments=[str(word) for pair in arguments.items() for word in pair],
        log=state / "log" / "control.log",
    )


def _gateway(state: Path, host: Host) -> Part:
    folder = state / "gateway"
    socket = state / "control" / "admin.sock"

    async def prepare() -> None:
        """A certificate, if there is none yet; one that is there will do while control is away."""

        def enroll_here() -> None:
            enroll(folder, name=host.name, host=host.host, admin_socket=socket)

        try:
            await trio.to_thread.run_sync(enroll_here, abandon_on_cancel=True)
        except MdxError:
            if not (folder / "gateway.pem").exists():
                raise

    arguments = ["--config", str(folder / "gateway.toml")]
    arguments += ["--admin-socket", str(socket), "--dialled-at", host.host]
    return Part(
        name="gateway",
        module="mdx.gateway",
        arguments=arguments,
        log=state / "log" / "gateway.log",
        prepare=prepare,
    )


# A gateway that runs --------------------------------------------------------------------------


def reload(state: Path) -> Path:
    """Check `gateway.toml`, and let the gateway that runs go by it; returns its path.

    Raises: ConfigError, and then the gateway was not told; MdxError when none runs.
    """
    file = state / "gateway" / "gateway.toml"
    try:
        config = load(file)
        Credentials(config, file.parent, clock=lambda: now().wall, log=lambda event, **facts: None)
    except ConfigError as error:
        raise ConfigError(f"not reloaded: {error}", hint=error.hint) from None
    if not signal_daemon(file.parent / config.state / "gateway.lock", signal.SIGHUP):
        raise MdxError("the gateway does not run", hint="mdx gateway run, or mdx up")
    return file


def nudge(state: Path) -> bool:
    """Let a gateway that runs here ask control at once whom it revoked; False if none runs."""
    return signal_daemon(_lock(state), signal.SIGUSR1)


def _reloaded(state: Path) -> str:
    """For the supervisor, which was sent SIGHUP."""
    try:
        return f"goes by {reload(state)} as it is now"
    except MdxError as error:
        return str(error)


def is_running(state: Path) -> bool:
    """Whether a gateway runs here."""
    return running_pid(_lock(state)) is not None


def _lock(state: Path) -> Path:
    file = state / "gateway" / "gateway.toml"
    return file.parent / load(file).state / "gateway.lock" if file.exists() else file


def _gateway_config(host: Host) -> str:
    everywhere = destination(host.listen, 1).address
    local = "127.0.0.1" if everywhere is not None and everywhere.version == 4 else "::1"
    control = local if everywhere is not None and everywhere.is_unspecified else host.listen
    return f"""\
# This gateway: made by `mdx gateway init`, yours to change; `mdx gateway reload` takes it up.
# All keys: docs/gateway.md
name = "{host.name}"
tenant = "{host.tenant}"
certificate = "gateway.pem"      # made at the first `mdx gateway run`, renewed while it runs
key = "gateway.pem"
ca = "ca.pem"
audit = "../audit"
state = "."

[listen]
host = "{host.listen}"
port = {host.gateway_port}

[control]
host = "{control}"
port = {host.control_port}
name = "{CONTROL_NAME}"

# Which app may reach what. Nothing is listed, so everything is refused. For example:
#
# [[allow]]
# app = "payroll"
# to = ["*.corp.internal:443", "10.1.0.0/16:5432"]

# Names that no name server knows, or that lead to a loopback address. For example:
#
# [[hosts]]
# name = "intranet.corp.internal"
# port = 443
# dial = "10.1.2.3:443"
#
# [[hosts]]                      # the gateway shows its certificate there, in TLS of its own
# name = "payroll.corp.internal"
# port = 443
# dial = "10.1.2.3:9443"
# tls = "gateway"
# ca_file = "corp-ca.pem"        # beside this file
"""
