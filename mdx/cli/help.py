"""`mdx help [TOPIC]`: pages about what is not one command, and the help of each command."""

from __future__ import annotations

import io
import re
import shutil
import sys

import click
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Heading, Markdown
from rich.text import Text

from mdx.cli.showing import show_table
from mdx.help_topics import page, summary, topics

__all__ = ["help"]

MAX_WIDTH = 100


@click.command()
@click.argument(
    "topic",
    required=False,
    metavar="[TOPIC|COMMAND]",
    shell_complete=lambda context, parameter, typed: [
        topic for topic in topics() if topic.startswith(typed)
    ],
)
@click.pass_context
def help(context: click.Context, topic: str | None) -> None:
    """Read about a topic, or list the topics.

    The name of a command shows that command's own help.
    """
    parent = context.parent
    if topic is None:
        show_table(
            ("topic", "about"), [(name, summary(name)) for name in topics()], empty="no topics"
        )
        click.echo("\nmdx help TOPIC shows one; mdx help COMMAND (or COMMAND --help) a command's.")
    elif topic not in topics() and parent is not None and _show_command(parent, topic):
        return
    else:
        _show_page(page(topic))


def _show_command(parent: click.Context, name: str) -> bool:
    """The help of a command. False when there is no such command."""
    group = parent.command
    command = group.get_command(parent, name) if isinstance(group, click.Group) else None
    if command is None:
        return False
    with click.Context(command, info_name=name, parent=parent) as context:
        click.echo(command.get_help(context))
    return True


def _show_page(markdown: str) -> None:
    """Like a manual page: through the pager on a terminal that is too small for it."""
    columns, lines = shutil.get_terminal_size()
    terminal = sys.stdout.isatty()
    written = io.StringIO()
    console = Console(
        file=written,
        width=min(columns, MAX_WIDTH),
        force_terminal=terminal,
        no_color=None if terminal else True,
    )
    console.print(_Page(markdown, hyperlinks=False))
    lines_ = (line.rstrip() for line in written.getvalue().splitlines())
    text = re.sub("\n{3,}", "\n\n", "\n".join(lines_)).strip("\n")
    if terminal and text.count("\n") + 2 > lines:
        click.echo_via_pager(text + "\n")
    else:
        click.echo(text)


class _Heading(Heading):
    """At the left, as in a manual; rich would put it into a box."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.tag == "h2":
            yield Text("")
        yield Text(self.text.plain, style="bold underline" if self.tag == "h1" else "bold")


class _Page(Markdown):
    elements = Markdown.elements | {"heading_open": _Heading}
