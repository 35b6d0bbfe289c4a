"""`mdx up`: control, gateway, a sample private site and the hub on one machine, without root.

Each is a daemon of its own with its own state and keys, talking to the others as it would across
a network; what is special here is only that one command starts them, enrolls this device with a
one-time join code and writes a first `mdx.toml`. Everything can be called again: what is there
stays, what died is started.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mdx.control.admin import admin_call
from mdx.errors import HubRefused, MdxError
from mdx.folders import Folders, private_folder
from mdx.gateway.enrolling import enroll
from mdx.gateway.host import is_host
from mdx.hub.starting import connect_or_start, hub_lock
from mdx.hub.wire import call
from mdx.launcher import CONFIG_VARIABLES
from mdx.policy import user_config
from mdx.private_files import read_file, write_file
from mdx.spawn import running_pid, start_daemon, stop_daemon

__all__ = ["SITE_NAME", "Ports", "Report", "down", "up"]

HOST = "127.0.0.1"
TENANT = "home"
CONTROL_NAME = "control"
GATEWAY_NAME = "gateway"
SITE_NAME = "intranet.corp.internal"
JOIN_SECONDS = 300

Report = Callable[[str, str], None]
"""Called with a part and what became of it, as it happens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where the three daemons listen on loopback."""

    control: int = 8443
    gateway: int = 4433
    site: int = 9443


def up(
    folders: Folders, environ: Mapping[str, str], wanted: Mapping[str, int], report: Report
) -> Path:
    """Start whatever does not run yet; return the path of the configuration.

    `wanted` has the ports that the user named; 0 means any free one, kept from then on.
    Raises: MdxError with the part that did not start.
    """
    if is_host(folders.home):
        raise MdxError(
            f"{folders.home} is a gateway's host (mdx gateway init)",
            hint="start it by mdx gateway run, or set MDX_HOME to another folder",
            exit_code=78,
        )
    for folder in (folders.home, folders.run, folders.log, folders.audit):
        private_folder(folder)
    with _alone(folders):
        ports = _keep_ports(folders, wanted)
        _start_control(folders, ports, report)
        _start_site(folders, ports, report)
        _start_gateway(folders, ports, report)
        config = user_config(environ)
        if not config.exists():
            private_folder(config.parent)
            write_file(config, _sample_config(_site_ca(folders)).encode())
        report("configuration", str(config))
        _sign_in(folders, environ, report)
    return config


def down(folders: Folders, report: Report) -> None:
    """Stop the daemons and every run; the state stays."""
    if not folders.home.exists():
        raise MdxError(f"there is nothing to stop: no {folders.home}", hint="mdx up")
    private_folder(folders.run)
    with _alone(folders):
        if any(folders.runs.glob("*.json")):  # a hub that died left its runs to the next one
            _stop_runs(folders, report)
        for part, lock in (
            ("hub", hub_lock(folders)),
            *((part, _lock(folders, part)) for part in _parts(folders)),
        ):
            report(part, "stopped" if stop_daemon(lock) else "was not running")


def _parts(folders: Folders) -> tuple[str, ...]:
    """What `mdx down` ends besides the hub; a gateway's host has its own `mdx gateway run`."""
    return () if is_host(folders.home) else ("gateway", "site", "control")


@contextmanager
def _alone(folders: Folders) -> Iterator[None]:
    """One `mdx up` or `mdx down` at a time; the second waits for the first."""
    with open(folders.run / "up.lock", "wb", opener=_private) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _stop_runs(folders: Folders, report: Report) -> None:
    with connect_or_start(folders) as hub:
        for run in call(hub, {"op": "ps"}):
            with suppress(HubRefused):  # it ended by itself, perhaps because another one did
                call(hub, {"op": "stop", "name": run["run"]})
            report("run", f"{run['run']} ({run['app']}) stopped")


# The parts ----------------------------------------------------------------------------------


def _start_control(folders: Folders, ports: Ports, report: Report) -> None:
    state = _state(folders, "control")
    arguments = {
        "--state": state,
        "--audit": folders.audit,
        "--host": HOST,
        "--port": ports.control,
        "--name": CONTROL_NAME,
        "--tenant": TENANT,
        "--gateway-host": HOST,
        "--gateway-port": ports.gateway,
        "--gateway-name": GATEWAY_NAME,
    }
    _start(folders, "control", arguments, report, f"device CA and tickets, port {ports.control}")


def _start_site(folders: Folders, ports: Ports, report: Report) -> None:
    state = private_folder(_state(folders, "site"))
    device_ca = state / "device-ca.pem"
    authority = admin_call(_admin_socket(folders), "GET", "/v1/status")["ca"]
    write_file(device_ca, str(authority).encode())
    arguments = {
        "--state": state,
        "--host": HOST,
        "--port": ports.site,
        "--name": SITE_NAME,
        "--device-ca": device_ca,
    }
    _start(folders, "site", arguments, report, f"https://{SITE_NAME}/, behind the gateway only")


def _start_gateway(folders: Folders, ports: Ports, report: Report) -> None:
    state = _state(folders, "gateway")
    enroll(state, name=GATEWAY_NAME, host=HOST, admin_socket=_admin_socket(folders))
    config = state / "gateway.toml"
    if not config.exists():
        text = _gateway_config(folders, ports, _site_ca(folders))
        write_file(config, text.encode())
    arguments = {
        "--config": config,
        "--admin-socket": _admin_socket(folders),
        "--dialled-at": HOST,
    }
    _start(folders, "gateway", arguments, report, f"TLS on port {ports.gateway}")


