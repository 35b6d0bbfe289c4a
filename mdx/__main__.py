"""`mdx`: the launcher when it is `mdx run`, the command line with all its libraries otherwise."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """The entry point of the console script and of `python -m mdx`."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["run"] and arguments[1:2] not in (["--help"], ["-h"]):
        from mdx.launcher import main as launch

        sys.exit(launch(arguments[1:]))
    from mdx.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
