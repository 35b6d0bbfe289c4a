"""`mdx completion SHELL`: the script that makes Tab complete commands, options and apps."""

from __future__ import annotations

import os

import click
from click.shell_completion import CompletionItem, get_completion_class

from mdx.cli.showing import json_option, show_json
from mdx.errors import MdxError
from mdx.policy import load_found

__all__ = ["VARIABLE", "completion", "teach"]

VARIABLE = "_MDX_COMPLETE"
_WHERE = {
    "bash": "mdx completion bash > ~/.local/share/bash-completion/completions/mdx",
    "zsh": "mdx completion zsh > ~/.zfunc/_mdx   (a folder of your fpath), then compinit",
    "fish": "mdx completion fish > ~/.config/fish/completions/mdx.fish",
}


@click.command()
@click.argument("shell", type=click.Choice(sorted(_WHERE)))
@json_option
def completion(shell: str, as_json: bool) -> None:
    """Print the completion script of a shell.

    \b
      bash   mdx completion bash > ~/.local/share/bash-completion/completions/mdx
      zsh    mdx completion zsh > ~/.zfunc/_mdx   (a folder of your fpath), then compinit
      fish   mdx completion fish > ~/.config/fish/completions/mdx.fish

    To try it in this shell: eval "$(mdx completion bash)". App names are those of the mdx.toml that
    would be used; no daemon is asked.
    """
    script = _script(shell)
    if as_json:
        show_json({"shell": shell, "script": script, "install": _WHERE[shell]})
    else:
        click.echo(script)


def _script(shell: str) -> str:
    complete = get_completion_class(shell)
    if complete is None:
        raise MdxError(f"there is no completion for {shell}")
    # The template itself: click's own way would start the shell to ask for its version.
    made = complete(click.Command("mdx"), {}, "mdx", VARIABLE)
    return made.source_template % made.source_vars()


def teach(command: click.Command) -> None:
    """Let every argument of `command` that is an app, or the command of a run, be completed."""
    if isinstance(command, click.Group):
        for below in command.commands.values():
            teach(below)
    for parameter in command.params:
        if not isinstance(parameter, click.Argument):
            continue
        if parameter.name == "app" or parameter.metavar == "RUN|APP":
            parameter.type = _App()
        elif parameter.name == "command" and parameter.type is click.UNPROCESSED:
            parameter.type = _File()


class _App(click.types.StringParamType):
    """The apps of the mdx.toml that would be used; none where it cannot be read."""

    name = "app"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        try:
            apps = load_found(ctx.params.get("config"), os.environ).apps
        except MdxError:
            return []
        return [CompletionItem(name) for name in sorted(apps) if name.startswith(incomplete)]


class _File(click.types.UnprocessedParamType):
    name = "command"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]
