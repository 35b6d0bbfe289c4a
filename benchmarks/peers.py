"""The peers of our tunnel, each as a pair: plain TCP in, mutual TLS 1.3 between, plain TCP out.

What all pairs have in common with ours: TLS_AES_256_GCM_SHA384 and nothing else, P-256
certificates verified on both sides and a name that is checked, no session resumption, loopback,
TCP_NODELAY, one TLS connection per stream. Before a pair is measured, a handshake asks its server
side whether that is so. What they do not have: a decision per stream, tickets, an audit,
X25519MLKEM768 (where their OpenSSL is older), and an agent that asks whose socket it is.
`ssh -D` is the one that multiplexes: one connection, a channel per stream, aes256-gcm.

All else is each program's default: nginx one worker, haproxy one thread per processor, stunnel one
thread per connection.
"""

from __future__ import annotations

import getpass
import os
import socket
import ssl
import subprocess
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.certificates import SERVER_NAME, Certificates
from benchmarks.programs import HOST, Missing, find, free_port, start, wait_until_it_listens

__all__ = ["PAIRS", "Pair", "Started", "check_negotiated", "start_pair", "start_ssh"]

SUITE = "TLS_AES_256_GCM_SHA384"
NGINX_STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The two configurations of one peer, and how the program is told to use one."""

    client: str
    server: str
    command: Callable[[Path], list[str]]


def nginx(certificates: Certificates, *, entrance: int, between: int, backend: int) -> Pair:
    """nginx's stream module, as a TLS client and as a TLS server."""
    module = f"load_module {NGINX_STREAM};\n" if NGINX_STREAM.exists() else ""
    frame = (
        "{module}daemon off;\npid {role}.pid;\nerror_log stderr;\n"
        "events {{ worker_connections 4096; }}\n"
        "stream {{\n    server {{\n{lines}\n    }}\n}}\n"
    )
    client = f"""\
        listen {HOST}:{entrance};
        proxy_pass {HOST}:{between};
        proxy_ssl on;
        proxy_ssl_protocols TLSv1.3;
        proxy_ssl_conf_command Ciphersuites {SUITE};
        proxy_ssl_certificate {certificates.client};
        proxy_ssl_certificate_key {certificates.client};
        proxy_ssl_trusted_certificate {certificates.ca};
        proxy_ssl_verify on;
        proxy_ssl_server_name on;
        proxy_ssl_name {SERVER_NAME};
        proxy_ssl_session_reuse off;"""
    server = f"""\
        listen {HOST}:{between} ssl;
        proxy_pass {HOST}:{backend};
        ssl_protocols TLSv1.3;
        ssl_conf_command Ciphersuites {SUITE};
        ssl_certificate {certificates.server};
        ssl_certificate_key {certificates.server};
        ssl_client_certificate {certificates.ca};
        ssl_verify_client on;
        ssl_session_cache off;
        ssl_session_tickets off;"""
    return Pair(
        client=frame.format(module=module, role="client", lines=client),
        server=frame.format(module=module, role="server", lines=server),
        command=lambda file: [
            find("nginx"), "-p", str(file.parent), "-c", str(file), "-e", "stderr",
        ],
    )  # fmt: skip


def haproxy(certificates: Certificates, *, entrance: int, between: int, backend: int) -> Pair:
    """haproxy in TCP mode."""
    frame = """\
global
    maxconn 4096
    tune.ssl.cachesize 0
defaults
    mode tcp
    timeout connect 10s
    timeout client 60s
    timeout server 60s
"""
    tls = f"ca-file {certificates.ca} verify required ssl-min-ver TLSv1.3 ciphersuites {SUITE}"
    client = f"""\
listen client
    bind {HOST}:{entrance}
    server gateway {HOST}:{between} ssl crt {certificates.client} {tls} \
sni str({SERVER_NAME}) verifyhost {SERVER_NAME} no-ssl-reuse no-tls-tickets
"""
    server = f"""\
listen server
    bind {HOST}:{between} ssl crt {certificates.server} {tls} no-tls-tickets
    server backend {HOST}:{backend}
"""
    return Pair(
        client=frame + client,
        server=frame + server,
        command=lambda file: [find("haproxy"), "-db", "-q", "-f", str(file)],
    )


