"""The peers' configurations ask for what we claim of them."""

from __future__ import annotations

import ssl
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import trio

from benchmarks import peers
from benchmarks.certificates import SERVER_NAME, Certificates, make_certificates
from benchmarks.programs import HOST, Missing, find, free_port, start, wait_until_it_listens


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path)


# Both sides verify, and nothing is resumed: in each program's own words.
DEMANDS = {
    "nginx": (
        ["proxy_ssl_verify on", f"proxy_ssl_name {SERVER_NAME}", "proxy_ssl_session_reuse off"],
        ["ssl_verify_client on", "ssl_session_cache off", "ssl_session_tickets off"],
    ),
    "haproxy": (
        ["verify required", f"verifyhost {SERVER_NAME}", "no-ssl-reuse", "no-tls-tickets"],
        ["verify required", "tune.ssl.cachesize 0", "no-tls-tickets"],
    ),
    "stunnel": (
        ["verifyChain = yes", f"checkHost = {SERVER_NAME}", "sessionResume = no"],
        ["verifyChain = yes", "requireCert = yes", "sessionResume = no", "NO_TICKET"],
    ),
}


@pytest.mark.parametrize("name", peers.PAIRS)
def test_a_pair_demands_tls_1_3_with_aes_256_gcm_and_certificates_on_both_sides(
    name: str, certificates: Certificates
) -> None:
    pair = peers.PAIRS[name](certificates, entrance=1, between=2, backend=3)
    for text, demands, own in (
        (pair.client, DEMANDS[name][0], certificates.client),
        (pair.server, DEMANDS[name][1], certificates.server),
    ):
        for wanted in ("TLSv1.3", "TLS_AES_256_GCM_SHA384", str(certificates.ca), str(own)):
            assert wanted in text
        for wanted in demands:
            assert wanted in text


STRICT = ["-Verify", "1", "-verify_return_error"]


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (STRICT, None),
        ([*STRICT, "-tls1_2"], "does not speak TLSv1.3"),
        ([*STRICT, "-ciphersuites", "TLS_AES_128_GCM_SHA256"], "does not speak TLS_AES_256_GCM"),
    ],
)
def test_a_server_that_speaks_less_is_not_measured(
    options: list[str], wrong: str | None, certificates: Certificates, tmp_path: Path
) -> None:
    port, log = free_port(), tmp_path / "log"
    with ExitStack() as stack:
        command = [find("openssl"), "s_server", "-accept", f"{HOST}:{port}", *options, "-quiet"]
        command += ["-cert", str(certificates.server), "-key", str(certificates.server)]
        command += ["-CAfile", str(certificates.ca)]
        wait_until_it_listens(start(stack, command, log=log), port, log)
        if wrong is None:
            peers.check_negotiated("peer", port, certificates)
        else:
            with pytest.raises(Missing, match=f"peer {wrong}"):
                peers.check_negotiated("peer", port, certificates)


async def test_a_server_that_takes_clients_without_a_certificate_is_not_measured(
    certificates: Certificates,
) -> None:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificates.server)
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_ssl_over_tcp_listeners(0, server, host=HOST)
        transport = listener.transport_listener
        assert isinstance(transport, trio.SocketListener)
        port = transport.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, _echo, [listener])
        with pytest.raises(Missing, match="peer serves a client that shows no certificate"):
            await trio.to_thread.run_sync(peers.check_negotiated, "peer", port, certificates)
        nursery.cancel_scope.cancel()


async def _echo(stream: trio.SSLStream[trio.SocketStream]) -> None:
    with suppress(trio.BrokenResourceError):
        async with stream:
            while data := await stream.receive_some():
                await stream.send_all(data)


def test_a_program_that_is_not_there_is_named_with_what_installs_it() -> None:
    with pytest.raises(
        Missing, match=r"^no-such-program is not installed: scripts/set-up --bench$"
    ):
        find("no-such-program")


def test_a_program_that_ends_at_once_is_no_peer_and_says_why(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with ExitStack() as stack:
        process = start(stack, ["sh", "-c", "echo no luck >&2; exit 3"], log=log)
        with pytest.raises(Missing, match=r"sh does not serve: .*no luck"):
            wait_until_it_listens(process, free_port(), log)
