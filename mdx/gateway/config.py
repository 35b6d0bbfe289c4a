"""`gateway.toml`: where a gateway listens, who it is, and which app may reach what through it.

    name = "gateway"
    tenant = "home"
    certificate = "gateway.pem"   # paths are relative to this file
    key = "gateway.key"
    ca = "ca.pem"
    audit = "audit"               # a folder for gateway.jsonl
    state = "."                   # a folder for gateway.lock

    [listen]
    host = "0.0.0.0"
    port = 4433

    [control]                     # where tickets are redeemed
    host = "control.example"
    port = 8443
    name = "control"

    [[hosts]]                     # names that this gateway knows by itself
    name = "intranet.corp.internal"
    port = 443
    dial = "10.1.2.3:9443"
    tls = "gateway"               # the gateway shows its certificate there
    ca_file = "corp-ca.pem"       # and demands one of this CA

    [[allow]]                     # what is not listed is refused
    app = "payroll"
    to = ["*.corp.internal:443"]

Rules of this file:
- Strict: no key that is not known, no value of another type, nothing by default that opens a door.
- Every problem is one line with the file, the key, the value and what would be right; all at once.
- The file, and the key that it names, are refused when others could write or read them.
"""

from __future__ import annotations

import difflib
import json
import os
import stat
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from mdx.errors import ConfigError
from tunnel import (
    AllowRules,
    BadRule,
    Destination,
    Pattern,
    Refused,
    is_identity_name,
    parse_destination,
)

__all__ = [
    "AllowEntry",
    "ControlAddress",
    "GatewayConfig",
    "HostEntry",
    "Listen",
    "load",
]

MAX_BYTES = 1024 * 1024  # some ten thousand hosts
DEFAULT_PORT = 4433
CONTROL_PORT = 8443
MAX_SHOWN = 80  # characters of a wrong value in an error


def _identity_name(text: str) -> str:
    if not is_identity_name(text):
        raise ValueError("use lower-case letters, digits, '.', '_' and '-', at most 63")
    return text


def _host(text: str) -> str:
    try:
        return parse_destination(f"[{text}]:1" if ":" in text else f"{text}:1").host
    except Refused as refused:
        raise ValueError(f"not a host name or an address: {refused.rule}") from None


def _pattern(text: str) -> str:
    try:
        Pattern.parse(text)
    except BadRule as error:
        raise ValueError(
            f'{error}; write "HOST:PORT", "*.SUFFIX:PORT" or "10.0.0.0/8:PORT"'
        ) from None
    return text


def _address_and_port(text: str) -> str:
    try:
        address = parse_destination(text).address
    except Refused as refused:
        raise ValueError(f'{refused.rule}; write "ADDRESS:PORT"') from None
    if address is None:
        raise ValueError('a name is not dialled; write "ADDRESS:PORT"')
    return text


