"""The text of systemd units: what `mdx service install` writes. Pure.

Directives are those of systemd.exec(5) and systemd.service(5) that a user's manager can apply
without rights of its own: seccomp filters and limits, no mount namespaces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mdx.errors import MdxError

__all__ = ["HUB", "MARK", "Unit", "agent_unit", "hub_unit"]

HUB = "mdx-hub.service"
MARK = "# Written by `mdx service install`. Changes belong into a drop-in: systemctl --user edit "
# What decides where state and mdx.toml are, so that a service finds what its installer saw.
VARIABLES = ("MDX_HOME", "MDX_CONFIG", "XDG_CONFIG_HOME", "XDG_DATA_HOME")

_HARDENING = """\
NoNewPrivileges=yes
UMask=0077
LimitCORE=0
LockPersonality=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
"""
# KillMode=process: what a hub forked is nobody's but its run's, and survives a restart of the hub.
_KEPT = """\
Type=notify
NotifyAccess=main
Restart=on-failure
RestartSec=1
RestartPreventExitStatus=2 78
WatchdogSec=60
KillMode=process
TimeoutStopSec=30
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One unit: the name of its file and the text in it."""

    name: str
    text: str


def hub_unit(python: str, log: str, environ: Mapping[str, str]) -> Unit:
    """The hub of this user. A hub that was started on demand gives way to it."""
    command = [python, "-P", "-m", "mdx.log_files", log, "mdx.hub", "--take-over"]
    return _unit(HUB, "mdx hub: leases, secrets and agents of this user", command, environ)


def agent_unit(python: str, app: str, options: Sequence[str], environ: Mapping[str, str]) -> Unit:
    """A standing agent of `app`; `options` are those of `mdx agent APP`."""
    return _unit(
        f"mdx-agent-{app}.service",
        f"mdx agent of {app}",
        [python, "-P", "-m", "mdx", "agent", app, *options],
        environ,
        before=f"Wants={HUB}\nAfter={HUB}\n",
        reload="ExecReload=/bin/kill -HUP $MAINPID\n",
    )


def _unit(
    name: str,
    description: str,
    command: Sequence[str],
    environ: Mapping[str, str],
    *,
    before: str = "",
    reload: str = "",
) -> Unit:
    variables = "".join(
        f"Environment={_quoted(f'{variable}={environ[variable]}')}\n"
        for variable in VARIABLES
        if environ.get(variable)
    )
    start = " ".join(_quoted(word).replace("$", "$$") for word in command)
    text = (
        f"{MARK}{name}\n"
        f"[Unit]\nDescription={description}\n{before}\n"
        f"[Service]\nExecStart={start}\n{reload}{variables}{_KEPT}{_HARDENING}\n"
        "[Install]\nWantedBy=default.target\n"
    )
    return Unit(name=name, text=text)


def _quoted(word: str) -> str:
    """One word by the rules of systemd.syntax(7). Raises: MdxError for what no unit can hold."""
    if not word.isprintable():
        raise MdxError(f"{word!a} cannot stand in a unit", exit_code=78)
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'
