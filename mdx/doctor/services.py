"""The daemons of a gateway's host, as their own administrator sees them: gateway, control, site.

`state` is the folder that holds a folder for each: `$MDX_HOME` on an all-in-one machine.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import trio

from mdx.control.admin import admin_call
from mdx.doctor.certificates import check_certificate_file, check_end, ends_at
from mdx.doctor.findings import Finding, bad, ok, warn
from mdx.errors import MdxError
from mdx.gateway.config import GatewayConfig, HostEntry, load
from mdx.gateway.credentials import Credentials
from mdx.spawn import running_pid
from tunnel import TLSStream, TunnelError, client_context, parse_destination
from vault import now

__all__ = [
    "check_backends",
    "check_control_service",
    "check_gateway_service",
    "check_site_service",
    "has_part",
]

CONNECT_SECONDS = 1.0
MAX_HOSTS = 64  # more is for nobody to read; how many were left out is said
UP = "start it: mdx up"


def has_part(state: Path, part: str) -> bool:
    """Whether this machine has the state of `gateway`, `control` or `site`."""
    return (state / part).is_dir()


# The gateway --------------------------------------------------------------------------------


def check_gateway_service(state: Path) -> list[Finding]:
    """Configuration, daemon, port, certificate, control, allow list and backends."""
    folder = state / "gateway"
    path = folder / "gateway.toml"
    if not path.exists():
        return [bad("gateway.toml", f"{path} is not there", "mdx up makes it")]
    try:
        config = load(path)
    except MdxError as error:
        said = str(error).splitlines()
        return [bad("gateway.toml", said[0], error.hint or "put right what it names")]
    lock = folder / config.state / "gateway.lock"
    certificate = folder / config.certificate
    return [
        ok("gateway.toml", f"{path} is right"),
        _check_allow(config, path),
        *_check_daemon("gateway", lock, config.listen.host, config.listen.port),
        check_certificate_file(
            "gateway certificate",
            certificate,
            now().wall,
            do="it is renewed by mdx up, or by a gateway that runs beside control",
        ),
        _check_control_of(config, folder),
    ]


def _check_allow(config: GatewayConfig, path: Path) -> Finding:
    if config.allow:
        apps = ", ".join(sorted({entry.app for entry in config.allow}))
        return ok("allow list", f"lets in: {apps}")
    return warn("allow list", "is empty: nobody may reach anything", f"add [[allow]] to {path}")


def _check_control_of(config: GatewayConfig, folder: Path) -> Finding:
    """Control as this gateway reaches it when it redeems a ticket."""
    name = "control of gateway"
    try:
        credentials = Credentials(
            config, folder, clock=lambda: now().wall, log=lambda event, **facts: None
        )
        client = credentials.current().control
        trio.run(client.status)
    except MdxError as error:
        return bad(name, str(error), error.hint or UP)
    where = f"{config.control.name} at {config.control.host}:{config.control.port}"
    agreed = client.negotiated
    return ok(name, where + (f": {agreed.version}, {agreed.cipher}" if agreed else ""))


def check_backends(state: Path) -> list[Finding]:
    """A TCP connection to each backend of the gateway's table of hosts, all at once."""
    try:
        entries = load(state / "gateway" / "gateway.toml").hosts
    except MdxError:
        return []  # said by the check of the gateway
    findings: list[Finding] = []

    async def look_at(entry: HostEntry) -> None:
        dial = parse_destination(entry.dial)
        text = f"{entry.name}:{entry.port} at {entry.dial}"
        try:
            with trio.fail_after(CONNECT_SECONDS):
                stream = await trio.open_tcp_stream(dial.host, dial.port)
            await stream.aclose()
        except (OSError, trio.TooSlowError) as error:
            why = str(error) or "no answer"
            findings.append(warn("host", f"{text}: {why}", "start that server, or change dial"))
        else:
            findings.append(ok("host", f"{text} answers"))

    async def look_at_all() -> None:
        async with trio.open_nursery() as nursery:
            for entry in entries[:MAX_HOSTS]:
                nursery.start_soon(look_at, entry)

    trio.run(look_at_all)
    findings.sort(key=lambda finding: finding.what)
    if (left_out := len(entries) - MAX_HOSTS) > 0:
        findings.append(ok("host", f"and {left_out} more that were not tried"))
    return findings


