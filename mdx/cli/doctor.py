"""`mdx doctor`: what is wrong on this machine, and what to do about it."""

from __future__ import annotations

import os
from pathlib import Path

import click
import trio

from mdx.cli.asking import config_option
from mdx.cli.showing import json_option, show_json, show_table
from mdx.doctor.examination import Check, Part, Role, checks_of, examine, roles_here
from mdx.doctor.findings import Finding, Standing, verdict
from mdx.folders import find_folders

__all__ = ["doctor"]


@click.command()
@click.option(
    "--role",
    "roles",
    type=click.Choice([role.value for role in Role]),
    multiple=True,
    help="What to check this machine as; can be given more than once [default: what it is].",
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder that holds gateway/ and control/ [default: where mdx up keeps them].",
)
@click.option("--problems", is_flag=True, help="Show only what is not in order.")
@config_option
@json_option
def doctor(
    roles: tuple[str, ...], state: Path | None, problems: bool, config: Path | None, as_json: bool
) -> None:
    """Check this machine and say what to do.

    Clock, vault, disk, audit, configuration, hub, control, gateway, kernel. Nothing is started
    and nothing is changed; it takes three seconds at most. The exit status is 1 when something
    is bad, 0 otherwise.
    """
    folders = find_folders(os.environ)
    state = (state or folders.home).absolute()
    wanted = [Role(role) for role in dict.fromkeys(roles)] or roles_here(folders, state)
    checks = {role: checks_of(role, folders, state, config, os.environ) for role in wanted}
    for role in wanted[1:]:  # the machine has one clock
        checks[role] = [check for check in checks[role] if check.name != "clock"]
    parts = trio.run(_examine, checks)
    worst = verdict([finding for part in parts for finding in part.findings])
    if as_json:
        show_json(
            {
                "verdict": worst.value,
                "roles": {
                    part.role.value: [finding.to_dict() for finding in part.findings]
                    for part in parts
                },
            }
        )
    else:
        _show(parts, worst, only_problems=problems)
    if worst is Standing.BAD:
        raise SystemExit(1)


async def _examine(checks: dict[Role, list[Check]]) -> list[Part]:
    """All roles at once."""
    found: dict[Role, list[Finding]] = {}

    async def look(role: Role) -> None:
        found[role] = await examine(checks[role])

    async with trio.open_nursery() as nursery:
        for role in checks:
            nursery.start_soon(look, role)
    return [Part(role=role, findings=found[role]) for role in checks]


def _show(parts: list[Part], worst: Standing, *, only_problems: bool) -> None:
    for part in parts:
        rows: list[tuple[str, str, str]] = []
        for finding in part.findings:
            if only_problems and finding.standing is Standing.OK:
                continue
            rows.append((finding.standing.value, finding.name, finding.what))
            if finding.do:
                rows.append(("", "", f"→ {finding.do}"))
        show_table(("", part.role.value, ""), rows, empty=f"{part.role.value}: all in order")
        click.echo()
    click.echo(_SUMMARY[worst])


_SUMMARY = {
    Standing.OK: "All is in order.",
    Standing.WARN: "Nothing is broken; what says warn is worth a look.",
    Standing.BAD: "Something is broken: begin with the first line that says bad.",
}
