"""Programs that read the usual variables each in their own way. Every one is held against the
audit: that it got an answer does not yet say that it came through the tunnel."""

from __future__ import annotations

import json
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import subprocess

    from tests.scenarios.conftest import Machine

MISSING = "/simple/nothing/"

# Python's http.client, told to tunnel; it trusts what SSL_CERT_FILE names.
HTTP_CLIENT = """
import http.client, os, urllib.parse
proxy = urllib.parse.urlsplit(os.environ["HTTPS_PROXY"])
connection = http.client.HTTPSConnection(proxy.hostname, proxy.port, timeout=20)
connection.set_tunnel("SITE", 443)
connection.request("GET", "/payroll.json")
print(connection.getresponse().read().decode())
"""

# The requests library, as pip brings it along.
REQUESTS = """
from pip._vendor import requests
print(requests.get("https://SITE/payroll.json", timeout=20).text)
"""

# Every node reads NODE_EXTRA_CA_CERTS. Before 22.21 it reads no proxy variable, and programs bring
# an agent of their own that does what stands here.
NODE = """
const http = require("http"), https = require("https");
const proxy = new URL(process.env.https_proxy);
const connect = http.request({
  host: proxy.hostname, port: proxy.port, method: "CONNECT", path: "SITE:443",
  headers: { host: "SITE:443" },
});
connect.on("connect", (answer, socket) => {
  if (answer.statusCode !== 200) { console.log(answer.statusCode); process.exit(1); }
  https.get({ host: "SITE", path: "/payroll.json", socket, agent: false }, (page) => {
    page.pipe(process.stdout);
  });
});
connect.end();
"""

# From 22.21 on, fetch obeys the variables, since `mdx run` sets NODE_USE_ENV_PROXY.
NODE_FETCH = """
fetch("https://SITE/payroll.json").then((answer) => answer.text()).then(console.log)
"""

URLLIB = """
import urllib.request
print(urllib.request.urlopen("https://SITE/payroll.json", timeout=20).read().decode())
"""

HTTPX = """
import httpx
print(httpx.get("https://SITE/payroll.json", timeout=20).text)
"""

HTTPX_BY_SOCKS = """
import httpx, os
with httpx.Client(proxy=os.environ["ALL_PROXY"], timeout=20) as client:
    print(client.get("https://SITE/payroll.json").text)
"""

# PySocks, under code that opens sockets itself.
PYSOCKS = """
import os, socks, ssl, urllib.parse
proxy = urllib.parse.urlsplit(os.environ["ALL_PROXY"])
connection = socks.create_connection(
    ("SITE", 443), timeout=20, proxy_type=socks.SOCKS5,
    proxy_addr=proxy.hostname, proxy_port=proxy.port, proxy_rdns=True,
)
with ssl.create_default_context().wrap_socket(connection, server_hostname="SITE") as secured:
    secured.sendall(b"GET /payroll.json HTTP/1.0\\r\\nHost: SITE\\r\\n\\r\\n")
    print(b"".join(iter(lambda: secured.recv(65536), b"")).decode())
"""

PYTHON_SOCKS_TRIO = """
import os, ssl, trio
from python_socks.async_.trio import Proxy

async def main():
    proxy = Proxy.from_url(os.environ["PROXY"].replace("socks5h:", "socks5:"), rdns=True)
    stream = trio.SocketStream(await proxy.connect("SITE", 443, timeout=20))
    secured = trio.SSLStream(stream, ssl.create_default_context(), server_hostname="SITE")
    await secured.send_all(b"GET /payroll.json HTTP/1.0\\r\\nHost: SITE\\r\\n\\r\\n")
    while data := await secured.receive_some():
        print(data.decode(), end="")

trio.run(main)
"""

PYTHON_SOCKS_ASYNCIO = """
import asyncio, os, ssl
from python_socks.async_.asyncio import Proxy

async def main():
    proxy = Proxy.from_url(os.environ["PROXY"].replace("socks5h:", "socks5:"), rdns=True)
    connection = await proxy.connect("SITE", 443, timeout=20)
    reader, writer = await asyncio.open_connection(
        sock=connection, ssl=ssl.create_default_context(), server_hostname="SITE"
    )
    writer.write(b"GET /payroll.json HTTP/1.0\\r\\nHost: SITE\\r\\n\\r\\n")
    print((await reader.read()).decode())
    writer.close()

asyncio.run(main())
"""