def _sign_in(folders: Folders, environ: Mapping[str, str], report: Report) -> None:
    asking = {"environ": {name: environ[name] for name in CONFIG_VARIABLES if name in environ}}
    with connect_or_start(folders) as hub:
        status = call(hub, {"op": "vault.status"})
        if status["kept_by"] is None:
            call(hub, {"op": "vault.init", "keeper": "keyfile"})
            status = call(hub, {"op": "vault.status"})
        report("vault", f"root key kept by: {status['kept_by']}")
        device = call(hub, asking | {"op": "status"})["device"]
        if device is None:
            request = {"uses": 1, "lifetime_seconds": JOIN_SECONDS}
            made = admin_call(_admin_socket(folders), "POST", "/v1/join-codes", request)
            device = call(hub, {"op": "join", "code": made["code"]})
            report("device", f"{device['device']} of {device['tenant']}, joined by a one-time code")
            if status["keeper"] != "passphrase":
                call(hub, asking | {"op": "unlock"})
        elif "error" in device:
            report("device", str(device["error"]))
        else:
            report("device", f"{device['device']} of {device['tenant']}")
        report("apps", _unlocked(call(hub, {"op": "vault.status"})))


def _unlocked(vault: Mapping[str, Any]) -> str:
    """What its user locked, or time, stays locked: `mdx up` signs nobody in a second time."""
    apps = [
        lease["scope"].removeprefix("app:")
        for lease in vault.get("leases", ())
        if lease["scope"].startswith("app:") and lease["state"] == "unlocked"
    ]
    return f"unlocked: {', '.join(apps)}" if apps else "locked; mdx unlock opens them"


def _start(
    folders: Folders, part: str, arguments: Mapping[str, object], report: Report, what: str
) -> None:
    if running_pid(_lock(folders, part)) is not None:
        report(part, f"runs ({what})")
        return
    words = [str(word) for pair in arguments.items() for word in pair]
    try:
        start_daemon(f"mdx.{part}", words, log=folders.log / f"{part}.log")
    except MdxError as error:
        hint = error.hint
        if "is taken" in str(error):
            hint = f"free the port, or set up another state folder with --{part}-port 0"
        raise MdxError(f"{part}: {error}", hint=hint, exit_code=error.exit_code) from None
    report(part, f"started ({what})")


# Files --------------------------------------------------------------------------------------


def _state(folders: Folders, part: str) -> Path:
    return folders.home / part


def _lock(folders: Folders, part: str) -> Path:
    return _state(folders, part) / f"{part}.lock"


def _admin_socket(folders: Folders) -> Path:
    return _state(folders, "control") / "admin.sock"


def _site_ca(folders: Folders) -> Path:
    return _state(folders, "site") / "ca.pem"


def _keep_ports(folders: Folders, wanted: Mapping[str, int]) -> Ports:
    """The ports of the first time, or those wanted now, which are kept from now on.

    Raises: MdxError when another port is wanted than was at the first time.
    """
    file = folders.home / "allinone.json"
    content = read_file(file)
    if content is not None:
        kept = Ports(**json.loads(content)["ports"])
        for part, port in wanted.items():
            before = getattr(kept, part)
            if port not in (0, before):
                raise MdxError(
                    f"the {part} was set up on port {before}, which the others know by now",
                    hint=f"leave --{part}-port out, or set MDX_HOME to another folder",
                    exit_code=78,
                )
        return kept
    ports = Ports(**{part: port or _free_port() for part, port in wanted.items()})
    for part, port in asdict(ports).items():
        _demand_free(part, port)  # before it is kept: another one can be named then
    write_file(file, json.dumps({"ports": asdict(ports)}).encode())
    return ports


def _demand_free(part: str, port: int) -> None:
    with socket.socket() as trying:
        trying.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trying.bind((HOST, port))
        except OSError as error:
            raise MdxError(
                f"{part}: port {port} on {HOST} {_why(error)}",
                hint=f"mdx up --{part}-port 0 takes any free one",
            ) from None


def _why(error: OSError) -> str:
    taken = error.errno == errno.EADDRINUSE
    return "is taken" if taken else f"cannot be used: {error.strerror}"


def _free_port() -> int:
    with socket.socket() as trying:
        trying.bind((HOST, 0))
        port: int = trying.getsockname()[1]
        return port


def _gateway_config(folders: Folders, ports: Ports, site_ca: Path) -> str:
    return f"""\
# The gateway of the all-in-one machine: made by `mdx up`, yours to change; `mdx gateway reload`.
name = "{GATEWAY_NAME}"
tenant = "{TENANT}"
certificate = "gateway.pem"
key = "gateway.pem"
ca = "ca.pem"
audit = {json.dumps(os.path.relpath(folders.audit, _state(folders, "gateway")))}
state = "."

[listen]
host = "{HOST}"
port = {ports.gateway}

[control]
host = "{HOST}"
port = {ports.control}
name = "{CONTROL_NAME}"

# The names of the private network: only the gateway knows them.
[[hosts]]
name = "{SITE_NAME}"
port = 443
dial = "{HOST}:{ports.site}"
tls = "gateway"
ca_file = {json.dumps(str(site_ca))}

# Which app may reach what; everything else is refused.
[[allow]]
app = "payroll"
to = ["*.corp.internal"]
"""


def _sample_config(ca: Path) -> str:
    return f"""\
# The policies of your apps. `mdx policy check` checks it, `mdx explain APP HOST` explains it.
# An app is a name with a policy; what runs under it is any command: mdx run payroll -- COMMAND

[apps.payroll]
network_access = "tunneled"
split_tunnel = "on"             # only what is listed below; everything else is blocked
routes = [
  {{ tunnel = "*.corp.internal" }},
]
key_lifetime = "8h"             # how long a sign-in lasts
ca_file = {json.dumps(str(ca))}
"""
