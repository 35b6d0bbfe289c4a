"""The launcher's command line. What it does with it stands in tests/scenarios."""

import pytest

from mdx.errors import RunFailed
from mdx.launcher import main, parse


def test_app_and_command() -> None:
    options = parse(["payroll", "--", "curl", "-v", "https://x/"])

    assert (options.app, options.command) == ("payroll", ["curl", "-v", "https://x/"])
    assert not options.quiet
    assert options.status_fd is None


def test_the_two_dashes_may_be_left_out() -> None:
    assert parse(["payroll", "curl", "--", "-v"]).command == ["curl", "--", "-v"]


def test_options_come_before_the_app_and_the_commands_are_its_own() -> None:
    options = parse(
        ["--quiet", "--status-fd=5", "--minimum-level", "1", "payroll", "--", "x", "--quiet"]
    )

    assert (options.quiet, options.status_fd, options.minimum_level) == (True, 5, 1)
    assert options.command == ["x", "--quiet"]


def test_a_relative_configuration_is_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/usr")

    assert parse(["--config", "lib/mdx.toml", "a", "b"]).config == "/usr/lib/mdx.toml"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "an app and a command"),
        (["payroll"], "an app and a command"),
        (["payroll", "--"], "an app and a command"),
        (["--loud", "payroll", "--", "x"], "unknown option --loud"),
        (["--status-fd"], "--status-fd needs a value"),
        (["--status-fd", "two", "a", "b"], "takes a number, not 'two'"),
        (["--status-fd", "٣", "a", "b"], "takes a number"),
        (["--minimum-level", "4", "a", "b"], "1, 2 or 3, not 4"),
    ],
)
def test_bad_arguments_say_what_is_wrong_and_how_it_goes(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RunFailed, match=says):
        parse(arguments)

    assert main(arguments) == 125
    assert "usage: mdx run" in capsys.readouterr().err


def test_a_status_descriptor_that_is_not_open(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--status-fd", "987", "a", "--", "b"]) == 125
    assert "--status-fd 987: no such descriptor is open" in capsys.readouterr().err
