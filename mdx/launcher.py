"""`mdx run APP -- COMMAND`: ask the hub, build the container, become the command.

The launcher executes the command in its own place, so terminal, job control, signals and exit
status are the command's own. Its own failures end with 125, and with 126 or 127 when the command
cannot be executed or found, as in other container tools. It imports the standard library only:
what it takes is what every `mdx run` costs.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Sequence

from mdx.errors import HubRefused, MdxError, RunFailed
from mdx.folders import find_folders
from mdx.hub.starting import connect_or_start
from mdx.hub.wire import call
from mdx.printable import printable
from mdx.process import become_subreaper
from mdx.run_listener import run_listener

__all__ = ["CONFIG_VARIABLES", "USAGE", "Options", "main", "parse"]

USAGE = (
    "usage: mdx run [--config FILE] [--status-fd N] [--minimum-level 1|2|3] [--quiet]"
    " APP -- COMMAND [ARGUMENT ...]"
)
PROBE_SECONDS = 10.0
# A SOCKS5 greeting (RFC 1928, section 3) and the answer of a listener that serves us.
_PROBE, _PROBE_ANSWER = b"\x05\x01\x00", b"\x05\x00"
# Where the hub looks for mdx.toml is the caller's environment, not the hub's.
CONFIG_VARIABLES = ("MDX_CONFIG", "MDX_HOME", "XDG_CONFIG_HOME", "HOME")


TYPE_CHECKING = False  # typing's own, without the 9 ms that importing it takes
if TYPE_CHECKING:
    from typing import Any, NoReturn


class Options:
    """What stood on the command line. (No dataclass: importing those takes 7 ms.)"""

    def __init__(self) -> None:
        self.app = ""
        self.command: list[str] = []
        self.config: str | None = None
        self.status_fd: int | None = None
        self.minimum_level: int | None = None
        self.quiet = False


def main(arguments: Sequence[str]) -> int:
    """Run the command. Returns only when that fails: 125, 126, 127, or 130 after Ctrl-C."""
    try:
        _run(parse(arguments))
    except MdxError as error:
        hint = f"; {error.hint}" if error.hint else ""
        sys.stderr.write(f"mdx: {printable(f'{error}{hint}')}\n")
        return error.exit_code if error.exit_code in (126, 127) else RunFailed.exit_code
    except OSError as error:
        sys.stderr.write(f"mdx: {printable(str(error))}\n")
        return RunFailed.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def parse(arguments: Sequence[str]) -> Options:
    """Raises: RunFailed with the usage when the arguments make no sense."""
    options = Options()
    rest = list(arguments)
    while rest and rest[0].startswith("-"):
        name, _, inline = rest.pop(0).partition("=")
        if name == "--quiet":
            options.quiet = True
            continue
        if name not in ("--config", "--status-fd", "--minimum-level"):
            raise RunFailed(f"unknown option {name}", hint=USAGE)
        if not inline and not rest:
            raise RunFailed(f"{name} needs a value", hint=USAGE)
        value = inline or rest.pop(0)
        if name == "--config":
            options.config = os.path.abspath(value)
        elif not value.isascii() or not value.isdigit():
            raise RunFailed(f"{name} takes a number, not {value!r}", hint=USAGE)
        elif name == "--status-fd":
            options.status_fd = int(value)
        elif value not in ("1", "2", "3"):
            raise RunFailed(f"--minimum-level is 1, 2 or 3, not {value}", hint=USAGE)
        else:
            options.minimum_level = int(value)
    if rest:
        options.app = rest.pop(0)
    if rest and rest[0] == "--":
        rest.pop(0)
    if not options.app or not rest:
        raise RunFailed("an app and a command are needed", hint=USAGE)
    options.command = rest
    return options


def _run(options: Options) -> NoReturn:
    if options.status_fd is not None:
        _check_descriptor(options.status_fd)
    folders = find_folders(os.environ)
    with run_listener() as listener:
        address = listener.getsockname()
        with connect_or_start(folders) as hub:
            granted = _ask(hub, options, listener.fileno())
    _probe(address)
    from mdx.container import pointed

    variables = pointed.proxy_variables(*address)
    if trust := granted["trust"]:
        variables |= pointed.trust_variables(trust["bundle"], trust["extra"])
    _report(options, granted, pointed.NOTICE)
    become_subreaper()
    # Python ignores these two; the command must not inherit that.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    _execute(options.command, os.environ | variables)


def _ask(hub: socket.socket, options: Options, listener: int) -> dict[str, Any]:
    request = {
        "op": "run",
        "app": options.app,
        "command": os.path.basename(options.command[0]),  # arguments may hold what is secret
        "minimum_level": options.minimum_level or 1,
        "config": options.config,
        "environ": {name: os.environ[name] for name in CONFIG_VARIABLES if name in os.environ},
    }
    while True:
        try:
            return dict(call(hub, request, [listener]))
        except HubRefused as refused:
            if not refused.needs or not _has_terminal():
                raise
            sys.stderr.write(f"mdx: {refused}\n")
            _sign_in(hub, options, refused.needs, request["environ"])


def _sign_in(hub: socket.socket, options: Options, needs: str, environ: object) -> None:
    """Ask on the terminal for what the hub says it needs, and unlock the app."""
    request = {"op": "unlock", "app": options.app, "config": options.config, "environ": environ}
    if needs == "passphrase":
        import base64
        import getpass

        typed = getpass.getpass("passphrase of the vault: ").encode()
        request["passphrase"] = base64.b64encode(typed).decode()
    else:
        sys.stderr.write(f"unlock {options.app} now? [Y/n] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("", "y", "yes"):
            raise RunFailed(f"{options.app} stays locked")
    call(hub, request)


def _has_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def _probe(address: tuple[str, int]) -> None:
    """The start barrier: the agent answers on its listener, and takes this process for its run.

    Raises: RunFailed when it does not.
    """
    try:
        with socket.create_connection(address, timeout=PROBE_SECONDS) as connection:
            connection.sendall(_PROBE)
            answer = connection.recv(2, socket.MSG_WAITALL)
    except OSError as error:
        raise RunFailed(f"the agent does not answer: {error}", hint="mdx status") from None
    if answer != _PROBE_ANSWER:
        raise RunFailed("the agent does not take this process for its run", hint="mdx status")


def _report(options: Options, granted: dict[str, Any], notice: str) -> None:
    if options.status_fd is not None:
        facts = {key: granted[key] for key in ("run", "app", "level")}
        line = json.dumps(facts | {"notice": notice, "pid": os.getpid()}) + "\n"
        try:
            os.write(options.status_fd, line.encode())
        except OSError as error:
            raise RunFailed(f"--status-fd {options.status_fd}: {error.strerror}") from None
        os.close(options.status_fd)
    if not options.quiet:
        sys.stderr.write(f"mdx: {options.app}: {notice}\n")
        sys.stderr.flush()


def _check_descriptor(descriptor: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError:
        raise RunFailed(
            f"--status-fd {descriptor}: no such descriptor is open",
            hint=f"open it in the shell: {descriptor}>status.json",
        ) from None


def _execute(command: list[str], environment: dict[str, str]) -> NoReturn:
    try:
        os.execvpe(command[0], command, environment)  # noqa: S606 - this is what `mdx run` is for
    except (FileNotFoundError, NotADirectoryError):
        raise RunFailed(f"{command[0]}: command not found", exit_code=127) from None
    except OSError as error:
        raise RunFailed(f"{command[0]}: {error.strerror}", exit_code=126) from None