# A request by hand over TLS; it trusts what SSL_CERT_FILE names, and says so.
OPENSSL = (
    "printf 'GET /payroll.json HTTP/1.1\\r\\nHost: SITE\\r\\nConnection: close\\r\\n\\r\\n' |"
    " openssl s_client -quiet -verify_return_error -verify_hostname SITE -servername SITE"
    " -proxy ${https_proxy#http://} -connect SITE:443"
)


def run_as_payroll(
    machine: Machine, site: str, *command: str
) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:
    """What came of the command, and the flows that its own agent let through."""
    words = [word.replace("SITE", site) for word in command]
    done = machine.run("mdx", "run", "--quiet", "payroll", "--", *words)
    run = machine.records("run.started")[-1]["fields"]["run"]
    allowed = machine.records("flow.allowed")
    return done, [record for record in allowed if record["writer"] == f"agent:{run}"]


trio_client = (sys.executable, "-c", PYTHON_SOCKS_TRIO)
asyncio_client = (sys.executable, "-c", PYTHON_SOCKS_ASYNCIO)


@pytest.mark.parametrize(
    "command",
    [
        ("curl", "-sS", "https://SITE/payroll.json"),
        ("sh", "-c", 'curl -sS --proxy "$all_proxy" https://SITE/payroll.json'),
        ("sh", "-c", 'wget -qO- --ca-certificate="$SSL_CERT_FILE" https://SITE/payroll.json'),
        (sys.executable, "-c", HTTP_CLIENT),
        (sys.executable, "-c", URLLIB),
        (sys.executable, "-c", REQUESTS),
        (sys.executable, "-c", HTTPX),
        (sys.executable, "-c", HTTPX_BY_SOCKS),
        (sys.executable, "-c", PYSOCKS),
        ("sh", "-c", 'PROXY="$all_proxy" exec "$@"', "-", *trio_client),
        ("sh", "-c", 'PROXY="$http_proxy" exec "$@"', "-", *trio_client),
        ("sh", "-c", 'PROXY="$all_proxy" exec "$@"', "-", *asyncio_client),
        ("node", "-e", NODE),
        ("node", "-e", NODE_FETCH),
        ("sh", "-c", OPENSSL),
    ],
    ids=[
        "curl",
        "curl by SOCKS5h",
        "wget",
        "http.client",
        "urllib",
        "requests",
        "httpx",
        "httpx by SOCKS5h",
        "PySocks",
        "python-socks, trio",
        "python-socks, trio, HTTP",
        "python-socks, asyncio",
        "node",
        "node's fetch",
        "openssl",
    ],
)
def test_it_comes_through_the_tunnel_and_trusts_the_site(
    machine: Machine, site: str, command: tuple[str, ...]
) -> None:
    done, flows = run_as_payroll(machine, site, *command)

    body = done.stdout[done.stdout.find("{") :]
    assert json.loads(body)["company"] == "Corp", done.stdout + done.stderr
    assert [flow["fields"]["destination"] for flow in flows] == [f"{site}:443"]
    assert flows[0]["fields"]["verb"] == "TUNNEL"


def test_pip_asks_its_index_through_the_tunnel(machine: Machine, site: str) -> None:
    pip = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "download"]
    options = ["--no-cache-dir", "--retries=0", "--index-url=https://SITE/simple/", "nothing"]

    done, flows = run_as_payroll(machine, site, *pip, *options)

    assert "No matching distribution found for nothing" in done.stderr
    assert {flow["fields"]["destination"] for flow in flows} == {f"{site}:443"}
    asked = (machine.home / "log" / "site.log").read_text().splitlines()
    assert json.loads(asked[-1])["target"] == MISSING


