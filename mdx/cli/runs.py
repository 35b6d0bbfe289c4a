"""`mdx run` (its help; the launcher runs it), `mdx ps`, `mdx stop`."""

from __future__ import annotations

import sys

import click

from mdx import launcher
from mdx.cli.asking import ask_hub
from mdx.cli.showing import json_option, show_json, show_table, since

__all__ = ["ps", "run", "stop"]


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    options_metavar="[--config FILE] [--status-fd N] [--minimum-level 1|2|3] [--quiet]",
)
@click.argument("app")
@click.argument("command", nargs=-1, metavar="-- COMMAND...", required=True, type=click.UNPROCESSED)
def run(app: str, command: tuple[str, ...]) -> None:
    """Run COMMAND as APP: its tunnel, its vault, its policy.

    \b
      mdx run payroll -- curl https://intranet.corp.internal/
      mdx run payroll -- git clone https://intranet.corp.internal/git/handbook.git

    \b
    --config FILE         use this mdx.toml instead of the one that is found
    --status-fd N         write one line of JSON about the run to descriptor N
    --minimum-level N     refuse to run when less confinement is reached (1, 2 or 3)
    --quiet               do not print which level was reached

    The exit status is the command's own. mdx's own failures are 125 (could not start
    or keep the command), 126 (not executable) and 127 (not found).
    """
    sys.exit(launcher.main([app, "--", *command]))


@click.command()
@json_option
def ps(as_json: bool) -> None:
    """List what runs now, and as which app.

    The kind is `run` for a command of mdx run, `agent` for an mdx agent.
    """
    runs = ask_hub("ps")
    if as_json:
        show_json(runs)
        return
    rows = [
        (
            run["run"],
            run["kind"],
            run["app"],
            run["command"],
            run["pid"],
            run["level"],
            since(run["started_at"]),
        )
        for run in runs
    ]
    columns = ("run", "kind", "app", "command", "pid", "level", "since")
    show_table(columns, rows, empty="nothing runs")


@click.command()
@click.argument("name", metavar="RUN|APP")
def stop(name: str) -> None:
    """Stop one run, or every run of an app.

    By SIGTERM, and SIGKILL after ten seconds.
    """
    stopped = ask_hub("stop", name=name)
    click.echo("stopped: " + ", ".join(stopped))
