"""A private network with what an office has, on real servers: a package index, an npm registry,
git, ssh, PostgreSQL and Redis. Every program is the one that people use, and each is held against
the audit: that it got an answer does not yet say that it came through the tunnel."""

from __future__ import annotations

import base64
import getpass
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tarfile
import threading
import urllib.parse
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import trustme

if TYPE_CHECKING:
    from tests.scenarios.conftest import Machine

LOOPBACK = "127.0.0.1"
SECONDS = 30.0
PYPI, NPM, GIT = "pypi.corp.internal", "npm.corp.internal", "git.corp.internal"
WEB = "web.corp.internal"
BUILD, DB, CACHE = "build.corp.internal", "db.corp.internal", "cache.corp.internal"
ELSEWHERE = "elsewhere.test"

POLICY = """
[apps.office]
network_access = "tunneled"
routes = [{{ tunnel = "*.corp.internal" }}]
ca_file = {ca}
"""

WHEEL_NAME = "greeting-1.0-py3-none-any.whl"
TARBALL_NAME = "greeting-1.0.0.tgz"

# What a page does that belongs to an application: it asks its own server, and a stranger's.
PAGE = f"""<!doctype html><title>Payroll</title><body><p id="said">nothing</p><script>
const asked = fetch("/said").then((answer) => answer.text());
const strange = fetch("https://{ELSEWHERE}/", {{mode: "no-cors"}}).then(() => "open", () => "shut");
Promise.all([asked, strange]).then(([said, other]) => {{
  document.getElementById("said").textContent = said + ", elsewhere is " + other;
}});
</script>"""


# Servers ------------------------------------------------------------------------------------------


def wheel() -> bytes:
    """A package that pip can install."""
    info = "greeting-1.0.dist-info"
    files = {
        "greeting.py": "TEXT = 'hello from the private index'\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD"))
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in (*files.items(), (f"{info}/RECORD", record)):
            archive.writestr(name, text)
    return content.getvalue()


def tarball() -> bytes:
    """A package that npm can install."""
    files = {
        "package/package.json": json.dumps({"name": "greeting", "version": "1.0.0"}),
        "package/index.js": "module.exports = 'hello from the private registry';\n",
    }
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return content.getvalue()


def packument(content: bytes) -> dict[str, Any]:
    """What an npm registry says of the package."""
    digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
    dist = {
        "tarball": f"https://{NPM}/greeting/-/{TARBALL_NAME}",
        "integrity": f"sha512-{digest}",
        "shasum": hashlib.sha1(content, usedforsecurity=False).hexdigest(),
    }
    version = {"name": "greeting", "version": "1.0.0", "dist": dist}
    return {
        "name": "greeting",
        "dist-tags": {"latest": "1.0.0"},
        "versions": {"1.0.0": version},
    }


