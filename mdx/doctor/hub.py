"""The hub, its zygote and its agents, and what the hub finds out about control and gateway.

The hub is asked only when it runs: the doctor starts nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mdx.doctor.certificates import check_end
from mdx.doctor.findings import Finding, bad, ok, warn
from mdx.errors import MdxError
from mdx.folders import Folders
from mdx.hub.starting import hub_lock
from mdx.hub.wire import call, connect
from mdx.spawn import running_pid

__all__ = [
    "ask_running_hub",
    "check_control",
    "check_device",
    "check_gateway",
    "check_hub",
    "check_runs",
]

MAX_SKEW_SECONDS = 60.0
NOT_ASKED = "not asked: the hub does not run"
START = "mdx unlock starts it and signs in"


def ask_running_hub(folders: Folders, operation: str, **fields: Any) -> Any:
    """The answer of the hub that runs now. Raises: HubUnreachable when none does; HubRefused."""
    with connect(folders.hub_socket) as hub:
        return call(hub, {"op": operation, **fields})


def check_hub(folders: Folders) -> list[Finding]:
    """Is it there, does it answer, and does its zygote live?"""
    pid = running_pid(hub_lock(folders))
    if pid is None:
        return [warn("hub", "does not run", f"every command that needs it starts it; {START}")]
    try:
        facts = ask_running_hub(folders, "status", ask_gateway=False)
    except MdxError as error:
        return [bad("hub", f"process {pid}: {error}", "mdx logs hub; then mdx down and mdx up")]
    zygote = int(facts["hub"]["zygote"])
    found = [ok("hub", f"process {pid} answers")]
    if _lives(zygote):
        found.append(ok("zygote", f"process {zygote} is ready to start agents"))
    else:
        found.append(warn("zygote", f"process {zygote} is gone", "the next mdx run makes another"))
    return found


def check_runs(folders: Folders) -> list[Finding]:
    """Does each run have a living agent?"""
    if running_pid(hub_lock(folders)) is None:
        return []
    runs = ask_running_hub(folders, "ps")
    without = [
        bad(
            "agents",
            f"run {run['run']} ({run['app']}) has no living agent",
            f"the hub makes another within seconds; if not: mdx stop {run['run']}",
        )
        for run in runs
        if not run["agent"] or not _lives(int(run["agent"]))
    ]
    return without or [ok("agents", f"{len(runs)} runs, each with its agent" if runs else "no run")]


def check_device(folders: Folders, now: float) -> list[Finding]:
    """Has this device joined, and how long is its certificate good?"""
    name = "device"
    if running_pid(hub_lock(folders)) is None:
        return [warn(name, NOT_ASKED, START)]
    device = ask_running_hub(folders, "status", ask_gateway=False)["device"]
    if device is None:
        return [warn(name, "has not joined", "mdx up (all on one machine), or mdx join CODE")]
    if "error" in device:
        return [warn(name, f"not known: {device['error']}", "mdx unlock")]
    return [
        ok(name, f"{device['device']} of {device['tenant']}"),
        check_end(
            "device certificate",
            float(device["certificate_ends_at"]),
            now,
            do="see that control answers: it is renewed at the next mdx run; else join anew",
        ),
    ]


def check_gateway(folders: Folders) -> list[Finding]:
    """What the gateway agrees on with this device."""
    return _check_service(folders, "gateway")


def check_control(folders: Folders) -> list[Finding]:
    """What control agrees on with this device, and what time it is there."""
    return _check_service(folders, "control")


def _check_service(folders: Folders, part: str) -> list[Finding]:
    if running_pid(hub_lock(folders)) is None:
        return [warn(part, NOT_ASKED, START)]
    asked = {"ask_gateway": part == "gateway", "ask_control": part == "control"}
    device = ask_running_hub(folders, "status", **asked)["device"]
    if device is None or part not in device:
        return [warn(part, "not asked: this device has not joined", "mdx up, or mdx join CODE")]
    facts: Mapping[str, Any] = device[part]
    where = f"{facts['name']} at {facts['host']}:{facts['port']}"
    if "error" in facts:
        return [
            bad(
                part,
                f"{where}: {facts['error']}",
                "on an all-in-one machine: mdx up; else see that this machine has a way there, "
                f"and ask whoever runs it for mdx doctor --role {part}",
            )
        ]
    negotiated = f"{where}: {facts['version']}, {facts['cipher']}, group {facts['group']}"
    return [ok(part, negotiated), *_check_skew(facts)]


def _check_skew(facts: Mapping[str, Any]) -> list[Finding]:
    if "clock_behind_seconds" not in facts:
        return []
    behind = float(facts["clock_behind_seconds"])
    if abs(behind) <= MAX_SKEW_SECONDS:
        return [ok("clock and control", f"differ by {abs(behind):.1f} s")]
    which = "behind" if behind > 0 else "ahead of"
    return [
        bad(
            "clock and control",
            f"this clock is {abs(behind):.0f} s {which} control's",
            "set the one that is wrong: certificates and tickets depend on both",
        )
    ]


def _lives(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")