def _not_empty(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError("a path is not empty")
    return text


IdentityName = Annotated[str, AfterValidator(_identity_name)]
HostText = Annotated[str, AfterValidator(_host)]
PatternText = Annotated[str, AfterValidator(_pattern)]
PathText = Annotated[str, AfterValidator(_not_empty)]
Port = Annotated[int, Field(ge=1, le=65535)]


class _Table(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Listen(_Table):
    """Where the gateway listens. Port 0 is any free one."""

    host: HostText = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = DEFAULT_PORT


class ControlAddress(_Table):
    """Control's device API, whose certificate says `name`."""

    host: HostText
    port: Port = CONTROL_PORT
    name: IdentityName = "control"


class HostEntry(_Table):
    """A name that leads to one address, past the address guard."""

    name: HostText
    port: Port
    dial: Annotated[str, AfterValidator(_address_and_port)]
    tls: Literal["gateway", "none"] = "none"
    ca_file: PathText | None = None

    @model_validator(mode="after")
    def _ca_goes_with_tls(self) -> Self:
        if (self.tls == "gateway") is not (self.ca_file is not None):
            raise ValueError('ca_file goes with tls = "gateway", and tls = "gateway" with ca_file')
        return self

    @property
    def destination(self) -> Destination:
        return Destination(self.name, self.port)


class AllowEntry(_Table):
    """Destinations that one app may reach."""

    app: IdentityName
    to: Annotated[list[PatternText], Field(min_length=1)]


class GatewayConfig(_Table):
    """A whole `gateway.toml`. Paths in it are relative to the folder of the file."""

    name: IdentityName
    tenant: IdentityName
    certificate: PathText
    key: PathText
    ca: PathText
    audit: PathText = "audit"
    state: PathText = "."
    listen: Listen = Listen()
    control: ControlAddress
    hosts: list[HostEntry] = []
    allow: list[AllowEntry] = []

    @model_validator(mode="after")
    def _each_host_once(self) -> Self:
        seen: dict[Destination, int] = {}
        for index, host in enumerate(self.hosts):
            first = seen.setdefault(host.destination, index)
            if first != index:
                raise ValueError(f"hosts[{index}] is {host.destination} again, as hosts[{first}]")
        return self

    def allow_rules(self) -> AllowRules:
        """The allow list as the gateway asks it; several entries of one app add up."""
        rules: dict[str, list[str]] = {}
        for entry in self.allow:
            rules.setdefault(entry.app, []).extend(entry.to)
        return AllowRules.parse(rules)


def load(path: Path) -> GatewayConfig:
    """Read and check a file. Raises: ConfigError (exit code 78), one line per problem."""
    try:
        data = tomllib.loads(_read(path).decode())
    except UnicodeDecodeError:
        raise ConfigError(f"{path.name}: the file is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path.name}: {_printable(str(error))}") from None
    except RecursionError:
        raise ConfigError(f"{path.name}: brackets are nested too deeply") from None
    try:
        return GatewayConfig.model_validate(data)
    except ValidationError as error:
        lines = [f"{path.name}: {_describe(problem)}" for problem in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def _read(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise ConfigError(f"{path} is not a file")
        if mode & 0o022:
            raise ConfigError(
                f"{path} has mode {stat.S_IMODE(mode):04o}; others could change it",
                hint=f"chmod go-w {path}",
            )
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path} has more than {MAX_BYTES} bytes")
    return content


def _describe(problem: ErrorDetails) -> str:
    """One problem in one line: the key, the value, what would be right."""
    key = _key(problem["loc"])
    value, context = problem["input"], problem.get("ctx", {})
    kind = problem["type"]
    match kind:
        case "missing":
            return f"{key}: this key is missing"
        case "extra_forbidden":
            return f"{key}: there is no such key{_nearest(problem['loc'])}"
        case "literal_error":
            return f"{key}: {_show(value)} is not allowed; use one of: {context['expected']}"
        case "value_error" if isinstance(value, str):
            return f"{key}: {_show(value)}: {context['error']}"
        case "value_error":
            return f"{key}: {context['error']}" if key else str(context["error"])
        case "greater_than_equal" | "less_than_equal":
            low = 0 if problem["loc"] == ("listen", "port") else 1
            return f"{key}: {_show(value)} is not a port; use {low} to 65535"
        case "too_short":
            return f"{key}: the list is empty; name what the app may reach"
    return f"{key}: {_show(value)} is not {_TYPES.get(kind, 'allowed')}"


_TYPES = {
    "string_type": "a text in quotes",
    "int_type": "a whole number",
    "list_type": "a list in brackets",
    "model_type": "a table",
}


def _key(location: Iterable[str | int]) -> str:
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            shown = part if part.replace("-", "_").isidentifier() else _show(part)
            text += f".{shown}" if text else shown
    return text


def _nearest(location: tuple[str | int, ...]) -> str:
    table: type[BaseModel] = (
        _TABLES.get(str(location[0]), GatewayConfig) if location[1:] else GatewayConfig
    )
    known = list(table.model_fields)
    near = difflib.get_close_matches(str(location[-1]), known, n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    return f"{meant or ';'} known are: {', '.join(known)}"


_TABLES: Mapping[str, type[BaseModel]] = {
    "listen": Listen,
    "control": ControlAddress,
    "hosts": HostEntry,
    "allow": AllowEntry,
}


def _printable(text: str) -> str:
    """The parser's text quotes names from the file; it may not bring lines or colours along."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _show(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"