class Pages(BaseHTTPRequestHandler):
    """The web servers of the office, told apart by Host; `git http-backend` is git's own."""

    protocol_version = "HTTP/1.1"
    repositories: ClassVar[Path]
    wheel: ClassVar[bytes] = wheel()
    tarball: ClassVar[bytes] = tarball()

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: what the gateway and the agent write down is looked at instead."""

    def _serve(self) -> None:
        target = urllib.parse.urlsplit(self.path)
        if self.headers["Host"] == GIT:
            self._git(target)
            return
        pages = {
            (PYPI, "/simple/greeting/"): (
                "text/html",
                f'<a href="/{WHEEL_NAME}">{WHEEL_NAME}</a>'.encode(),
            ),
            (PYPI, f"/{WHEEL_NAME}"): ("application/zip", self.wheel),
            (NPM, "/-/ping"): ("application/json", b"{}"),
            (NPM, "/greeting"): (
                "application/json",
                json.dumps(packument(self.tarball)).encode(),
            ),
            (NPM, f"/greeting/-/{TARBALL_NAME}"): ("application/octet-stream", self.tarball),
            (WEB, "/"): ("text/html", PAGE.encode()),
            (WEB, "/said"): ("text/plain", b"the payroll is private"),
        }
        found = pages.get((self.headers["Host"], target.path))
        kind, body = found or ("text/plain", b"there is no such page\n")
        self._answer(200 if found else 404, {"Content-Type": kind}, body)

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _git(self, target: urllib.parse.SplitResult) -> None:
        """The CGI of git-http-backend(1)."""
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.repositories),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "REMOTE_USER": "office",  # whoever may push
            "PATH_INFO": target.path,
            "QUERY_STRING": target.query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run(
            ["git", "http-backend"], env=environment, input=body, capture_output=True, check=True
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
        status = int(headers.pop("Status", "200").split()[0])
        self._answer(status, headers, content)


@contextmanager
def web_server(authority: trustme.CA, repositories: Path) -> Iterator[int]:
    """All web sites of the office behind one port, each by its own name."""
    Pages.repositories = repositories
    server = ThreadingHTTPServer((LOOPBACK, 0), Pages)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(PYPI, NPM, GIT, WEB).configure_cert(context)
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join(SECONDS)
        server.server_close()


def free_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as free:
        port: int = free.getsockname()[1]
        return port


@contextmanager
def daemon(ready: str, *command: str | Path, user: str | None = None) -> Iterator[None]:
    """A server that says `ready` in a line of its output once it serves."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, user=user
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if ready in line:
            break
    else:
        raise AssertionError("".join(said))
    draining = threading.Thread(target=process.stdout.read)
    draining.start()
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)  # PostgreSQL's fast end
    process.wait(SECONDS)
    draining.join(SECONDS)
    process.stdout.close()


@contextmanager
def redis_server(folder: Path) -> Iterator[int]:
    port = free_port()
    options = ["--bind", LOOPBACK, "--port", str(port), "--save", "", "--appendonly", "no"]
    with daemon("Ready to accept connections", "redis-server", *options, "--dir", str(folder)):
        yield port


@contextmanager
def postgresql_server(folder: Path) -> Iterator[int]:
    """A database that keeps nothing for long. It refuses to run as root."""
    user = "nobody" if os.geteuid() == 0 else None
    if user:
        shutil.chown(folder, user)
    made = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    programs = made[-1].parent if made else Path(shutil.which("postgres") or "postgres").parent
    data = folder / "data"
    subprocess.run(
        [programs / "initdb", "--no-sync", "--auth=trust", "--username=office", "-D", data],
        check=True,
        stdout=subprocess.DEVNULL,
        user=user,
        cwd=folder,
    )
    port = free_port()
    settings = {"listen_addresses": LOOPBACK, "unix_socket_directories": "", "fsync": "off"}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    command: list[str | Path] = [programs / "postgres", "-D", data, "-p", str(port), *options]
    with daemon("ready to accept connections", *command, user=user):
        yield port


@contextmanager
def ssh_server(folder: Path) -> Iterator[int]:
    """OpenSSH for this user, and in `folder` what a client needs: key, known_hosts, config."""
    port = free_port()
    for key in ("host_key", "user_key"):
        making = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)]
        subprocess.run(making, check=True, stdin=subprocess.DEVNULL)
    host_key = (folder / "host_key.pub").read_text()
    (folder / "authorized_keys").write_text((folder / "user_key.pub").read_text())
    (folder / "known_hosts").write_text(f"{BUILD} {host_key}")
    (folder / "config").write_text(
        f"Host {BUILD}\n"
        "  ProxyCommand mdx connect office %h %p\n"
        f"  IdentityFile {folder}/user_key\n"
        f"  UserKnownHostsFile {folder}/known_hosts\n"
        "  StrictHostKeyChecking yes\n"
        "  BatchMode yes\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd insists, when root starts it
    server = folder / "sshd.conf"
    server.write_text(
        f"ListenAddress {LOOPBACK}:{port}\n"
        f"HostKey {folder}/host_key\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\n"
        "PidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\n"
    )
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin") or "sshd"
    with daemon("Server listening on", sshd, "-D", "-e", "-f", server):
        yield port


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, let_others_in: Callable[[Path], None]) -> Path:
    """The folder of the office, with one bare repository in it."""
    folder = tmp_path_factory.mktemp("office")
    let_others_in(folder)  # PostgreSQL runs as somebody else when we are root
    for name in ("ssh", "redis", "postgresql", "repositories"):
        (folder / name).mkdir()
    bare = folder / "repositories" / "handbook.git"
    subprocess.run(["git", "init", "--quiet", "--bare", "-b", "main", bare], check=True)
    return folder


