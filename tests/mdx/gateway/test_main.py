"""The gateway's daemon as a process, with control and the site behind it, driven by curl."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from mdx.audit import verify
from mdx.certificate_key import CertificateKey
from mdx.control.admin import admin_call
from mdx.control.ca import issue, read_request
from mdx.control.ca_records import open_authorities
from mdx.errors import MdxError
from tunnel import Role, Subject
from vault import KeyFile, Vault, now

Start = Callable[..., Any]
URL = "https://intranet.corp.internal/"


def curl(gateway: Any, app: Any, *options: str, user: str = "", site: Any = None) -> Any:
    """curl through the gateway; what is secret goes by a config on its standard input."""
    config = [
        f'proxy = "https://127.0.0.1:{gateway.port}"',
        f'proxy-cacert = "{gateway.files.ca}"',
        f'proxy-cert = "{app.file}"',
    ]
    if user:
        config.append(f'proxy-user = "{user}"')
    if site is not None:
        config.append(f'cacert = "{site["ca_file"]}"')
    return subprocess.run(
        ["curl", "-sS", "-v", "--max-time", "20", "--config", "-", *options],
        input="\n".join(config),
        capture_output=True,
        text=True,
        check=False,
    )


def records(gateway: Any) -> list[dict[str, Any]]:
    text = (gateway.folder / "audit" / "gateway.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_an_app_reaches_the_site_with_a_ticket_and_only_once(
    gateway: Any, payroll: Any, site: Any
) -> None:
    ticket = payroll.ticket()
    first = curl(gateway, payroll, URL, user=f"payroll:{ticket}", site=site)
    assert "Welcome to intranet.corp.internal" in first.stdout, first.stderr
    assert "the gateway 'gateway'" in first.stdout
    second = curl(gateway, payroll, URL, user=f"payroll:{ticket}", site=site)
    assert "407" in second.stderr
    assert "Mdx-Refused: NOT_AUTHENTICATED" in second.stderr
    assert second.stdout == ""
    allowed, refused = (
        [record for record in records(gateway) if record["event"] == event]
        for event in ("flow.allowed", "flow.refused")
    )
    assert allowed[-1]["fields"]["device"] == payroll.device
    assert allowed[-1]["fields"]["app"] == "payroll"
    assert allowed[-1]["fields"]["destination"] == "intranet.corp.internal:443"
    assert refused[-1]["fields"]["code"] == "NOT_AUTHENTICATED"
    for text in (gateway.log, json.dumps(records(gateway))):
        assert ticket not in text
        assert ticket.rpartition(".")[2] not in text


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("https://closed.corp.internal/", "CONNECTION_REFUSED"),
        ("https://intranet.corp.internal:444/", "NOT_ALLOWED"),
        ("https://example.com/", "NOT_ALLOWED"),
        ("https://127.0.0.1:9/", "ADDRESS_GUARD"),
        ("https://localhost:9/", "ADDRESS_GUARD"),
        ("https://missing.corp.internal/", "NAME_NOT_FOUND"),
    ],
)
def test_what_the_gateway_refuses_it_refuses_with_its_reason(
    url: str, code: str, gateway: Any, payroll: Any
) -> None:
    got = curl(gateway, payroll, url, user=f"payroll:{payroll.ticket()}")
    assert f"Mdx-Refused: {code}" in got.stderr
    assert records(gateway)[-1]["fields"]["code"] == code


def test_another_app_of_the_device_is_not_allowed(
    gateway: Any, new_app: Callable[[str], Any]
) -> None:
    wiki = new_app("wiki")
    got = curl(gateway, wiki, URL, user=f"wiki:{wiki.ticket()}")
    assert "Mdx-Refused: NOT_ALLOWED" in got.stderr


def test_a_ticket_of_another_device_is_not_good(
    gateway: Any, payroll: Any, new_app: Callable[[str], Any]
) -> None:
    stolen = payroll.ticket()
    thief = new_app("payroll")
    got = curl(gateway, thief, URL, user=f"payroll:{stolen}")
    assert "Mdx-Refused: NOT_AUTHENTICATED" in got.stderr


def test_without_a_certificate_curl_is_told_so(gateway: Any) -> None:
    command = ["curl", "-sS", "--proxy", f"https://127.0.0.1:{gateway.port}"]
    command += ["--proxy-cacert", str(gateway.files.ca), URL]
    got = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "certificate required" in got.stderr


def ask(gateway: Any, certificate: Path, path: str, *options: str, config: str = "") -> str:
    """curl to the gateway itself; what it printed, head and body."""
    command = ["curl", "-sS", "-i", "--cacert", str(gateway.files.ca), "--cert", str(certificate)]
    command += ["--config", "-", *options, f"https://127.0.0.1:{gateway.port}{path}"]
    done = subprocess.run(command, input=config, capture_output=True, text=True, check=False)
    return done.stdout


def test_a_ticket_becomes_a_session_token_for_many_streams(
    gateway: Any, payroll: Any, site: Any
) -> None:
    path = "/.well-known/mdx/session"
    bearer = f'header = "Authorization: Bearer {payroll.ticket()}"\nrequest = "POST"\n'
    bearer += 'header = "Content-Length: 0"'
    granted = ask(gateway, payroll.file, path, config=bearer)
    token = json.loads(granted.splitlines()[-1])["token"]
    for _ in range(2):
        got = curl(gateway, payroll, URL, user=f"payroll:{token}", site=site)
        assert "Welcome" in got.stdout
    assert "Mdx-Refused: NOT_AUTHENTICATED" in ask(gateway, payroll.file, path, config=bearer)
    assert records(gateway)[-1]["event"] == "session.refused"
    assert token not in gateway.log + json.dumps(records(gateway))


def test_status_says_who_and_which_tls(gateway: Any, payroll: Any) -> None:
    said = json.loads(ask(gateway, payroll.file, "/.well-known/mdx/status").splitlines()[-1])
    assert (said["name"], said["app"], said["device"]) == ("gateway", "payroll", payroll.device)
    assert said["version"] == "TLSv1.3"


def test_a_gateway_is_not_a_client_and_that_is_recorded(gateway: Any) -> None:
    said = ask(gateway, gateway.files.certificate, "/.well-known/mdx/status")
    assert "Mdx-Refused: NOT_ALLOWED" in said
    last = records(gateway)[-1]
    assert last["event"] == "connection.refused"
    assert last["fields"]["peer"] == "127.0.0.1"


def test_an_odd_request_is_recorded_with_who_made_it(gateway: Any, payroll: Any) -> None:
    assert "Mdx-Refused: " in ask(gateway, payroll.file, "/elsewhere")
    last = records(gateway)[-1]
    assert last["event"] == "connection.refused"
    assert last["fields"]["app"] == "payroll"


def test_what_was_recorded_is_a_whole_chain(gateway: Any, payroll: Any, site: Any) -> None:
    got = curl(gateway, payroll, URL, user=f"payroll:{payroll.ticket()}", site=site)
    assert "Welcome" in got.stdout
    (report,) = verify(gateway.folder / "audit")
    assert not report.findings
    events = [record["event"] for record in records(gateway)]
    assert events[0] == "gateway.started"
    assert "flow.allowed" in events
    assert not [line for line in gateway.log.splitlines() if "audit.failed" in line]


def test_control_that_is_down_is_not_the_clients_fault(
    start_gateway: Start, payroll: Any, closed_port: int, control: Any, tmp_path: Path
) -> None:
    gateway = start_gateway(
        tmp_path / "gateway",
        edit=lambda text: text.replace(f"port = {control.port}", f"port = {closed_port}"),
    )
    got = curl(gateway, payroll, URL, user=f"payroll:{payroll.ticket()}")
    assert "Mdx-Refused: UNREACHABLE" in got.stderr
    assert "cannot ask the ticket authority" in records(gateway)[-1]["fields"]["rule"]
    assert "redeem.failed" in gateway.log


def test_a_renewed_certificate_is_taken_up_without_a_restart(
    start_gateway: Start, control: Any, payroll: Any, gateway_files: Any, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    shutil.copytree(gateway_files.certificate.parent, own)
    files = type(gateway_files)(
        certificate=own / "gateway.pem", key=own / "gateway.pem", ca=own / "ca.pem"
    )
    gateway = start_gateway(tmp_path / "gateway", files=files)

    def serial() -> str:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{gateway.port}"]
        shown = subprocess.run(command, input=b"", capture_output=True, check=False).stdout
        read = ["openssl", "x509", "-noout", "-serial"]
        return subprocess.run(read, input=shown, capture_output=True, check=True).stdout.decode()

    first = serial()
    (own / "gateway.pem").write_bytes(b"half a file")
    assert serial() == first
    assert "certificates.not_reloaded" in gateway.log
    key = CertificateKey()
    request = {"name": "gateway", "host": "127.0.0.1", "csr": key.request()}
    made = admin_call(control.admin_socket, "POST", "/v1/gateway-certificates", request)
    (own / "gateway.pem").write_bytes(key.pem() + made["certificate"].encode())
    assert serial() != first
    assert "certificates.reloaded" in gateway.log
    assert "PRIVATE KEY" not in gateway.log


def look_until(condition: Callable[[], bool]) -> None:
    """Ask again until it holds; each time costs a process, so this is no busy loop."""
    for _ in range(2000):
        if condition():
            return
        subprocess.run(["true"], check=True)
    raise AssertionError("it never came to hold")


def test_sighup_takes_a_changed_list_up_and_leaves_a_wrong_one(
    start_gateway: Start, payroll: Any, site: Any, tmp_path: Path
) -> None:
    gateway = start_gateway(
        tmp_path / "gateway", edit=lambda text: text.replace('app = "payroll"', 'app = "wiki"')
    )
    config = gateway.folder / "gateway.toml"
    allowing = config.read_text().replace('app = "wiki"', 'app = "payroll"')

    def ask() -> Any:
        return curl(gateway, payroll, URL, user=f"payroll:{payroll.ticket()}", site=site)

    assert "Mdx-Refused: NOT_ALLOWED" in ask().stderr
    config.write_text(allowing)
    os.kill(gateway.pid, signal.SIGHUP)
    look_until(lambda: "config.reloaded" in gateway.log)
    assert "Welcome" in ask().stdout
    assert [one["event"] for one in records(gateway)].count("gateway.reloaded") == 1
    for wrong, said in (
        (allowing.replace("[[allow]]", "[[alow]]"), "did you mean allow?"),
        (allowing.replace('ca_file = "', 'ca_file = "/missing'), "hosts[0].ca_file"),
        (allowing.replace("[listen]", '[listen]\nhost = "127.0.0.2"'), "listen cannot change"),
        ("", "name: this key is missing"),
    ):
        config.write_text(wrong)
        os.kill(gateway.pid, signal.SIGHUP)
        look_until(lambda said=said: said in gateway.log)  # type: ignore[misc]
        assert "Welcome" in ask().stdout
    assert [one["event"] for one in records(gateway)].count("gateway.reloaded") == 1


def test_a_reload_that_cannot_be_recorded_does_not_happen(
    start_gateway: Start, payroll: Any, processes: Any, tmp_path: Path
) -> None:
    gateway = start_gateway(
        tmp_path / "gateway", edit=lambda text: text.replace('app = "payroll"', 'app = "wiki"')
    )
    config, audit = gateway.folder / "gateway.toml", gateway.folder / "audit"
    config.write_text(config.read_text().replace('app = "wiki"', 'app = "payroll"'))
    audit.rename(tmp_path / "moved")
    os.kill(gateway.pid, signal.SIGHUP)
    look_until(lambda: "config.not_reloaded" in gateway.log)
    (tmp_path / "moved").rename(audit)
    got = curl(gateway, payroll, URL, user=f"payroll:{payroll.ticket()}")
    assert "Mdx-Refused: NOT_ALLOWED" in got.stderr


def test_a_revoked_device_is_known_here_when_the_gateway_is_told_to_ask(
    start_gateway: Start, new_app: Callable[[str], Any], control: Any, site: Any, tmp_path: Path
) -> None:
    gateway, app = start_gateway(tmp_path / "gateway"), new_app("payroll")
    path = "/.well-known/mdx/session"
    bearer = f'header = "Authorization: Bearer {app.ticket()}"\nrequest = "POST"\n'
    bearer += 'header = "Content-Length: 0"'
    token = json.loads(ask(gateway, app.file, path, config=bearer).splitlines()[-1])["token"]
    assert "Welcome" in curl(gateway, app, URL, user=f"payroll:{token}", site=site).stdout
    admin_call(control.admin_socket, "POST", "/v1/revocations", {"device": app.device})
    os.kill(gateway.pid, signal.SIGUSR1)
    look_until(lambda: f'"device.revoked", "device": "{app.device}"' in gateway.log)
    got = curl(gateway, app, URL, user=f"payroll:{token}", site=site)
    assert "Mdx-Refused: NOT_ALLOWED" in got.stderr
    assert "Welcome" not in got.stdout


def test_it_renews_its_certificate_while_it_runs(
    start_gateway: Start, control: Any, gateway_files: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "gateway"
    folder.mkdir(mode=0o700)
    home = control.admin_socket.parent
    begun_at = now().wall - 25 * 86400
    key = CertificateKey()
    with Vault.open_(home / "vault", KeyFile(home.parent / "control.key")) as vault:
        issuing = open_authorities(vault, "home", now().wall).issuing
    old = issue(
        issuing,
        read_request(key.request()),
        Subject(tenant="home", role=Role.GATEWAY, name="gateway"),
        now=begun_at,
        hosts=["gateway", "127.0.0.1"],
    )
    file = folder / "gateway.pem"
    file.write_bytes(key.pem() + old.pem.encode())
    file.chmod(0o600)
    shutil.copy(gateway_files.ca, folder / "ca.pem")
    files = type(gateway_files)(certificate=file, key=file, ca=folder / "ca.pem")
    options = ("--admin-socket", str(control.admin_socket), "--dialled-at", "127.0.0.1")
    start_gateway(folder, files=files, options=options)

    def life_seconds() -> float:
        ends = x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc.timestamp()
        return ends - now().wall

    look_until(lambda: life_seconds() > 29 * 86400)


def test_sigterm_ends_it_in_order_and_frees_its_place(
    start_gateway: Start, processes: Any, tmp_path: Path
) -> None:
    first = start_gateway(tmp_path / "gateway")
    with pytest.raises(MdxError, match="already running"):
        start_gateway(tmp_path / "gateway")
    processes.end(first.pid)
    assert records(first)[-1]["event"] == "gateway.stopped"
    second = start_gateway(tmp_path / "gateway", port=first.port)
    assert second.port == first.port


def test_it_does_nothing_that_it_cannot_record_and_ends_all_the_same(
    start_gateway: Start, processes: Any, payroll: Any, site: Any, tmp_path: Path
) -> None:
    gateway = start_gateway(tmp_path / "gateway")
    (tmp_path / "gateway" / "audit").rename(tmp_path / "moved")
    got = curl(gateway, payroll, URL, user=f"payroll:{payroll.ticket()}", site=site)
    assert "Mdx-Refused: AUDIT_UNWRITABLE" in got.stderr
    assert got.stdout == ""
    processes.end(gateway.pid)
    said = [json.loads(line) for line in gateway.log.splitlines()]
    assert said[-1]["event"] == "audit.failed"
    assert said[-1]["about"] == "gateway.stopped"


def test_a_taken_port_is_said_to_be_taken(
    start_gateway: Start, taken_port: int, tmp_path: Path
) -> None:
    with pytest.raises(MdxError, match=f"port {taken_port} on 127.0.0.1 is taken") as caught:
        start_gateway(tmp_path / "gateway", port=taken_port)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "gateway"\n', 'name = "other"\n', "is for the gateway gateway of home, not for"),
        ('tenant = "home"', 'tenant = "corp"', "is for the gateway gateway of home, not for"),
        ("gateway.pem", "missing.pem", "certificate: .*missing.pem: No such file"),
        ('ca = "', 'ca = "/proc/self/missing/', "ca: .*: No such file"),
        ('ca_file = "', 'ca_file = "/dev/null#', r"hosts\[0\].ca_file"),
        ('tls = "gateway"', 'tls = "mutual"', 'hosts.0..tls: "mutual" is not allowed'),
        ("[control]", "[contrl]", "contrl: there is no such key; did you mean control"),
        ("payroll", "pay/roll", r'allow\[0\]\.app: "pay/roll": use lower-case letters'),
    ],
)
def test_what_is_wrong_in_the_file_is_said_with_exit_code_78(
    old: str, new: str, said: str, start_gateway: Start, tmp_path: Path
) -> None:
    with pytest.raises(MdxError, match=said) as caught:
        start_gateway(tmp_path / "gateway", edit=lambda text: text.replace(old, new, 1))
    assert caught.value.exit_code == 78
    assert "gateway.toml: " in str(caught.value)


def test_a_key_that_others_can_read_is_refused(
    start_gateway: Start, gateway_files: Any, tmp_path: Path
) -> None:
    key = tmp_path / "gateway.key"
    key.write_bytes(gateway_files.key.read_bytes())
    key.chmod(0o644)
    files = type(gateway_files)(certificate=gateway_files.certificate, key=key, ca=gateway_files.ca)
    with pytest.raises(MdxError, match="0644") as caught:
        start_gateway(tmp_path / "gateway", files=files)
    assert caught.value.hint == f"chmod 600 {key}"
    assert caught.value.exit_code == 78
