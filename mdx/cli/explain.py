"""`mdx explain APP DESTINATION`: where it would go, which rule says so, and where that stands."""

from __future__ import annotations

import os
from pathlib import Path

import click

from mdx.cli.asking import config_option
from mdx.cli.showing import json_option, show_facts, show_json, span
from mdx.explaining import (
    AtGateway,
    Explained,
    ask_gateway_about,
    explain_here,
    lease_of,
    look_up_and_judge,
)
from mdx.folders import find_folders
from mdx.launcher import CONFIG_VARIABLES
from mdx.policy import load_found
from tunnel import Destination, Refused, Verb, parse_destination

__all__ = ["explain"]

DEFAULT_PORT = 443


@click.command()
@click.argument("app")
@click.argument("destination")
@click.option(
    "--no-lookup",
    is_flag=True,
    help="Look up no name and ask no gateway: say what the policy alone says.",
)
@config_option
@json_option
def explain(
    app: str, destination: str, no_lookup: bool, config: Path | None, as_json: bool
) -> None:
    """Say where HOST[:PORT] would go, and why. The port is 443 unless given.

    For what goes directly, the name is looked up and each address judged. For what goes through
    the tunnel, the gateway is asked what it would do, and the name is not looked up here. The
    destination itself is never connected to.

    \b
      mdx explain payroll intranet.corp.internal
      mdx explain payroll pypi.org --no-lookup
    """
    policy = load_found(config, os.environ).app(app)
    if "://" in destination:
        raise click.BadParameter("write HOST or HOST:PORT, not a URL", param_hint="DESTINATION")
    try:
        wanted = parse_destination(destination, default_port=DEFAULT_PORT)
    except Refused as refused:
        raise click.BadParameter(refused.rule, param_hint="DESTINATION") from None
    table, here = explain_here(app, policy, wanted)
    folders = find_folders(os.environ)
    looked_up = at_gateway = None
    lease = lease_of(folders, app)
    if not no_lookup and here.verb == Verb.DIRECT.value:
        looked_up = look_up_and_judge(table, wanted)
    if not no_lookup and here.verb == Verb.TUNNEL.value:
        at_gateway = _ask_gateway(app, wanted, lease["state"], config)
    explained = Explained(
        app=app,
        here=here,
        lease=lease,
        unattended=policy.unattended,
        look_up=looked_up,
        gateway=at_gateway,
    )
    if as_json:
        show_json(explained.to_dict())
    else:
        show_facts(_facts(explained))


def _ask_gateway(app: str, wanted: Destination, lease: str, config: Path | None) -> AtGateway:
    # A closed vault may open by itself, and then the hub says what the lease is.
    if lease not in ("unlocked", "unknown"):
        return AtGateway(
            verdict="UNKNOWN", problem=f"not asked: {app}: {lease}", hint=f"mdx unlock {app}"
        )
    environ = {name: os.environ[name] for name in CONFIG_VARIABLES if name in os.environ}
    folders = find_folders(os.environ)
    return ask_gateway_about(folders, app, wanted, config=config, environ=environ)


def _facts(explained: Explained) -> list[tuple[str, object]]:
    here = explained.here
    facts: list[tuple[str, object]] = [
        ("destination", here.destination),
        ("verdict", here.verb),
        ("rule", here.rule),
        ("stands in", here.origin),
    ]
    if here.reason:
        facts.append(("reason", here.reason))
    if here.guard:
        facts.append(("address guard", here.guard))
    for step in here.steps:
        facts.append(("passed over", f"{step.rule} ({step.origin}): {step.why}"))
    if here.steps_left_out:
        facts.append(("", f"and {here.steps_left_out} more"))
    facts += _looked_up(explained)
    facts += _at_gateway(explained)
    facts.append(("lease", _lease(explained)))
    facts.append(("so a run goes", explained.outcome))
    facts.append(("would change it", explained.change))
    return facts


def _looked_up(explained: Explained) -> list[tuple[str, object]]:
    if explained.look_up is None:
        return []
    if explained.look_up.problem:
        return [("look-up", explained.look_up.problem)]
    return [
        (
            "address",
            f"{one.address}: "
            + ("would be dialled" if one.dialled else f"not dialled: {one.says}"),
        )
        for one in explained.look_up.addresses
    ]


def _at_gateway(explained: Explained) -> list[tuple[str, object]]:
    gateway = explained.gateway
    if gateway is None:
        return []
    hint = f" ({gateway.hint})" if gateway.hint else ""
    if gateway.verdict == "UNKNOWN":
        return [("gateway", f"{gateway.problem}{hint}")]
    code = f"{gateway.code}: " if gateway.code else ""
    return [("gateway says", f"{gateway.verdict}: {code}{gateway.rule}{hint}")]


def _lease(explained: Explained) -> str:
    lease = explained.lease
    if lease["state"] == "unlocked":
        left = lease["seconds_left"]
        return "unlocked" + ("" if left is None else f", {span(left)} left")
    why = f" ({lease['why']})" if lease["why"] else ""
    if explained.unattended and not explained.needs_unlock:
        return f"{lease['state']}{why}; the next run gets one by itself (unattended)"
    return f"{lease['state']}{why}; mdx unlock {explained.app} gives a new one"