@pytest.mark.parametrize(
    "command",
    [
        ("curl", "-sS", "https://elsewhere.test/"),
        ("git", "ls-remote", "https://elsewhere.test/x.git"),
        ("wget", "-q", "--tries=1", "https://elsewhere.test/"),
        (sys.executable, "-c", REQUESTS.replace("SITE", "elsewhere.test")),
        (sys.executable, "-c", HTTPX.replace("SITE", "elsewhere.test")),
        (sys.executable, "-c", PYSOCKS.replace("SITE", "elsewhere.test")),
        ("node", "-e", NODE.replace("SITE", "elsewhere.test")),
        ("node", "-e", NODE_FETCH.replace("SITE", "elsewhere.test")),
        ("sh", "-c", OPENSSL.replace("SITE", "elsewhere.test")),
    ],
    ids=["curl", "git", "wget", "requests", "httpx", "PySocks", "node", "node's fetch", "openssl"],
)
def test_another_host_is_refused_to_each(
    machine: Machine, site: str, command: tuple[str, ...]
) -> None:
    done, flows = run_as_payroll(machine, site, *command)

    assert done.returncode != 0
    assert flows == []
    refused = machine.records("flow.refused")[-1]["fields"]
    assert (refused["destination"], refused["code"]) == ("elsewhere.test:443", "BLOCKED_BY_RULE")


def test_curl_by_socks5_looks_names_up_itself_and_so_finds_no_private_one(
    machine: Machine, site: str
) -> None:
    """socks5 instead of socks5h: what is known behind the gateway only stays unknown."""
    script = 'curl -sS --proxy "socks5://${http_proxy#http://}" https://SITE/payroll.json'

    done, flows = run_as_payroll(machine, site, "sh", "-c", script)

    assert done.returncode != 0
    assert "resolve" in done.stderr
    assert flows == []


def test_curl_by_socks5_goes_to_an_address(machine: Machine) -> None:
    with socket.create_server(("127.0.0.9", 0)) as listening:
        answering = threading.Thread(target=answer_once, args=[listening])
        answering.start()
        url = f"http://127.0.0.9:{listening.getsockname()[1]}/"
        script = f'curl -sS --proxy "socks5://${{http_proxy#http://}}" {url}'
        done = machine.run("mdx", "run", "--quiet", "direct", "--", "sh", "-c", script)
        answering.join(20)

    assert (done.returncode, done.stdout) == (0, "hello"), done.stderr
    flow = machine.records("flow.allowed")[-1]["fields"]
    assert (flow["app"], flow["verb"]) == ("direct", "DIRECT")
    assert f"http://{flow['destination']}/" == url


def answer_once(listening: socket.socket) -> None:
    connection, _ = listening.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")


def test_wget_alone_trusts_what_its_tls_library_lets_it(machine: Machine, site: str) -> None:
    """GnuTLS (Debian's) reads no variable, OpenSSL (Ubuntu's) does; the page of clients says so."""
    reads_variable = "+ssl/openssl" in machine.run("wget", "--version").stdout

    done, flows = run_as_payroll(machine, site, "wget", "--tries=1", "-qO-", "https://SITE/")

    assert done.returncode == (0 if reads_variable else 5)  # wget(1): 5, SSL verification failure
    assert [flow["fields"]["destination"] for flow in flows] == [f"{site}:443"]


def test_a_node_that_reads_no_proxy_variable_finds_no_private_name(
    machine: Machine, site: str
) -> None:
    """As before 22.21: level 1 holds nobody, but the name is known behind the gateway only."""
    script = 'unset NODE_USE_ENV_PROXY; exec node -e "$1"'

    done, flows = run_as_payroll(machine, site, "sh", "-c", script, "-", NODE_FETCH)

    assert done.returncode != 0
    assert "ENOTFOUND" in done.stderr or "EAI_AGAIN" in done.stderr
    assert flows == []


def test_curl_speaks_to_the_gateway_as_an_https_proxy(machine: Machine, site: str) -> None:
    """With the client certificate of `mdx token`; none of our code is on its side."""
    config = machine.home / "payroll.real-client.curl"
    config.write_text(machine.mdx("token", "payroll", "--curl").stdout)

    done = machine.run("curl", "-sSv", "--config", str(config), f"https://{site}/payroll.json")

    assert json.loads(done.stdout)["company"] == "Corp"
    assert "CONNECT tunnel established" in done.stderr
    assert "TLSv1.3" in done.stderr
