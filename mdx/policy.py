"""mdx.toml: the apps and their policies, checked strictly.

`python -m mdx.policy` prints its JSON Schema.

Rules of this file:
- A file that exists but is wrong is an error, one line for each problem: file, line, key, value and
  what is allowed. Nothing is ever replaced by a default.
- A policy that this version does not enforce is an error too: whoever wrote it relies on it.
- A setting without effect is an error unless it merely keeps closed what is closed anyway.
- The working folder never brings a policy, and a file that others may write brings none either.
"""

from __future__ import annotations

import json
import os
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from mdx.durations import DURATION_PATTERN, parse_duration
from mdx.errors import ConfigError
from mdx.policy_errors import CONTRADICTION, problems, syntax_problem
from mdx.policy_source import KeyPath, Source, locate, shown
from tunnel import BadRule, Pattern, PatternKind, is_identity_name

__all__ = [
    "SYSTEM_CONFIG",
    "AppPolicy",
    "Config",
    "RouteEntry",
    "find_config",
    "load",
    "load_found",
    "schema",
    "user_config",
]

NAME = "mdx.toml"
SYSTEM_CONFIG = Path("/etc/mdx") / NAME
MAX_BYTES = 1024 * 1024
MAX_ROUTES = 10_000  # for one app; a grant with them fits a message to the zygote
MAX_REASON = 200
MAX_KEY_LIFETIME = "168h"  # `max_offline` of the catalogue, which no key may outlive


# The models ---------------------------------------------------------------------------------------


def _pattern(text: str) -> str:
    try:
        Pattern.parse(text)
    except BadRule as error:
        raise ValueError(str(error).removeprefix(f"{text!a}: ")) from None
    return text


def _exclusion(text: str) -> str:
    if Pattern.parse(_pattern(text)).kind not in (PatternKind.NAME, PatternKind.SUFFIX):
        raise ValueError("an exclusion is a name or *.SUFFIX; for an address write a direct route")
    return text


def _reason(text: str) -> str:
    if len(text) > MAX_REASON or not text.isprintable():
        raise ValueError(f"write one line of at most {MAX_REASON} printable characters")
    return text


def _key_lifetime(value: object) -> object:
    if value == "off":
        raise ValueError("a key always expires: write how long it lives")
    seconds = parse_duration(value if isinstance(value, str) else "")
    if seconds > parse_duration(MAX_KEY_LIFETIME):
        raise ValueError(f"a key lives for {MAX_KEY_LIFETIME} at most")
    return value


def _level(value: object) -> object:
    if type(value) is not int:  # a Literal takes true and 1.0 for 1
        raise ValueError("use one of: 1, 2, 3")
    return value


def _ca_file(value: object, info: ValidationInfo) -> object:
    """A path relative to the configuration file, made whole."""
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("write the path of a PEM file in quotes")
    if value.startswith("~"):
        raise ValueError("write the path in full, or relative to this file: ~ is not expanded")
    folder = (info.context or {}).get("folder", Path("/"))
    return Path(folder, value)


_PatternText = Annotated[
    str,
    AfterValidator(_pattern),
    Field(
        examples=["git.corp.internal", "*.corp.internal:443", "10.0.0.0/8", "[fd12::/16]:8000-8100"]
    ),
]
_ExclusionText = Annotated[str, AfterValidator(_exclusion), Field(examples=["*.example.com"])]


def _drop_null(described: dict[str, Any]) -> None:
    """TOML has no null: what may be left out has no value that says so."""
    for setting in described["properties"].values():
        if setting.get("default", ...) is None:
            del setting["default"]
        if alternatives := setting.pop("anyOf", None):
            setting.update(next(each for each in alternatives if each != {"type": "null"}))


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


_ROUTE_VERBS = ("tunnel", "direct", "block")


def _one_verb(described: dict[str, Any]) -> None:
    _drop_null(described)
    described["oneOf"] = [{"required": [verb]} for verb in _ROUTE_VERBS]


class RouteEntry(_Strict):
    """One ranked rule: exactly one of tunnel, direct and block, and what it is about."""

    model_config = ConfigDict(json_schema_extra=_one_verb, title="Route")

    tunnel: _PatternText | None = Field(default=None, description="Goes through the gateway.")
    direct: _PatternText | None = Field(default=None, description="Goes out from this machine.")
    block: _PatternText | None = Field(default=None, description="Is refused.")
    reason: Annotated[str, AfterValidator(_reason)] = Field(
        default="",
        json_schema_extra={"maxLength": MAX_REASON},
        description="Shown to whoever asks why, and written to the audit.",
    )

    @property
    def verb(self) -> Literal["tunnel", "direct", "block"]:
        """What happens to what the rule is about."""
        if self.tunnel is not None:
            return "tunnel"
        return "direct" if self.direct is not None else "block"

    @property
    def pattern(self) -> str:
        """What the rule is about, as it was written."""
        return self.tunnel or self.direct or self.block or ""

    @model_validator(mode="after")
    def _has_one_verb(self) -> RouteEntry:
        if len([verb for verb in _ROUTE_VERBS if getattr(self, verb) is not None]) != 1:
            raise ValueError("write exactly one of tunnel, direct and block in each route")
        return self


