"""A gateway's host, a device and a private server, each in a network of its own, with addresses of
its own: the device reaches the server through the gateway, or not at all."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.scenarios.conftest import Machine

pytestmark = pytest.mark.root

GATEWAY, DEVICE = "10.76.0.1", "10.76.0.2"
INNER, SERVER = "10.77.0.1", "10.77.0.2"
URL = "http://intranet.corp.internal:8080/"
SECONDS = 60
POLICY = """
[apps.payroll]
network_access = "tunneled"
routes = [{ tunnel = "*.corp.internal" }]
"""
ALLOW = """
[[hosts]]
name = "intranet.corp.internal"
port = 8080
dial = "10.77.0.2:8080"

[[hosts]]
name = "wiki.corp.internal"
port = 8080
dial = "10.77.0.2:8080"

[[allow]]
app = "payroll"
to = ["intranet.corp.internal:8080"]
"""
# Says who asks; /endless begins an answer and never ends it.
WEB = """
import http.server, threading
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"salaries, for {self.client_address[0]}\\n".encode())
        if self.path == "/endless":
            threading.Event().wait()
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("10.77.0.2", 8080), Page)
print("serving", flush=True)
server.serve_forever()
"""


@dataclass
class Place:
    """A machine in a network namespace."""

    machine: Machine
    space: str

    def words(self, *command: str) -> list[str]:
        return ["ip", "netns", "exec", self.space, *command]

    def run(self, *command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return self.machine.run(*self.words(*command), stdin=stdin)

    def mdx(
        self, *arguments: str, status: int = 0, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        done = self.run("mdx", *arguments, stdin=stdin)
        assert done.returncode == status, (arguments, done.stdout, done.stderr)
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self.mdx(*arguments, "--json").stdout)

    def curl(self, url: str = URL, *options: str) -> subprocess.CompletedProcess[str]:
        curl = ["curl", "-sS", "-m", "20", *options, url]
        return self.run("mdx", "run", "--quiet", "payroll", "--", *curl)


@dataclass
class GatewayHost(Place):
    """The machine with control and gateway; `process` is its `mdx gateway run`."""

    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Run both, until systemd would call them started."""
        path = self.machine.home / "notify.sock"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
            heard.bind(os.fspath(path))
            heard.settimeout(SECONDS)
            with (self.machine.home / "said").open("a") as said:
                self.process = subprocess.Popen(
                    self.words("mdx", "gateway", "run"),
                    env=self.machine.environment | {"NOTIFY_SOCKET": os.fspath(path)},
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    text=True,
                )
            while b"READY=1" not in heard.recv(1024):
                pass

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        status = self.process.wait(SECONDS)
        self.process = None
        return status

    @property
    def said(self) -> str:
        return (self.machine.home / "said").read_text()

    @property
    def config(self) -> Path:
        return self.machine.home / "gateway" / "gateway.toml"

    def pid(self, part: str) -> int:
        return int((self.machine.home / part / f"{part}.lock").read_text())

    def code(self, name: str, *options: str) -> str:
        return str(self.json("device", "add", name, *options)["code"])


@pytest.fixture(scope="module")
def spaces() -> Iterator[dict[str, str]]:
    """Three networks: the gateway's is linked with the device's and with the private one."""
    names = {part: f"mdx-{part}-{os.getpid()}" for part in ("gateway", "device", "private")}

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    def link(outer: str, inner: str, outer_address: str, inner_address: str) -> None:
        ends = f"o{os.getpid()}{inner[4]}", f"i{os.getpid()}{inner[4]}"
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for space, end, address in (
            (outer, ends[0], outer_address),
            (inner, ends[1], inner_address),
        ):
            ip("link", "set", end, "netns", space)
            ip("-n", space, "address", "add", f"{address}/24", "dev", end)
            ip("-n", space, "link", "set", end, "up")

    try:
        for name in names.values():
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        link(names["gateway"], names["device"], GATEWAY, DEVICE)
        link(names["gateway"], names["private"], INNER, SERVER)
        yield names
    finally:
        for name in names.values():
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@pytest.fixture(scope="module")
def web(spaces: dict[str, str]) -> Iterator[None]:
    command = ["ip", "netns", "exec", spaces["private"], sys.executable, "-c", WEB]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "serving\n"
        yield
        server.terminate()


