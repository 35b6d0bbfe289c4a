"""All checks of a role, at once, each within a time limit: what hangs is said to hang.

A check is a plain function that gives findings. It runs in a thread that is left behind when its
time is over, so one keyring that never answers cannot keep the others from being told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import trio

from mdx.container.pointed import NOTICE
from mdx.doctor import clocks, hub, keeping, kernel, services, storage
from mdx.doctor.findings import Finding, bad, ok, warn
from mdx.errors import MdxError
from mdx.folders import Folders
from tunnel import TunnelError
from vault import KeyringName, VaultError, now

__all__ = ["CHECK_SECONDS", "Check", "Part", "Role", "checks_of", "examine", "roles_here"]

CHECK_SECONDS = 2.0  # of each check; all run at once, so also of all together


class Role(StrEnum):
    """What a machine is used as."""

    DEVICE = "device"
    GATEWAY = "gateway"
    CONTROL = "control"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """`look()` may block and may raise our own errors. `name` is for when it does.

    `must_answer` says what to do about something that hangs, where that is as bad as its absence.
    """

    name: str
    look: Callable[[], Finding | Sequence[Finding]]
    must_answer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The findings of one role."""

    role: Role
    findings: list[Finding]


def roles_here(folders: Folders, state: Path) -> list[Role]:
    """What this machine seems to be: a gateway's host has its state, everything else is a device.

    An all-in-one machine is all of them.
    """
    served = [role for role in (Role.GATEWAY, Role.CONTROL) if services.has_part(state, role)]
    device = folders.vault.is_dir() or not served
    return [Role.DEVICE, *served] if device else served


def checks_of(
    role: Role, folders: Folders, state: Path, config: Path | None, environ: Mapping[str, str]
) -> list[Check]:
    """The checks of one role, in the order in which they are shown."""
    match role:
        case Role.DEVICE:
            return _device_checks(folders, config, environ)
        case Role.GATEWAY:
            checks = [
                _clock(),
                _folders(storage.check_folders, [state, state / "gateway"]),
                Check(name="gateway", look=lambda: services.check_gateway_service(state)),
                Check(name="host", look=lambda: services.check_backends(state)),
            ]
            if services.has_part(state, "site"):
                checks.append(Check(name="site", look=lambda: services.check_site_service(state)))
            return checks
        case Role.CONTROL:
            return [
                _clock(),
                _folders(storage.check_folders, [state, state / "control"]),
                Check(name="disk", look=lambda: storage.check_disk(state / "control")),
                Check(
                    name="control",
                    look=lambda: services.check_control_service(state),
                    must_answer="mdx logs control; restart it",
                ),
            ]


def _device_checks(
    folders: Folders, config: Path | None, environ: Mapping[str, str]
) -> list[Check]:
    return [
        _clock(),
        Check(
            name="time seen",
            look=lambda: clocks.check_highest_time(_vault_status(folders)),
        ),
        Check(name="keeper", look=lambda: keeping.check_keeper(folders)),
        *(_keyring(name) for name in keeping.keyrings_of_this_system()),
        _folders(storage.check_folders, storage.state_folders(folders)),
        Check(name="disk", look=lambda: storage.check_disk(folders.home)),
        Check(name="audit", look=lambda: storage.check_audit(folders.audit)),
        Check(name="configuration", look=lambda: storage.check_configuration(config, environ)),
        Check(
            name="hub",
            look=lambda: hub.check_hub(folders),
            must_answer="mdx logs hub; then mdx down and mdx up",
        ),
        Check(name="agents", look=lambda: hub.check_runs(folders)),
        Check(name="device", look=lambda: hub.check_device(folders, now().wall)),
        Check(
            name="control",
            look=lambda: hub.check_control(folders),
            must_answer="see that this machine has a way to it; a firewall may drop packets",
        ),
        Check(
            name="gateway",
            look=lambda: hub.check_gateway(folders),
            must_answer="see that this machine has a way to it; a firewall may drop packets",
        ),
        Check(name="kernel", look=_kernel_and_level),
    ]


async def examine(checks: Sequence[Check], *, seconds: float = CHECK_SECONDS) -> list[Finding]:
    """The findings of all checks, in their order. Takes `seconds` at most."""
    found: dict[int, list[Finding]] = {}

    async def look(index: int, check: Check) -> None:
        found[index] = [_slow(check, seconds)]
        with trio.move_on_after(seconds):
            found[index] = await trio.to_thread.run_sync(
                _findings, check, abandon_on_cancel=True, limiter=limiter
            )

    limiter = trio.CapacityLimiter(max(1, len(checks)))
    async with trio.open_nursery() as nursery:
        for index, check in enumerate(checks):
            nursery.start_soon(look, index, check)
    return [finding for index in range(len(checks)) for finding in found[index]]


def _slow(check: Check, seconds: float) -> Finding:
    if check.must_answer:
        return bad(check.name, f"gives no answer within {seconds:g} s", check.must_answer)
    return warn(check.name, f"not known: it took longer than {seconds:g} s", "try again later")


def _findings(check: Check) -> list[Finding]:
    try:
        found = check.look()
    except (MdxError, VaultError, TunnelError, OSError) as error:
        return [bad(check.name, str(error), getattr(error, "hint", "") or "mdx logs hub")]
    except Exception as error:
        # Whatever a broken machine makes us stumble over: the other checks are still wanted.
        return [bad(check.name, f"the check itself failed ({type(error).__name__})", "report it")]
    return [found] if isinstance(found, Finding) else list(found)


def _clock() -> Check:
    return Check(
        name="clock",
        look=lambda: clocks.check_clock(now(), synchronised=clocks.is_synchronised()),
    )


def _keyring(name: KeyringName) -> Check:
    return Check(name=f"keyring {name}", look=lambda: keeping.check_keyring(name))


def _folders(look: Callable[[Sequence[Path]], list[Finding]], paths: Sequence[Path]) -> Check:
    return Check(name="folders", look=lambda: look(paths))


def _vault_status(folders: Folders) -> dict[str, object]:
    try:
        return dict(hub.ask_running_hub(folders, "vault.status"))
    except MdxError:
        return {}  # the hub's own check says so


def _kernel_and_level() -> list[Finding]:
    findings = kernel.check_kernel()
    lacking = kernel.lacking_for_higher_levels(findings)
    later = (
        f"this kernel lacks what they need: {', '.join(lacking)}"
        if lacking
        else "this kernel has what they need"
    )
    level = ok(
        "level",
        f"runs reach {NOTICE}",
        f"none is higher in this version; levels 2 and 3 come with a later one, and {later}",
    )
    return [*findings, level]