def _same_for_editors(described: dict[str, Any]) -> None:
    """What `AppPolicy` finds contradictory, in the words of JSON Schema."""
    _drop_null(described)
    unrestricted = {
        "properties": {"network_access": {"const": "unrestricted"}},
        "required": ["network_access"],
    }
    reverse = {"properties": {"split_tunnel": {"const": "reverse"}}, "required": ["split_tunnel"]}
    described["dependentRequired"] = {
        "routes": ["network_access"],
        "split_tunnel": ["network_access"],
        "exclusions": ["network_access"],
    }
    described["allOf"] = [
        {"if": unrestricted, "then": {"properties": {"split_tunnel": False, "exclusions": False}}},
        {"if": {"required": ["exclusions"]}, "then": reverse},
    ]


class AppPolicy(_Strict):
    """What one app may do."""

    model_config = ConfigDict(json_schema_extra=_same_for_editors, title="App")

    network_access: Literal["blocked", "unrestricted", "tunneled"] = Field(
        default="blocked",
        description="blocked: no network. unrestricted: everything goes out directly, unless a"
        " route says otherwise. tunneled: by split_tunnel and the routes.",
    )
    split_tunnel: Literal["on", "off", "reverse"] = Field(
        default="on",
        description="For tunneled access. on: only what the routes list, the rest is blocked."
        " off: everything tunnels unless a route says otherwise. reverse: the same, but the"
        " exclusions go direct.",
    )
    routes: Annotated[tuple[RouteEntry, ...], Field(strict=False)] = Field(
        default=(),
        max_length=MAX_ROUTES,
        description="Ranked rules: the first that matches decides.",
    )
    exclusions: Annotated[tuple[_ExclusionText, ...], Field(strict=False)] = Field(
        default=(),
        max_length=MAX_ROUTES,
        description="Names and *.SUFFIXES that go direct when split_tunnel is reverse.",
    )
    key_lifetime: Annotated[
        str,
        BeforeValidator(_key_lifetime),
        WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN, "examples": ["90s", "8h"]}),
    ] = Field(
        default="8h",
        description="How long a lease lasts: after it the app's key is gone until the next sign-in."
        f" A whole number and s, m, h or d; {MAX_KEY_LIFETIME} at most.",
    )
    on_lease_end: Literal["cut", "stop"] = Field(
        default="cut",
        description="What happens to a running app when its lease ends. cut: its connections are"
        " closed and it has no vault, but it goes on. stop: it is ended.",
    )
    ca_file: Annotated[
        Path | None,
        BeforeValidator(_ca_file),
        WithJsonSchema({"type": "string", "minLength": 1, "pattern": "^[^~]"}),
    ] = Field(
        default=None,
        description="A PEM file of certificate authorities that the app trusts besides the"
        " system's; relative to mdx.toml.",
    )
    unattended: bool = Field(
        default=False,
        description="Leases are given and renewed without asking, while the vault is open.",
    )
    audit_required: bool = Field(
        default=True, description="A connection that cannot be written to the audit is refused."
    )
    minimum_level: Annotated[Literal[1, 2, 3], BeforeValidator(_level)] = Field(
        default=1,
        description="The weakest confinement to run with: 1 pointed, 2 fenced, 3 sealed. The best"
        " that can be reached is always taken.",
    )

    _source: Source = PrivateAttr(default_factory=Source)

    @property
    def key_lifetime_seconds(self) -> float:
        return parse_duration(self.key_lifetime)

    def origin(self, app: str, *path: str | int) -> str:
        """Where a setting stands, such as `mdx.toml:12 apps.payroll.routes[2]`."""
        return self._source.origin(("apps", app, *path))

    def is_set(self, name: str) -> bool:
        """Whether the file says so, and not the default."""
        return name in self.model_fields_set

    @model_validator(mode="after")
    def _is_consistent(self) -> AppPolicy:
        if found := list(self._contradictions()):
            raise PydanticCustomError(CONTRADICTION, "settings contradict", {"problems": found})
        return self

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        for name in ("routes", "split_tunnel", "exclusions"):
            if self.is_set(name) and not self.is_set("network_access"):
                text = 'has no effect without network_access = "tunneled"'
                yield name, f'{text} or "unrestricted"' if name == "routes" else text
            elif self.is_set(name) and name != "routes" and self.network_access == "unrestricted":
                yield name, 'has no effect with network_access = "unrestricted": remove it'
            elif name == "exclusions" and self.is_set(name) and self.split_tunnel != "reverse":
                yield name, 'needs split_tunnel = "reverse"; otherwise write direct routes'


def _app_name(name: str) -> str:
    if not is_identity_name(name):
        raise ValueError(
            "name an app by 1 to 63 of a-z, 0-9, '.', '_' and '-', letter or digit first"
        )
    return name


_AppName = Annotated[
    str,
    AfterValidator(_app_name),
    WithJsonSchema({"type": "string", "pattern": "^[a-z0-9][a-z0-9._-]{0,62}$"}),
]