@pytest.fixture(scope="module")
def office(make_machine: Callable[[], Machine], places: Path) -> Iterator[Machine]:
    """A machine whose gateway knows the office's hosts, and whose app `office` may reach them."""
    authority = trustme.CA()
    ca = places / "ca.pem"
    authority.cert_pem.write_to_path(ca)
    with ExitStack() as servers:
        web = servers.enter_context(web_server(authority, places / "repositories"))
        hosts = dict.fromkeys(((PYPI, 443), (NPM, 443), (GIT, 443), (WEB, 443)), web)
        hosts[BUILD, 22] = servers.enter_context(ssh_server(places / "ssh"))
        hosts[DB, 5432] = servers.enter_context(postgresql_server(places / "postgresql"))
        hosts[CACHE, 6379] = servers.enter_context(redis_server(places / "redis"))

        machine = make_machine()
        machine.up()
        with (machine.home / "gateway" / "gateway.toml").open("a") as file:
            file.write('\n[[allow]]\napp = "office"\nto = ["*.corp.internal"]\n')
            for (name, port), at in hosts.items():
                dial = f"{LOOPBACK}:{at}"
                file.write(f'\n[[hosts]]\nname = "{name}"\nport = {port}\ndial = "{dial}"\n')
        with (machine.home / "mdx.toml").open("a") as file:
            file.write(POLICY.format(ca=json.dumps(str(ca))))
        machine.down()
        machine.mdx("up")
        machine.mdx("unlock", "office")
        yield machine
        machine.down()  # before its hosts


# What was asked for, and by which way ------------------------------------------------------------


def last_flows(machine: Machine) -> tuple[set[str], set[str]]:
    """The destinations that the newest run reached through the tunnel, and those refused to it."""
    shown = machine.json("audit", "show", "--last", "100000")
    run = [record for record in shown if record["event"] == "run.started"][-1]["fields"]["run"]
    own = [record for record in shown if record["writer"] == f"agent:{run}"]
    allowed = [record["fields"] for record in own if record["event"] == "flow.allowed"]
    assert all(fields["verb"] == "TUNNEL" for fields in allowed)
    refused = [record["fields"] for record in own if record["event"] == "flow.refused"]
    return (
        {fields["destination"] for fields in allowed},
        {fields["destination"] for fields in refused},
    )


