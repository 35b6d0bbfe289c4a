"""`python -m mdx.site`: the daemon of the sample private site. Its log is JSON lines on stderr."""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path

import trio

from mdx import process
from mdx.errors import ConfigError, MdxError
from mdx.folders import private_folder
from mdx.hub.wire import error_message
from mdx.json_log import Log, json_log
from mdx.listening import open_listeners, port_of
from mdx.site.authority import SiteCertificate, prepare
from mdx.site.serving import Site, serve
from mdx.spawn import DaemonLock, report_ready
from tunnel import ClientCertificate, ServerContext, server_context
from vault import now

__all__ = ["main"]

RENEWAL_SECONDS = 3600.0  # how often a certificate near its end is looked for


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    options = _parse()
    process.harden()
    try:
        private_folder(options.state)
        lock = DaemonLock(options.state / "site.lock")
        trio.run(_serve, options)
    except MdxError as error:
        report_ready(options.ready_fd, error_message(error))
        raise SystemExit(error.exit_code) from None
    lock.release()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mdx site")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--device-ca", type=Path, required=True)
    parser.add_argument("--ready-fd", type=int)
    return parser.parse_args()


async def _serve(options: argparse.Namespace) -> None:
    contexts = _Contexts(options.state, name=options.name, device_ca=options.device_ca)
    log = json_log("site", _wall_clock)
    site = Site(
        name=options.name,
        outer=lambda: contexts.outer,
        inner=lambda: contexts.inner,
        clock=_wall_clock,
        log=log,
    )
    listeners = await open_listeners(options.host, options.port)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_renew, contexts, log)
        nursery.start_soon(serve, listeners, site)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            port = port_of(listeners)
            log("site.started", host=options.host, port=port, name=options.name)
            report = {"port": port, "ca_file": str(contexts.ca_file), "pid": os.getpid()}
            report_ready(options.ready_fd, report)
            async for _ in signals:
                break
        nursery.cancel_scope.cancel()
    log("site.stopped")


async def _renew(contexts: _Contexts, log: Log) -> None:
    while True:
        await trio.sleep(RENEWAL_SECONDS)
        try:
            contexts.renew()
        except MdxError as error:  # the certificate that is there lives on for a month
            log("site.not_renewed", reason=str(error))


class _Contexts:
    """The TLS contexts of both layers, made anew when the certificate is renewed."""

    def __init__(self, state: Path, *, name: str, device_ca: Path) -> None:
        self._state = state
        self._name = name
        try:
            self._device_ca = device_ca.read_bytes()
        except OSError as error:
            raise ConfigError(f"--device-ca {device_ca}: {error.strerror}") from None
        self._pem = b""
        self.renew()

    def renew(self) -> None:
        """Raises: MdxError."""
        made = prepare(self._state, name=self._name, now=_wall_clock())
        self.ca_file = made.ca_file
        if made.pem != self._pem:
            self.outer, self.inner = self._contexts(made)
            self._pem = made.pem

    def _contexts(self, made: SiteCertificate) -> tuple[ServerContext, ServerContext]:
        try:
            outer = server_context(certificate=made.pem, key=made.pem, client_ca=self._device_ca)
        except ValueError as error:
            raise ConfigError(f"the site cannot use its certificates: {error}") from None
        # What clients show in the inner layer is nothing to this site; none of them must show any.
        inner = server_context(
            certificate=made.pem,
            key=made.pem,
            client_ca=made.ca,
            client_certificate=ClientCertificate.OPTIONAL,
            any_cipher_suite=True,
        )
        return outer, inner


def _wall_clock() -> float:
    return now().wall


if __name__ == "__main__":
    main()