# Control ------------------------------------------------------------------------------------


def check_control_service(state: Path) -> list[Finding]:
    """Daemon, administrator's socket, root, its own certificate and TLS."""
    folder = state / "control"
    pid = running_pid(folder / "control.lock")
    if pid is None:
        return [bad("control", "does not run", UP)]
    try:
        facts = admin_call(folder / "admin.sock", "GET", "/v1/status")
        root = str(facts["ca"]).encode()
        ends = ends_at(root)
    except (MdxError, KeyError, ValueError) as error:
        return [bad("control", f"process {pid}: {error}", "mdx logs control; restart it")]
    return [
        ok("control", f"process {pid} answers its administrator (tenant {facts['tenant']})"),
        check_end("root certificate", ends, now().wall, do="a new root means: join devices anew"),
        *_check_tls(facts, root),
    ]


def _check_tls(facts: dict[str, Any], root: bytes) -> list[Finding]:
    """As a device that has not joined: no certificate of ours is shown."""
    where = f"{facts['host']}:{facts['port']}"
    try:
        negotiated, ends = trio.run(_shake_hands, facts, root)
    except (OSError, TunnelError, trio.TooSlowError, ValueError) as error:
        why = str(error) or "no answer"
        return [bad("control TLS", f"{where}: {why}", "mdx logs control; see who has the port")]
    return [
        ok("control TLS", f"{where}: {negotiated}"),
        check_end(
            "control certificate", ends, now().wall, do="restart control: it makes a new one"
        ),
    ]


async def _shake_hands(facts: dict[str, Any], root: bytes) -> tuple[str, float]:
    with trio.fail_after(CONNECT_SECONDS):
        tcp = await trio.open_tcp_stream(facts["host"], facts["port"])
        stream = TLSStream(tcp, client_context(ca=root), server_name=facts["name"])
        try:
            await stream.do_handshake()
            agreed, certificate = stream.negotiated, stream.peer_certificate
        finally:
            await trio.aclose_forcefully(stream)
    if certificate is None:
        raise ValueError("it showed no certificate")
    text = f"{agreed.version}, {agreed.cipher}, group {agreed.group}"
    return text, certificate.not_valid_after_utc.timestamp()


# The sample site ----------------------------------------------------------------------------


def check_site_service(state: Path) -> list[Finding]:
    """The private site of an all-in-one machine."""
    folder = state / "site"
    pid = running_pid(folder / "site.lock")
    alive = ok("site", f"process {pid}") if pid else bad("site", "does not run", "mdx up")
    certificate = check_certificate_file(
        "site certificate", folder / "site.pem", now().wall, do="the site renews it: mdx up"
    )
    return [alive, certificate]


# Daemons and ports --------------------------------------------------------------------------


def _check_daemon(part: str, lock: Path, host: str, port: int) -> list[Finding]:
    pid = running_pid(lock)
    if pid is None:
        found = [bad(part, "does not run", UP)]
        if port and _why_no_connection(_dialled(host), port) is None:
            found.append(
                bad(
                    f"{part} port",
                    f"{host}:{port} is taken by another program",
                    f"see who has it: ss -ltnp sport = :{port}",
                )
            )
        return found
    if not port:
        return [ok(part, f"process {pid}, on any free port")]
    if why := _why_no_connection(_dialled(host), port):
        return [
            ok(part, f"process {pid}"),
            bad(f"{part} port", f"{host}:{port}: {why}", f"mdx logs {part}"),
        ]
    return [ok(part, f"process {pid}"), ok(f"{part} port", f"listens on {host}:{port}")]


def _dialled(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not to listen


def _why_no_connection(host: str, port: int) -> str | None:
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        return error.strerror or str(error)
    return None
