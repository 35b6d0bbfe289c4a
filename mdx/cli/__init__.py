"""The command line. Each file here is a group of commands; none of them does the work itself."""

from __future__ import annotations

import os
import sys
from difflib import get_close_matches
from importlib import import_module

import click

from mdx.errors import MdxError
from mdx.printable import printable
from tunnel import TunnelError
from vault import VaultError

__all__ = ["commands", "main"]

USAGE_STATUS = 2
# Each command and the module that has it, loaded when it is asked for: together they take half a
# second, most of them alone a tenth of that.
_MODULES = {
    "agent": "agent",
    "audit": "audit",
    "completion": "completion",
    "connect": "connect",
    "device": "device",
    "doctor": "doctor",
    "down": "up",
    "explain": "explain",
    "gateway": "gateway",
    "help": "help",
    "join": "up",
    "leave": "up",
    "lock": "access",
    "login": "access",
    "logs": "logs",
    "logout": "access",
    "policy": "policy",
    "ps": "runs",
    "run": "runs",
    "service": "service",
    "status": "status",
    "stop": "runs",
    "token": "token",
    "unlock": "access",
    "up": "up",
    "vault": "vault",
}


class _Commands(click.Group):
    def list_commands(self, context: click.Context) -> list[str]:
        return list(_MODULES)

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        near = get_close_matches(args[0], _MODULES, n=1)
        if near and args[0] not in _MODULES and not args[0].startswith("-"):
            context.fail(f"No such command '{args[0]}'. Did you mean '{near[0]}'?")
        return super().resolve_command(context, args)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in _MODULES:
            return None
        command: click.Command = getattr(import_module(f"mdx.cli.{_MODULES[name]}"), name)
        if "_MDX_COMPLETE" in os.environ:  # the shell asks what could stand here
            from mdx.cli.completion import teach

            teach(command)
        return command


@click.command(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: mdx up. Then: mdx run payroll -- curl https://intranet.corp.internal/",
)
@click.version_option(package_name="mdx-toolkit", prog_name="mdx")
def commands() -> None:
    """Any process in its own expiring vault and its own tunnel: mdx run APP -- COMMAND."""


def main() -> None:
    """Run the command in `sys.argv`; every error of ours is one line and its exit code."""
    try:
        commands(standalone_mode=False)
    except click.UsageError as error:
        error.show()
        sys.exit(USAGE_STATUS)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except (MdxError, VaultError, TunnelError) as error:
        hint = getattr(error, "hint", "")
        sys.stderr.write(printable(f"mdx: {error}\n" + (f"     {hint}\n" if hint else "")))
        sys.exit(getattr(error, "exit_code", 1))