class _File(_Strict):
    """The apps that may be run on this machine, and what each may do."""

    model_config = ConfigDict(title=NAME)

    apps: dict[_AppName, AppPolicy] = Field(
        default_factory=dict,
        description="A table [apps.NAME] for each app.",
        json_schema_extra={"additionalProperties": False},
    )


def _known(place: KeyPath) -> list[str]:
    """The settings that may stand there."""
    model: type[BaseModel] = RouteEntry
    if len(place) in (0, 2):
        model = AppPolicy if place else _File
    return sorted(model.model_fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A configuration file that is right."""

    path: Path
    apps: dict[str, AppPolicy]

    def app(self, name: str) -> AppPolicy:
        """The policy of an app. Raises: ConfigError that lists the apps there are."""
        try:
            return self.apps[name]
        except KeyError:
            known = ", ".join(sorted(self.apps)) or "none"
            raise ConfigError(
                f"no app is named {shown(name)} in {self.path}", hint=f"its apps: {known}"
            ) from None


# Finding and loading ------------------------------------------------------------------------------


def user_config(environ: Mapping[str, str]) -> Path:
    """Where this user's own mdx.toml stands, or would: `$MDX_HOME`, else the XDG config folder.

    Raises: ConfigError when $MDX_HOME is not a whole path.
    """
    return _candidates(environ)[0]


def find_config(
    explicit: Path | None, environ: Mapping[str, str], *, system: Path = SYSTEM_CONFIG
) -> Path | None:
    """The configuration file to use: the first of these that exists.

    `explicit` (--config) and `$MDX_CONFIG`, which must exist; `$MDX_HOME/mdx.toml`; the user's,
    `${XDG_CONFIG_HOME:-~/.config}/mdx/mdx.toml`; the system's, `/etc/mdx/mdx.toml`.

    Raises: ConfigError.
    """
    if explicit is not None:
        return _existing(Path(os.path.abspath(explicit)), "--config")
    if named := environ.get("MDX_CONFIG"):
        return _existing(_whole(named, "MDX_CONFIG"), "MDX_CONFIG")
    return next((path for path in [*_candidates(environ), system] if os.path.lexists(path)), None)


def load_found(explicit: Path | None, environ: Mapping[str, str]) -> Config:
    """Find the configuration and load it. Raises: ConfigError, also when there is none."""
    path = find_config(explicit, environ)
    if path is None:
        raise ConfigError(
            f"there is no {NAME} yet",
            hint=f"write {user_config(environ)} (see mdx help policies); mdx up makes a sample",
        )
    return load(path)


def load(path: Path) -> Config:
    """Read and check a configuration file. Raises: ConfigError with one line for each problem."""
    whole = Path(os.path.abspath(path))
    text = _decoded(path, _read(path))
    try:
        content = tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{path}: it is nested too deeply") from None
    except ValueError as error:
        raise ConfigError(syntax_problem(path, text, error)) from None
    source = Source(path.name, locate(text))
    try:
        file = _File.model_validate(content, context={"folder": whole.parent})
    except ValidationError as error:
        raise ConfigError(problems(path, source, error, _known)) from None
    except RecursionError:
        raise ConfigError(f"{path}: it is nested too deeply") from None
    for policy in file.apps.values():
        policy._source = source
    return Config(path=whole, apps=file.apps)


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of mdx.toml, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **_File.model_json_schema(),
    }


def _candidates(environ: Mapping[str, str]) -> list[Path]:
    found = []
    if home := environ.get("MDX_HOME"):
        found.append(_whole(home, "MDX_HOME") / NAME)
    folder = Path(environ.get("XDG_CONFIG_HOME") or "")
    if not folder.is_absolute():  # the XDG specification: such a value is to be ignored
        folder = Path(environ.get("HOME") or os.path.expanduser("~")) / ".config"
    if folder.is_absolute():
        found.append(folder / "mdx" / NAME)
    return found


def _whole(text: str, variable: str) -> Path:
    path = Path(text)
    if not path.is_absolute() or "\0" in text:
        raise ConfigError(
            f"{variable} is {shown(text)}",
            hint="write a whole path: the working folder is not used",
        )
    return path


def _existing(path: Path, named_by: str) -> Path:
    try:
        if os.path.lexists(path):
            return path
    except ValueError:  # a NUL, which no path can hold
        raise ConfigError(f"{named_by} names {shown(str(path))}, which is no path") from None
    raise ConfigError(f"{path} does not exist", hint=f"{named_by} names it")


def _read(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            _demand_safe(path, os.fstat(descriptor))
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{path}: it cannot be read: {why}") from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path}: it is larger than {MAX_BYTES} bytes")
    return content


def _demand_safe(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"{path}: it is not a regular file")
    if found.st_uid not in (0, os.geteuid()):
        raise ConfigError(f"{path}: it belongs to uid {found.st_uid}, neither to you nor to root")
    if found.st_mode & 0o022:
        raise ConfigError(
            f"{path}: others may write to it (mode {stat.S_IMODE(found.st_mode):04o})",
            hint=f"chmod go-w {path}",
        )


def _decoded(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: it is not UTF-8 text") from None


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2))
