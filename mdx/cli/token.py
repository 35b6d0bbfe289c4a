"""`mdx token APP`: a session token for standard clients, which speak to the gateway themselves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import trio

from mdx.certificate_key import CertificateKey
from mdx.cli.asking import ask_hub_signed_in, config_option
from mdx.cli.showing import json_option, show_facts, show_json, span
from mdx.errors import MdxError
from mdx.folders import find_folders, private_folder
from tunnel import ClientContext, GatewayClient, SessionToken, client_context

__all__ = ["curl_config", "token"]

TICKET_SECONDS = 100.0  # keys-and-access: how long a ticket may be redeemed


@click.command()
@click.argument("app")
@click.option("--curl", is_flag=True, help="Print a configuration for `curl --config`.")
@click.option(
    "--once", is_flag=True, help="Give the ticket itself: good for one connection, for 100 s."
)
@config_option
@json_option
def token(app: str, curl: bool, once: bool, config: Path | None, as_json: bool) -> None:
    """Get a session token for a standard client.

    A ticket is redeemed at the gateway; whoever shows the token is APP to it.

    \b
      mdx token payroll --curl > payroll.curl
      curl --config payroll.curl https://intranet.corp.internal/

    The token works only together with the client certificate made for it.
    """
    key = CertificateKey()
    answer = ask_hub_signed_in(
        "token", app=app, config=config, csr=key.request(), key_hash=key.key_hash
    )
    if answer["gateway"] is None:
        raise MdxError("this device has joined no gateway", hint="mdx up (all on one machine)")
    if once:
        session = SessionToken(token=answer["ticket"], expires_in=TICKET_SECONDS)
    else:
        session = trio.run(_redeem, answer, key)
    files = _write_files(app, answer, key)
    facts = {
        "app": app,
        "proxy": f"https://{answer['gateway']['host']}:{answer['gateway']['port']}",
        "user": app,
        "token": session.token,
        "expires_in": session.expires_in,
        "certificate": str(files["certificate"]),
        "key": str(files["key"]),
        "gateway_ca": str(files["ca"]),
        "ca_bundle": answer["trust"]["bundle"] if answer["trust"] else None,
    }
    if as_json:
        show_json(facts)
    elif curl:
        click.echo(curl_config(facts), nl=False)
    else:
        facts["token"] = "(shown by --curl and --json)"  # noqa: S105 - not a token
        facts["expires_in"] = span(session.expires_in)
        show_facts(facts.items())


def curl_config(facts: dict[str, Any]) -> str:
    """What `curl --config` reads (curl(1)): the gateway as an HTTPS proxy, and what to trust."""
    options = {
        "proxy": facts["proxy"],
        "proxy-cacert": facts["gateway_ca"],
        "proxy-cert": facts["certificate"],
        "proxy-key": facts["key"],
        "proxy-user": f"{facts['user']}:{facts['token']}",
        "noproxy": "",
    }
    if facts["ca_bundle"]:
        options["cacert"] = facts["ca_bundle"]
    lines = [f'{name} = "{_quoted(value)}"\n' for name, value in options.items()]
    return "".join(lines) + "proxy-basic\n"


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')


def _write_files(app: str, answer: dict[str, Any], key: CertificateKey) -> dict[str, Path]:
    """Certificate, key and CA as files of mode 0600, in place of those of the token before."""
    tokens = private_folder(find_folders(os.environ).run / "tokens")
    folder = private_folder(tokens / app)
    contents = {
        "certificate": answer["certificate"].encode(),
        "key": key.pem(),
        "ca": answer["ca"].encode(),
    }
    files = {}
    for name, content in contents.items():
        files[name] = folder / f"{name}.pem"
        fresh = folder / f"{name}.{os.getpid()}"
        fresh.touch(mode=0o600, exist_ok=False)
        fresh.write_bytes(content)
        fresh.replace(files[name])
    return files


async def _redeem(answer: dict[str, Any], key: CertificateKey) -> SessionToken:
    async def context() -> ClientContext:
        return client_context(
            ca=answer["ca"].encode(), certificate=answer["certificate"].encode(), key=key.pem()
        )

    async def ticket() -> str:
        return str(answer["ticket"])

    gateway = answer["gateway"]
    client = GatewayClient(
        host=gateway["host"],
        port=gateway["port"],
        name=gateway["name"],
        context=context,
        ticket=ticket,
    )
    return await client.redeem()