def run_in(
    office: Machine, *command: str | Path, environment: Mapping[str, str] | None = None
) -> str:
    """What a command that succeeds prints under `mdx run office`."""
    words = ["mdx", "run", "--quiet", "office", "--", *map(str, command)]
    done = office.run(*words, environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# pip and npm --------------------------------------------------------------------------------------


def test_pip_installs_from_a_private_index(office: Machine, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "install"]
    options = ["--no-cache-dir", "--retries=0", f"--index-url=https://{PYPI}/simple/"]

    run_in(office, *pip, *options, "--target", tmp_path, "greeting")

    assert last_flows(office) == ({f"{PYPI}:443"}, set())
    assert "private index" in (tmp_path / "greeting.py").read_text()


@pytest.fixture
def npm(tmp_path: Path) -> dict[str, str]:
    """npm keeps what it knows in this folder, and asks for nothing that was not asked for."""
    return {
        "npm_config_cache": str(tmp_path / "cache"),
        "npm_config_userconfig": str(tmp_path / "npmrc"),
        "npm_config_registry": f"https://{NPM}/",
        "npm_config_update_notifier": "false",
        "npm_config_audit": "false",
        "npm_config_fund": "false",
        "npm_config_fetch_retries": "0",
    }


def test_npm_pings_and_views_a_private_registry(office: Machine, npm: dict[str, str]) -> None:
    run_in(office, "npm", "ping", environment=npm)
    assert last_flows(office) == ({f"{NPM}:443"}, set())

    assert run_in(office, "npm", "view", "greeting", "version", environment=npm) == "1.0.0\n"
    assert last_flows(office) == ({f"{NPM}:443"}, set())


def test_npm_installs_and_node_requires_it(
    office: Machine, npm: dict[str, str], tmp_path: Path
) -> None:
    run_in(office, "npm", "install", "--prefix", tmp_path, "greeting", environment=npm)

    assert last_flows(office) == ({f"{NPM}:443"}, set())
    said = office.run(
        "node", "-p", f"require({json.dumps(str(tmp_path))} + '/node_modules/greeting')"
    )
    assert said.stdout == "hello from the private registry\n"


# git and ssh --------------------------------------------------------------------------------------

AUTHOR = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Ada"), ("EMAIL", "ada@corp.internal"))
}


def clone_and_push(office: Machine, folder: Path, url: str, environment: Mapping[str, str]) -> None:
    """Clone, commit a file that is named like the folder, push; the server has it then."""
    work = folder / "work"
    run_in(office, "git", "clone", "--quiet", url, work, environment=environment)
    (work / folder.name).write_text("a page of the handbook\n")
    for command in (("add", "."), ("commit", "--quiet", "-m", "A page")):
        done = office.run("git", "-C", str(work), *command, environment=AUTHOR)
        assert done.returncode == 0, done.stderr
    push = ("git", "-C", work, "push", "--quiet", "origin", "HEAD:main")
    run_in(office, *push, environment=environment)


