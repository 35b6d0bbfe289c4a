"""The pages of `mdx help`: all there, installed, and right about codes and commands."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

import mdx
from mdx.cli import commands
from mdx.errors import MdxError
from mdx.help_topics import FIRST, page, summary, topics
from tunnel import RefusalCode

ROOT = Path(mdx.__file__).parent.parent


def test_the_promised_topics_come_first() -> None:
    assert tuple(topics()[: len(FIRST)]) == FIRST


def test_a_wheel_has_them() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included["docs/help"] == "mdx/help"


@pytest.mark.parametrize("topic", FIRST)
def test_each_begins_with_a_title_and_one_sentence(topic: str) -> None:
    title, first, *_ = page(topic).split("\n\n")
    assert title.startswith("# mdx: ")
    assert summary(topic) == first.replace("\n", " ")
    assert first.endswith(".")
    assert len(first) < 100


@pytest.mark.parametrize("topic", ["nope", "../../README", "", "start.md", "/etc/passwd"])
def test_no_other_file_is_a_topic(topic: str) -> None:
    with pytest.raises(MdxError, match="no help on"):
        page(topic)


def test_every_refusal_is_explained() -> None:
    rows = set(re.findall(r"^\| ([A-Z_]+) \|", page("errors"), re.MULTILINE))
    assert rows == {code.value for code in RefusalCode}


def mentioned() -> list[tuple[str, list[str]]]:
    """(topic, words) of every `mdx …` in code of the pages."""
    found = []
    for topic in topics():
        lines = re.findall(r"`(mdx [^`]+)`", page(topic).replace("\n", " "))
        lines += re.findall(r"^    (mdx [^#|\n]+)", page(topic), re.MULTILINE)
        found += [(topic, shlex.split(text.split(" -- ")[0])[1:]) for text in lines]
    return found


def test_commands_and_options_that_are_named_are_there() -> None:
    pairs = mentioned()
    assert len(pairs) > 50
    for topic, words in pairs:
        with click.Context(commands) as context:
            command: click.Command | None = commands
            while isinstance(command, click.Group) and words:
                name = words.pop(0)
                command = command.get_command(context, name)
                assert command is not None, (topic, name)
            assert command is not None
            known = {option for one in command.get_params(context) for option in one.opts}
            usage = f"{command.help} {command.options_metavar}"
            for word in words:
                if word.startswith("--"):
                    assert word in known or word in usage, (topic, command.name, word)
