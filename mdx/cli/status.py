"""`mdx status`: what runs here, which configuration counts, and what the gateway negotiated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mdx.cli.asking import ask_hub, config_option
from mdx.cli.showing import clock_time, json_option, show_facts, show_json, show_table, since, span

__all__ = ["status"]


@click.command()
@config_option
@json_option
def status(config: Path | None, as_json: bool) -> None:
    """Show the device, its apps and their leases, what runs, and the gateway's TLS.

    What is wrong, and what to do about it, is for mdx doctor.
    """
    facts: dict[str, Any] = ask_hub("status", config=config)
    if as_json:
        show_json(facts)
        return
    show_facts(
        [
            ("hub", f"process {facts['hub']['pid']}, zygote {facts['hub']['zygote']}"),
            ("state", facts["home"]),
            ("configuration", _configuration(facts["config"])),
            ("vault", _vault(facts["vault"])),
            ("device", _device(facts["device"])),
            ("gateway", _gateway(facts["device"])),
        ]
    )
    click.echo()
    show_table(("app", "lease", "runs"), _apps(facts), empty="no app: mdx.toml names none")
    if facts["runs"]:
        click.echo()
        show_table(("run", "app", "command", "pid", "since"), _runs(facts["runs"]), empty="")


def _configuration(config: dict[str, Any]) -> str:
    if "error" in config:
        return str(config["error"]).splitlines()[0]
    return str(config["path"])


def _vault(vault: dict[str, Any]) -> str:
    if vault["kept_by"] is None:
        return "none yet: mdx vault init"
    state = "open" if vault["open"] else "closed until an app is unlocked"
    keeper = "key file" if vault["kept_by"] == "keyfile" else vault["kept_by"]
    return f"{state}; root key kept by: {keeper}"


def _apps(facts: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Every app of the configuration, and those besides that have a lease."""
    leases = {
        lease["scope"].partition(":")[2]: lease
        for lease in facts["vault"].get("leases", [])
        if lease["scope"].startswith("app:")
    }
    living = {app for app, lease in leases.items() if lease["state"] == "unlocked"}
    names = [*facts["config"].get("apps", [])]
    names += sorted(living - set(names))
    is_open = facts["vault"]["open"]
    running = [run["app"] for run in facts["runs"]]
    return [
        (name, _lease(name, leases.get(name), is_open), str(running.count(name) or "-"))
        for name in names
    ]


def _lease(app: str, lease: dict[str, Any] | None, is_open: bool) -> str:
    if not is_open:
        return "not known while the vault is closed"
    if lease is None:
        return f"never unlocked: mdx unlock {app}"
    if lease["state"] != "unlocked":
        return f"{lease['state']}: mdx unlock {app}"
    left = lease["seconds_left"]
    return "unlocked" if left is None else f"unlocked, {span(left)} left"


def _runs(runs: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    return [
        (run["run"], run["app"], run["command"], run["pid"], since(run["started_at"]))
        for run in runs
    ]


def _device(device: dict[str, Any] | None) -> str:
    if device is None:
        return "has not joined: mdx up, or mdx join CODE"
    if "error" in device:
        return str(device["error"])
    ends = clock_time(device["certificate_ends_at"])
    return f"{device['device']} of {device['tenant']}, certificate until {ends}"


def _gateway(device: dict[str, Any] | None) -> str:
    if device is None or "gateway" not in device:
        return "none"
    gateway = device["gateway"]
    where = f"{gateway['name']} at {gateway['host']}:{gateway['port']}"
    if "error" in gateway:
        return f"{where}: {gateway['error']}; mdx doctor says what to do"
    return f"{where}: {gateway['version']}, {gateway['cipher']}, group {gateway['group']}"