@pytest.fixture(scope="module")
def make_host(
    spaces: dict[str, str], web: None, make_machine: Callable[[], Machine]
) -> Iterator[Callable[[], GatewayHost]]:
    made: list[GatewayHost] = []

    def make() -> GatewayHost:
        host = GatewayHost(make_machine(), spaces["gateway"])
        host.mdx("gateway", "init", "--host", GATEWAY, "--tenant", "corp")
        with host.config.open("a") as file:
            file.write(ALLOW)
        made.append(host)
        return host

    yield make
    for host in made:
        if host.process is not None:
            host.stop()


@pytest.fixture(scope="module")
def host(make_host: Callable[[], GatewayHost]) -> GatewayHost:
    """The gateway that tests share; it runs when they begin and when they end."""
    host = make_host()
    host.start()
    return host


@pytest.fixture(scope="module")
def make_device(spaces: dict[str, str], make_machine: Callable[[], Machine]) -> Callable[[], Place]:
    """Devices that have not joined."""

    def make() -> Place:
        device = Place(make_machine(), spaces["device"])
        (device.machine.home / "mdx.toml").write_text(POLICY)
        device.mdx("vault", "init")
        return device

    return make


@pytest.fixture(scope="module")
def laptop(host: GatewayHost, make_device: Callable[[], Place]) -> Place:
    """A device that joined by a one-time code, and is signed in."""
    device = make_device()
    device.mdx("join", stdin=host.code("laptop", "--tag", "team=pay") + "\n")
    device.mdx("login")
    return device


@pytest.fixture(scope="module")
def unjoined(make_device: Callable[[], Place]) -> tuple[Place, Place]:
    return make_device(), make_device()


@pytest.fixture
def devices(host: GatewayHost, unjoined: tuple[Place, Place]) -> Iterator[tuple[Place, Place]]:
    """Two machines that have not joined when a test begins."""
    yield unjoined
    for device in unjoined:
        if device.json("status")["device"] is not None:
            device.mdx("leave")


@pytest.fixture
def device(devices: tuple[Place, Place]) -> Place:
    return devices[0]


# The way in -----------------------------------------------------------------------------------


def test_a_device_reaches_the_private_server_through_the_gateway_only(
    host: GatewayHost, laptop: Place
) -> None:
    around = laptop.run("curl", "-sS", "-m", "5", f"http://{SERVER}:8080/")
    assert around.returncode != 0

    got = laptop.curl()

    assert got.stdout == f"salaries, for {INNER}\n", got.stderr
    flows = [record for record in host.json("audit", "show") if record["event"] == "flow.allowed"]
    assert flows[-1]["fields"]["peer"] == DEVICE
    assert flows[-1]["fields"]["address"] == SERVER


def test_what_the_gateways_list_leaves_out_is_blocked(laptop: Place) -> None:
    refused = laptop.curl("http://wiki.corp.internal:8080/", "-v")
    assert "Mdx-Refused: NOT_ALLOWED" in refused.stderr
    assert "salaries" not in refused.stdout
    blocked = laptop.curl("https://example.com/")
    assert "403" in blocked.stderr


def test_devices_are_listed_by_name_with_when_they_were_seen(
    host: GatewayHost, laptop: Place
) -> None:
    mine = laptop.json("status")["device"]
    assert mine["name"] == "laptop"
    (listed,) = [
        one for one in host.json("device", "list")["devices"] if one["id"] == mine["device"]
    ]
    assert (listed["name"], listed["standing"], listed["tags"]) == (
        "laptop",
        "good",
        {"team": "pay"},
    )
    assert listed["seen_at"] >= listed["enrolled_at"]
    shown = host.mdx("device", "list").stdout
    assert re.search(rf"laptop +{mine['device']} .* good +team=pay", shown), shown


def test_both_ends_of_the_doctor_find_it_well(host: GatewayHost, laptop: Place) -> None:
    for role in ("gateway", "control"):
        found = host.json("doctor", "--role", role)
        assert found["verdict"] != "bad", found


# Codes ----------------------------------------------------------------------------------------


def test_a_code_joins_one_device_once(host: GatewayHost, devices: tuple[Place, Place]) -> None:
    code = host.code("desk")
    first, second = devices
    joined = first.mdx("join", code).stdout
    assert re.fullmatch(r"joined: this is device desk \(d[0-9a-f]{16}\) of corp\n", joined)

    refused = second.mdx("join", code, status=77)

    assert "the join code is not good" in refused.stderr
    assert "used up or expired" in refused.stderr
    again = first.mdx("join", host.code("desk-2"), status=1)
    assert "mdx leave" in again.stderr


