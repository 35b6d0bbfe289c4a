"""`mdx device`: who may come in, said on the host of control."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mdx.cli.gateway import state_folder, state_option
from mdx.cli.showing import clock_time, json_option, show_json, show_table, since
from mdx.control.admin import admin_call
from mdx.durations import parse_duration
from mdx.errors import MdxError
from mdx.gateway import host as gateway_host
from mdx.gateway.revoking import CHECK_SECONDS

__all__ = ["device"]


def _seconds(ctx: click.Context, param: click.Parameter, value: str) -> float:
    try:
        return parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(f"{value}: {error}", ctx, param) from None


def _tags(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    tags: dict[str, str] = {}
    for text in values:
        key, found, value = text.partition("=")
        if not found or not key:
            raise click.BadParameter(f"{text}: write NAME=VALUE", ctx, param)
        if key in tags:
            raise click.BadParameter(f"{key} is given twice", ctx, param)
        tags[key] = value
    return tags


_tag_option = click.option(
    "--tag", "tags", multiple=True, callback=_tags, metavar="NAME=VALUE", help="A label to list by."
)


@click.group()
def device() -> None:
    """Let devices join, list them, and revoke them: on the gateway's host, as its user.

    Works on an all-in-one machine (mdx up), too.
    """


@device.command()
@click.argument("name")
@click.option(
    "--lifetime",
    callback=_seconds,
    default="24h",
    show_default=True,
    help="Until when: 30m, 24h, 7d.",
)
@_tag_option
@state_option
@json_option
def add(
    name: str, lifetime: float, tags: dict[str, str], state: Path | None, as_json: bool
) -> None:
    """Print a join code for one device, to be called NAME. It works once.

    The code is a secret until it is used: whoever has it first becomes that device.
    """
    made = _new_code(state, name, uses=1, lifetime=lifetime, tags=tags, is_key=False)
    _show_code(made, name, "once", as_json)


@device.command("list")
@state_option
@json_option
def list_(state: Path | None, as_json: bool) -> None:
    """Show the devices that joined, and those that were sent a code."""
    path = gateway_host.admin_socket(state_folder(state))
    devices = admin_call(path, "GET", "/v1/devices")["devices"]
    codes = admin_call(path, "GET", "/v1/join-codes")["join_codes"]
    invited = [code for code in codes if not code["is_key"] and code["uses_left"]]
    if as_json:
        show_json(
            {"devices": [one | {"standing": _word(one)} for one in devices], "invited": invited}
        )
        return
    rows = [
        (
            one["name"] or "-",
            one["id"],
            clock_time(one["enrolled_at"]),
            f"{since(one['seen_at'])} ago" if one["seen_at"] else "-",
            _standing(one),
            _shown_tags(one["tags"]),
        )
        for one in devices
    ]
    rows += [
        (
            code["name"] or "-",
            f"code {code['id']}",
            "-",
            "-",
            f"invited, until {clock_time(code['expires_at'])}",
            _shown_tags(code["tags"]),
        )
        for code in invited
    ]
    columns = ("name", "id", "joined", "last seen", "standing", "tags")
    show_table(columns, rows, empty="no devices yet: mdx device add NAME")


@device.command()
@click.argument("which", metavar="ID|NAME")
@state_option
@json_option
def revoke(which: str, state: Path | None, as_json: bool) -> None:
    """Shut a device out, for good: no certificate, no ticket, no connection.

    Its connections are cut. An invitation that was not used yet is withdrawn. To come back it
    needs a new code.
    """
    folder = state_folder(state)
    path = gateway_host.admin_socket(folder)
    found, is_code = _find(path, which)
    if is_code:
        admin_call(path, "POST", "/v1/join-code-removals", {"id": found["id"]})
        said = f"withdrawn: the code for {found['name']}"
        seconds = 0.0
    else:
        admin_call(path, "POST", "/v1/revocations", {"device": found["id"]})
        seconds = 0.0 if gateway_host.nudge(folder) else CHECK_SECONDS
        when = f"within {seconds:g} s" if seconds else "now"
        said = f"revoked: {found['name'] or 'device'} ({found['id']}); it is cut off {when}"
    if as_json:
        kind = "code" if is_code else "device"
        show_json({"revoked": found["id"], "kind": kind, "cut_within_seconds": seconds})
    else:
        click.echo(said)


@device.group("key")
def key_() -> None:
    """Pre-authorised keys: one code for many machines without a person, such as CI."""


@key_.command("add")
@click.argument("name")
@click.option(
    "--uses", type=click.IntRange(1, 1000), required=True, help="How many devices may join by it."
)
@click.option(
    "--lifetime",
    callback=_seconds,
    default="7d",
    show_default=True,
    help="Until when: 24h, 7d, 30d.",
)
@_tag_option
@state_option
@json_option
def key_add(
    name: str,
    uses: int,
    lifetime: float,
    tags: dict[str, str],
    state: Path | None,
    as_json: bool,
) -> None:
    """Print a key by which several devices may join: NAME-1, NAME-2 and so on.

    It is a secret for as long as it has uses left. A device keeps its identity when the key is
    over.
    """
    made = _new_code(state, name, uses=uses, lifetime=lifetime, tags=tags, is_key=True)
    _show_code(made, name, f"{uses} times" if uses > 1 else "once", as_json)


@key_.command("list")
@state_option
@json_option
def key_list(state: Path | None, as_json: bool) -> None:
    """Show the keys that have not expired."""
    path = gateway_host.admin_socket(state_folder(state))
    keys = [
        code for code in admin_call(path, "GET", "/v1/join-codes")["join_codes"] if code["is_key"]
    ]
    if as_json:
        show_json(keys)
        return
    rows = [
        (
            key["name"],
            key["id"],
            f"{key['uses'] - key['uses_left']} of {key['uses']}",
            clock_time(key["expires_at"]),
            _shown_tags(key["tags"]),
        )
        for key in keys
    ]
    columns = ("name", "id", "used", "expires", "tags")
    show_table(columns, rows, empty="no keys: mdx device key add NAME --uses N")


@key_.command("remove")
@click.argument("which", metavar="ID|NAME")
@state_option
@json_option
def key_remove(which: str, state: Path | None, as_json: bool) -> None:
    """Let nobody join by a key any more. Devices that joined by it stay."""
    path = gateway_host.admin_socket(state_folder(state))
    codes = admin_call(path, "GET", "/v1/join-codes")["join_codes"]
    found = [code for code in codes if code["is_key"] and which in (code["id"], code["name"])]
    if not found:
        raise MdxError(f"there is no key {which}", hint="mdx device key list")
    admin_call(path, "POST", "/v1/join-code-removals", {"id": found[0]["id"]})
    if as_json:
        show_json({"removed": found[0]["id"]})
    else:
        click.echo(f"removed: the key {found[0]['name']}; mdx device list shows who joined by it")


def _new_code(
    state: Path | None,
    name: str,
    *,
    uses: int,
    lifetime: float,
    tags: dict[str, str],
    is_key: bool,
) -> dict[str, Any]:
    request = {
        "name": name,
        "uses": uses,
        "lifetime_seconds": lifetime,
        "is_key": is_key,
        "tags": tags,
    }
    path = gateway_host.admin_socket(state_folder(state))
    return admin_call(path, "POST", "/v1/join-codes", request)


def _show_code(made: dict[str, Any], name: str, uses: str, as_json: bool) -> None:
    if as_json:
        show_json({"name": name, **made})
        return
    # The code alone on standard output, so that it can be passed on by a pipe.
    click.echo(made["code"])
    click.echo(
        f"mdx: works {uses}, until {clock_time(made['expires_at'])}; on the device: mdx join CODE",
        err=True,
    )


def _find(path: Path, which: str) -> tuple[dict[str, Any], bool]:
    """The device in good standing, or else the invitation, of this id or name."""
    devices = admin_call(path, "GET", "/v1/devices")["devices"]
    good = [one for one in devices if one["revoked_at"] is None]
    found = [one for one in good if which == one["id"]] or [
        one for one in good if which == one["name"]
    ]
    if len(found) > 1:
        ids = ", ".join(one["id"] for one in found)
        raise MdxError(
            f"{len(found)} devices are called {which}", hint=f"name one by its id: {ids}"
        )
    if found:
        return found[0], False
    codes = admin_call(path, "GET", "/v1/join-codes")["join_codes"]
    invited = [
        code
        for code in codes
        if which in (code["id"], code["name"]) and not code["is_key"] and code["uses_left"]
    ]
    if invited:
        return invited[-1], True
    if any(which in (one["id"], one["name"]) for one in devices):
        raise MdxError(f"{which} is revoked already", hint="mdx device list")
    raise MdxError(f"there is no device {which}", hint="mdx device list")


def _word(one: dict[str, Any]) -> str:
    if one["revoked_at"] is None:
        return "good"
    return "left" if one["left"] else "revoked"


def _standing(one: dict[str, Any]) -> str:
    ago = "" if one["revoked_at"] is None else f" {since(one['revoked_at'])} ago"
    return _word(one) + ago


def _shown_tags(tags: dict[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted(tags.items()))