def on_main(places: Path) -> str:
    """The files that the office's repository has now."""
    bare = places / "repositories" / "handbook.git"
    command = ["git", f"--git-dir={bare}", "ls-tree", "--name-only", "main"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_git_clones_and_pushes_over_https(office: Machine, places: Path, tmp_path: Path) -> None:
    clone_and_push(office, tmp_path, f"https://{GIT}/handbook.git", {})

    assert last_flows(office) == ({f"{GIT}:443"}, set())
    assert tmp_path.name in on_main(places)


def test_git_clones_and_pushes_over_ssh(office: Machine, places: Path, tmp_path: Path) -> None:
    url = f"ssh://{getpass.getuser()}@{BUILD}{places}/repositories/handbook.git"
    ssh = {"GIT_SSH_COMMAND": f"ssh -F {places}/ssh/config"}

    clone_and_push(office, tmp_path, url, ssh)

    assert last_flows(office) == ({f"{BUILD}:22"}, set())
    assert tmp_path.name in on_main(places)


def ssh(places: Path, *options: str) -> list[str]:
    return ["ssh", "-F", f"{places}/ssh/config", *options, f"{getpass.getuser()}@{BUILD}"]


def test_ssh_by_proxy_command_carries_everything_and_its_status(
    office: Machine, places: Path
) -> None:
    """Its own check of the host key holds to the end: the name is the one that was asked for."""
    count = 5_000_000
    done = office.run(
        *ssh(places), f"head -c {count} /dev/zero; cat >&2; exit 7", stdin="x" * count
    )

    assert (done.returncode, len(done.stdout), len(done.stderr)) == (7, count, count)
    assert last_flows(office) == ({f"{BUILD}:22"}, set())


def test_ssh_says_why_a_host_is_refused(office: Machine, places: Path) -> None:
    proxy = f"ProxyCommand=mdx connect office {ELSEWHERE} %p"

    done = office.run(*ssh(places, "-o", proxy), "true")

    assert done.returncode == 255
    assert f"mdx: {ELSEWHERE}:22: BLOCK *" in done.stderr
    assert f"mdx explain office {ELSEWHERE}:22" in done.stderr
    assert last_flows(office) == (set(), {f"{ELSEWHERE}:22"})


# psql and redis-cli, which speak to no proxy ------------------------------------------------------


@contextmanager
def connected(office: Machine, path: Path, host: str, port: int) -> Iterator[None]:
    """`mdx connect --listen` at `path`, while it is needed."""
    command = ["mdx", "connect", "office", host, str(port), "--listen", str(path)]
    with office.start(*command) as connecting:
        assert connecting.stderr is not None
        try:
            assert f"leads to {host}:{port}" in connecting.stderr.readline()
            yield
        finally:
            connecting.terminate()
        assert connecting.wait(SECONDS) == 0, connecting.stderr.read()
    assert not path.exists()


def test_psql_by_a_unix_socket(office: Machine, tmp_path: Path) -> None:
    query = "select count(*) from generate_series(1, 1000); select repeat('x', 1000000)"
    psql = ["psql", "--no-psqlrc", "--tuples-only", "--no-align", "--host", str(tmp_path)]

    with connected(office, tmp_path / ".s.PGSQL.5432", DB, 5432):
        done = office.run(*psql, "--username=office", "--dbname=postgres", "--command", query)

    assert done.returncode == 0, done.stderr
    assert done.stdout == "1000\n" + "x" * 1_000_000 + "\n"
    assert last_flows(office) == ({f"{DB}:5432"}, set())


def test_redis_cli_by_a_unix_socket(office: Machine, tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    with connected(office, path, CACHE, 6379):
        put = office.run("redis-cli", "-s", str(path), "-x", "set", "text", stdin="y" * 1_000_000)
        got = office.run("redis-cli", "-s", str(path), "get", "text")

    assert put.stdout == "OK\n"
    assert got.stdout == "y" * 1_000_000 + "\n"
    assert last_flows(office) == ({f"{CACHE}:6379"}, set())


def test_redis_cli_alone_goes_past_the_variables(office: Machine) -> None:
    """Level 1 holds nobody; here the name alone, known behind the gateway only, keeps it out."""
    command = ["redis-cli", "-h", CACHE, "ping"]

    done = office.run("mdx", "run", "--quiet", "office", "--", *command)

    assert done.returncode != 0
    assert "PONG" not in done.stdout
    assert last_flows(office) == (set(), set())


# Chromium -----------------------------------------------------------------------------------------


@pytest.mark.browser
def test_chromium_shows_the_private_page_and_loads_nothing_from_elsewhere(
    office: Machine, places: Path, tmp_path: Path
) -> None:
    store = tmp_path / ".pki" / "nssdb"
    store.mkdir(parents=True)
    trust = ["certutil", "-d", f"sql:{store}", "-A", "-t", "C,,", "-n", "office"]
    assert office.run(*trust, "-i", str(places / "ca.pem"), "--empty-password").returncode == 0
    picture = tmp_path / "page.png"
    options = [
        *("--headless", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--window-size=640,320", "--virtual-time-budget=20000", f"--screenshot={picture}"),
        *("--dump-dom", f"--user-data-dir={tmp_path}/profile"),
    ]
    if os.geteuid() == 0:
        options.append("--no-sandbox")  # its own; it refuses to start as root with it

    shown = run_in(
        office, "chromium", *options, f"https://{WEB}/", environment={"HOME": str(tmp_path)}
    )

    assert '<p id="said">the payroll is private, elsewhere is shut</p>' in shown
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert int.from_bytes(content[16:20], "big") == 640
    allowed, refused = last_flows(office)
    assert allowed == {f"{WEB}:443"}
    assert f"{ELSEWHERE}:443" in refused