def test_an_expired_code_joins_nobody(host: GatewayHost, device: Place) -> None:
    code = host.code("late", "--lifetime", "1s")
    host.machine.until(
        lambda: "late" not in [one["name"] for one in host.json("device", "list")["invited"]]
    )
    refused = device.mdx("join", code, status=77)
    assert "the join code is not good" in refused.stderr


def test_a_code_that_was_withdrawn_joins_nobody(host: GatewayHost, device: Place) -> None:
    code = host.code("never")
    assert "withdrawn" in host.mdx("device", "revoke", "never").stdout
    device.mdx("join", code, status=77)


def test_a_code_names_its_device(host: GatewayHost, device: Place) -> None:
    code = host.code("printer")
    refused = device.mdx("join", code, "--name", "toaster", status=77)
    assert "for the device printer, not for toaster" in refused.stderr
    assert device.json("join", code)["name"] == "printer"  # nothing was used up


def test_a_key_joins_as_many_machines_as_it_says(
    host: GatewayHost, devices: tuple[Place, Place]
) -> None:
    made = host.json(
        "device", "key", "add", "ci", "--uses", "2", "--lifetime", "7d", "--tag", "k=v"
    )
    again = host.mdx("device", "key", "add", "ci", "--uses", "2", status=1)
    assert "there is a key ci already" in again.stderr
    first, second = devices
    assert first.json("join", made["code"])["name"] == "ci-1"
    assert second.json("join", made["code"], "--name", "runner-7")["name"] == "runner-7"

    second.mdx("leave")
    second.mdx("join", made["code"], status=77)

    (key,) = host.json("device", "key", "list")
    assert (key["uses"], key["uses_left"], key["tags"]) == (2, 0, {"k": "v"})
    host.mdx("device", "key", "remove", "ci")
    assert host.json("device", "key", "list") == []
    first.mdx("login")
    assert "salaries" in first.curl().stdout  # who joined by it stays


def test_a_key_that_was_removed_joins_nobody(host: GatewayHost, device: Place) -> None:
    code = host.json("device", "key", "add", "gone", "--uses", "9")["code"]
    host.mdx("device", "key", "remove", "gone")
    device.mdx("join", code, status=77)


# The end of a device --------------------------------------------------------------------------


def test_a_revoked_device_is_cut_off_and_stays_out(host: GatewayHost, device: Place) -> None:
    identity = device.json("join", host.code("thief"))["device"]
    device.mdx("login")
    command = device.words("mdx", "run", "--quiet", "payroll", "--")
    command += ["curl", "-sSN", f"{URL}endless"]
    with device.machine.start(*command) as flow:
        assert flow.stdout is not None
        assert flow.stdout.readline().startswith("salaries")

        said = host.mdx("device", "revoke", "thief").stdout

        assert flow.wait(SECONDS) != 0
    assert identity in said
    assert "it is cut off now" in said
    refused = device.curl(URL, "-v")
    assert refused.stdout.find("salaries") < 0
    assert "revoked" in refused.stdout + refused.stderr
    assert "revoked already" in host.mdx("device", "revoke", identity, status=1).stderr
    device.mdx("leave")
    device.mdx("join", host.code("honest-again"))
    assert "salaries" in device.curl().stdout


def test_a_device_that_leaves_is_shown_to_have_left(host: GatewayHost, device: Place) -> None:
    identity = device.json("join", host.code("guest"))["device"]
    assert device.json("leave") == {"device": identity, "tenant": "corp", "untold": ""}
    (listed,) = [one for one in host.json("device", "list")["devices"] if one["id"] == identity]
    assert listed["standing"] == "left"
    assert device.json("status")["device"] is None
    assert "has not joined" in device.mdx("leave", status=1).stderr


# The gateway's own life -----------------------------------------------------------------------