def stunnel(certificates: Certificates, *, entrance: int, between: int, backend: int) -> Pair:
    """stunnel."""

    def service(role: str, accept: int, connect: int, own: Path, check: str) -> str:
        return f"""\
foreground = yes
pid =
debug = err
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
[{role}]
client = {"yes" if role == "client" else "no"}
accept = {HOST}:{accept}
connect = {HOST}:{connect}
cert = {own}
key = {own}
CAfile = {certificates.ca}
verifyChain = yes
{check}sslVersionMin = TLSv1.3
ciphersuites = {SUITE}
sessionResume = no
options = NO_TICKET
"""

    return Pair(
        client=service(
            "client",
            entrance,
            between,
            certificates.client,
            f"checkHost = {SERVER_NAME}\nsni = {SERVER_NAME}\n",
        ),
        server=service("server", between, backend, certificates.server, "requireCert = yes\n"),
        command=lambda file: [find("stunnel4"), str(file)],
    )


PAIRS: Mapping[str, Callable[..., Pair]] = {
    "stunnel": stunnel,
    "haproxy": haproxy,
    "nginx": nginx,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A peer that serves: where streams enter it, and the process on the client's side."""

    via: str
    port: int
    client_pid: int


def start_pair(
    stack: ExitStack, name: str, certificates: Certificates, folder: Path, backend: int
) -> Started:
    """Start both sides. Raises: Missing when the program is not there or does not serve."""
    entrance, between = free_port(), free_port()
    pair = PAIRS[name](certificates, entrance=entrance, between=between, backend=backend)
    pids = {}
    for role, text, port in (("server", pair.server, between), ("client", pair.client, entrance)):
        file, log = folder / f"{name}-{role}.conf", folder / f"{name}-{role}.log"
        file.write_text(text)
        process = start(stack, pair.command(file), log=log)
        wait_until_it_listens(process, port, log)
        pids[role] = process.pid
    check_negotiated(name, between, certificates)
    return Started(via="-", port=entrance, client_pid=pids["client"])


def check_negotiated(name: str, port: int, certificates: Certificates) -> None:
    """Raises: Missing unless the server side takes TLS 1.3 with AES-256-GCM, and only with a
    certificate.
    """
    command: list[str | Path] = [
        find("openssl"),
        "s_client",
        "-brief",
        "-connect",
        f"{HOST}:{port}",
    ]
    command += ["-cert", certificates.client, "-key", certificates.client]
    command += ["-CAfile", certificates.ca, "-verify_return_error"]
    command += ["-verify_hostname", SERVER_NAME, "-servername", SERVER_NAME]
    done = subprocess.run(command, input="", capture_output=True, text=True, timeout=10)
    for wanted in ("TLSv1.3", SUITE, "Verification: OK"):
        if wanted not in done.stderr + done.stdout:
            raise Missing(f"{name} does not speak {wanted}: {done.stderr.strip()[-200:]}")
    stranger = ssl.create_default_context(cafile=str(certificates.ca))
    try:
        with (
            socket.create_connection((HOST, port), timeout=10) as tcp,
            stranger.wrap_socket(tcp, server_hostname=SERVER_NAME) as stream,
        ):
            stream.sendall(b"Ex")  # the backend would answer with the x
            answer = stream.recv(1)
    except (ssl.SSLError, ConnectionError):
        answer = b""  # with TLS 1.3 a client hears only now that it was refused
    if answer:
        raise Missing(f"{name} serves a client that shows no certificate")


def start_ssh(stack: ExitStack, folder: Path) -> Started:
    """`sshd` and `ssh -D`, on keys made for this. Raises: Missing."""
    port, entrance = free_port(), free_port()
    for key in ("host_key", "user_key"):
        making = [find("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)]
        subprocess.run(making, check=True, stdin=subprocess.DEVNULL)
    (folder / "authorized_keys").write_text((folder / "user_key.pub").read_text())
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd insists, when root starts it
    server = folder / "sshd.conf"
    server.write_text(f"""\
ListenAddress {HOST}:{port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
MaxSessions 1024
""")
    log = folder / "ssh.log"
    process = start(stack, [find("sshd"), "-D", "-e", "-f", server], log=log)
    wait_until_it_listens(process, port, log)
    command: list[str | Path] = [
        find("ssh"),
        "-F",
        "none",
        "-N",
        "-D",
        f"{HOST}:{entrance}",
        "-p",
        str(port),
    ]
    command += ["-i", folder / "user_key", "-o", "Ciphers=aes256-gcm@openssh.com"]
    command += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    command += ["-o", "BatchMode=yes", f"{getpass.getuser()}@{HOST}"]
    client = start(stack, command, log=log)
    wait_until_it_listens(client, entrance, log)
    return Started(via=str(entrance), port=0, client_pid=client.pid)
