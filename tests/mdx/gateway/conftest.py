"""Control, the sample site and a gateway as real processes, and an app with its certificate."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from mdx.certificate_key import CertificateKey
from mdx.control.admin import admin_call
from mdx.control.client import ControlClient
from mdx.gateway.enrolling import GatewayFiles, enroll
from mdx.spawn import start_daemon

SITE = "intranet.corp.internal"
CONFIG = """\
name = "gateway"
tenant = "home"
certificate = "{files.certificate}"
key = "{files.key}"
ca = "{files.ca}"

[listen]
port = {port}

[control]
host = "127.0.0.1"
port = {control.port}
name = "control"

[[hosts]]
name = "intranet.corp.internal"
port = 443
dial = "127.0.0.1:{site_port}"
tls = "gateway"
ca_file = "{site_ca}"

[[hosts]]
name = "closed.corp.internal"
port = 443
dial = "127.0.0.1:{closed_port}"

[[allow]]
app = "payroll"
to = ["*.corp.internal:443", "localhost:*", "127.0.0.1:*"]
"""


@dataclass(frozen=True, kw_only=True)
class Control:
    """A running control service."""

    port: int
    admin_socket: Path
    ca: str


@dataclass(frozen=True, kw_only=True)
class App:
    """One app's run on an enrolled device: its certificate in a file, and a way to tickets."""

    name: str
    device: str
    file: Path
    key_hash: str
    client: ControlClient = field(repr=False)

    def ticket(self) -> str:
        return trio.run(self.client.ticket, self.name, self.key_hash)


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """A running gateway. `folder` holds its configuration, audit and log."""

    port: int
    pid: int
    folder: Path
    files: GatewayFiles

    @property
    def log(self) -> str:
        return (self.folder / "gateway.log").read_text()


class Processes:
    """Daemons that end with the tests."""

    def __init__(self) -> None:
        self._pids: list[int] = []

    def start(self, module: str, *arguments: str, log: Path) -> dict[str, Any]:
        report = start_daemon(module, arguments, log=log)
        self._pids.append(report["pid"])
        return report

    def end(self, pid: int) -> None:
        """SIGTERM, and wait until the process is gone."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        assert select.select([pidfd], [], [], 10)[0], "SIGTERM ends a daemon"
        os.close(pidfd)

    def end_all(self) -> None:
        for pid in reversed(self._pids):
            self.end(pid)


@pytest.fixture(scope="session")
def processes() -> Iterator[Processes]:
    processes = Processes()
    yield processes
    processes.end_all()


@pytest.fixture(scope="session")
def control(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Control:
    home = tmp_path_factory.mktemp("control")
    report = processes.start(
        "mdx.control",
        *("--state", str(home / "state"), "--host", "127.0.0.1", "--port", "0"),
        *("--tenant", "home", "--gateway-host", "127.0.0.1"),
        *("--gateway-port", "4433", "--gateway-name", "gateway"),
        log=home / "log",
    )
    return Control(port=report["port"], admin_socket=Path(report["admin_socket"]), ca=report["ca"])


@pytest.fixture(scope="session")
def new_app(control: Control, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], App]:
    """A new device, and an app's certificate on it."""

    async def make(name: str) -> App:
        joining = {"uses": 1, "lifetime_seconds": 60.0}
        code = admin_call(control.admin_socket, "POST", "/v1/join-codes", joining)["code"]
        device_key = CertificateKey()
        enrolled = await ControlClient.enroll(code, device_key.request())
        client = ControlClient(
            host="127.0.0.1",
            port=control.port,
            name="control",
            ca=enrolled.ca.encode(),
            certificate=enrolled.certificate.encode(),
            key=device_key.pem(),
        )
        key = CertificateKey()
        issued = await client.certificate(name, key.request(), lifetime_seconds=600)
        file = tmp_path_factory.mktemp("app") / f"{name}.pem"
        file.write_bytes(key.pem() + issued["certificate"].encode())
        return App(
            name=name, device=enrolled.device, file=file, key_hash=key.key_hash, client=client
        )

    return lambda name: trio.run(make, name)


@pytest.fixture(scope="session")
def payroll(new_app: Callable[[str], App]) -> App:
    return new_app("payroll")


@pytest.fixture(scope="session")
def site(
    processes: Processes, control: Control, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What the sample site reported: its port and ca_file."""
    home = tmp_path_factory.mktemp("site")
    (home / "device-ca.pem").write_text(control.ca)
    return processes.start(
        "mdx.site",
        *("--state", str(home / "state"), "--port", "0", "--name", SITE),
        *("--device-ca", str(home / "device-ca.pem")),
        log=home / "log",
    )


@pytest.fixture(scope="session")
def gateway_files(control: Control, tmp_path_factory: pytest.TempPathFactory) -> GatewayFiles:
    return enroll(
        tmp_path_factory.mktemp("enrolled") / "gateway",
        name="gateway",
        host="127.0.0.1",
        admin_socket=control.admin_socket,
    )


StartGateway = Callable[..., Gateway]


@pytest.fixture(scope="session")
def start_gateway(
    processes: Processes, control: Control, site: dict[str, Any], gateway_files: GatewayFiles
) -> StartGateway:
    """Start a gateway in a folder, with the sample configuration after `edit` changed its text."""

    def start(
        folder: Path,
        *,
        port: int = 0,
        edit: Callable[[str], str] = str,
        files: GatewayFiles = gateway_files,
        options: tuple[str, ...] = (),
    ) -> Gateway:
        folder.mkdir(mode=0o700, exist_ok=True)
        with socket.create_server(("127.0.0.1", 0)) as unused:
            closed_port = unused.getsockname()[1]
        text = CONFIG.format(
            files=files,
            port=port,
            control=control,
            site_port=site["port"],
            site_ca=site["ca_file"],
            closed_port=closed_port,
        )
        config = folder / "gateway.toml"
        config.write_text(edit(text))
        config.chmod(0o600)
        report = processes.start(
            "mdx.gateway", "--config", str(config), *options, log=folder / "gateway.log"
        )
        return Gateway(port=report["port"], pid=report["pid"], folder=folder, files=files)

    return start


@pytest.fixture(scope="session")
def gateway(start_gateway: StartGateway, tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    """One gateway for all tests that only talk to it."""
    return start_gateway(tmp_path_factory.mktemp("running") / "gateway")


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as held:
        yield held.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    """A port on which nobody listens, as far as anyone can know."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port: int = unused.getsockname()[1]
    return port