def test_a_changed_list_is_taken_up_and_a_wrong_one_is_not(
    host: GatewayHost, laptop: Place
) -> None:
    before = host.config.read_text()
    wiki = "http://wiki.corp.internal:8080/"
    try:
        host.config.write_text(
            before.replace('to = ["intranet', 'to = ["wiki.corp.internal", "intranet')
        )
        host.mdx("gateway", "reload")
        host.machine.until(lambda: "salaries" in laptop.curl(wiki).stdout)

        host.config.write_text(before.replace("[[allow]]", "[[alow]]"))
        wrong = host.mdx("gateway", "reload", status=78)

        assert "did you mean allow?" in wrong.stderr
        assert host.process is not None
        host.process.send_signal(signal.SIGHUP)
        host.machine.until(
            lambda: bool(host.mdx("logs")) and "not reloaded: gateway.toml: alow" in host.said
        )
        assert "salaries" in laptop.curl(wiki).stdout
        host.config.write_text(before.replace(f'host = "{GATEWAY}"', 'host = "0.0.0.0"', 1))
        host.mdx("gateway", "reload")
        host.machine.until(lambda: "listen cannot change while" in host.mdx("logs").stdout)
    finally:
        host.config.write_text(before)
        host.mdx("gateway", "reload")
        host.machine.until(lambda: "salaries" not in laptop.curl(wiki).stdout)


def test_a_restarted_gateway_is_the_same_to_its_devices(host: GatewayHost, laptop: Place) -> None:
    assert host.stop() == 0
    assert "does not answer" in laptop.json("status")["device"]["gateway"]["error"]
    host.start()
    assert "salaries" in laptop.curl().stdout


@pytest.mark.parametrize("part", ["gateway", "control"])
def test_a_part_that_dies_is_started_again(part: str, host: GatewayHost, laptop: Place) -> None:
    pid = host.pid(part)
    os.kill(pid, signal.SIGKILL)
    again = f"{part}: serves again (process "
    host.machine.until(lambda: bool(host.mdx("logs")) and again in host.said)
    assert host.pid(part) != pid
    assert f"{part}: was ended by SIGKILL" in host.said
    assert "salaries" in laptop.curl().stdout


def test_parts_end_with_the_process_that_watches_them(host: GatewayHost, laptop: Place) -> None:
    pidfds = [os.pidfd_open(host.pid(part)) for part in ("gateway", "control")]
    host.stop(signal.SIGKILL)
    for pidfd in pidfds:
        assert select.select([pidfd], [], [], SECONDS)[0]
        os.close(pidfd)
    host.start()
    assert "salaries" in laptop.curl().stdout


def test_a_host_is_set_up_once(host: GatewayHost) -> None:
    same = host.mdx("gateway", "init", "--host", GATEWAY, "--tenant", "corp").stdout
    assert "was set up before" in same
    other = host.mdx("gateway", "init", "--host", "10.76.0.9", "--tenant", "corp", status=78)
    assert f"with host {GATEWAY}" in other.stderr
    assert "is a gateway's host" in host.mdx("up", status=78).stderr
    assert "already running" in host.mdx("gateway", "run", status=1).stderr


# Who is not the gateway -----------------------------------------------------------------------


def test_another_authority_at_the_address_is_refused_with_both_fingerprints(
    host: GatewayHost,
    laptop: Place,
    make_host: Callable[[], GatewayHost],
    device: Place,
) -> None:
    init = ("gateway", "init", "--host", GATEWAY, "--tenant", "corp")
    code = host.code("phone")
    host.stop()
    impostor = make_host()
    impostor.start()
    try:
        refused = device.mdx("join", code, status=1).stderr
        assert host.json(*init)["fingerprint"] in refused
        assert impostor.json(*init)["fingerprint"] in refused
        assert impostor.json("device", "list")["devices"] == []
        joined = laptop.curl(URL, "-v")  # who joined before is not taken in either
        assert "salaries" not in joined.stdout
        assert "Mdx-Refused: GATEWAY_DOWN" in joined.stderr
    finally:
        impostor.stop()
        host.start()
    assert device.json("join", code)["name"] == "phone"


def test_a_gateway_that_is_down_is_said_to_be(
    host: GatewayHost, laptop: Place, device: Place
) -> None:
    code = host.code("tablet")
    host.stop()
    try:
        refused = device.mdx("join", code, status=1).stderr
        assert f"control at {GATEWAY}:8443 cannot be reached" in refused
        assert "has a way to it" in refused
        assert "Mdx-Refused: GATEWAY_DOWN" in laptop.curl(URL, "-v").stderr
        unheard = host.mdx("device", "add", "toaster", status=1).stderr
        assert "mdx gateway run" in unheard
    finally:
        host.start()
    assert device.json("join", code)["name"] == "tablet"


def test_a_device_is_no_host(laptop: Place) -> None:
    refused = laptop.mdx("device", "list", status=78)
    assert "on the gateway's host" in refused.stderr
    assert "mdx gateway init" in laptop.mdx("gateway", "run", status=78).stderr
