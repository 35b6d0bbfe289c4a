"""What is wrong with mdx.toml, in words: file, line, key, value and what is allowed.

    mdx.toml:4: apps.payroll.split_tunnel: "sometimes" is not allowed; use one of: on, off, reverse

Every problem is one line of printable characters, whatever stands in the file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mdx.policy_source import KeyPath, Source, line_of_error, path_text, shown

__all__ = ["CONTRADICTION", "NOT_ENFORCED", "problems", "syntax_problem"]

MAX_PROBLEMS = 50  # more is for nobody to read; how many were left out is said

CONTRADICTION = "contradiction"
"""The type of the error that a model raises with `problems`, pairs of key and text."""

_LATER = """
    active_poll allow_exec allowed_urls alternate_gateway app_passcode app_update_grace
    auth_failures_before_lock authentication background_gateway background_services
    background_ticket_lifetime block_debugger block_exec block_logs block_root browser
    certificate_label client_idle_timeout clipboard credentials encrypt_home encryption_exclusions
    erase_on_lock forced_timeout gateways grant hide inactivity_timer inbound_documents intercept
    key_class key_scope limits log_files log_level log_size max_offline noncompliant obscure_urls
    open_in open_in_exceptions paste pin_expiry pin_history pin_length pin_type
    reauthentication_period require_disk_encryption require_pq security_group session_required
    session_required_grace session_timeout split_dns timeout_warning udp upstream_proxy wipe_offline
"""
NOT_ENFORCED = frozenset(_LATER.split())
"""What the catalogue of policies has, and this version does not enforce."""

_UNQUOTED = re.compile(r"^\s*[^#=]+=\s*([A-Za-z][\w.*-]*)\s*(?:#.*)?$")
_CHOICES = {
    "bool_type": "use one of: true, false",
    "string_type": 'write text in quotes: "..."',
    "model_type": "write a table",
    "model_attributes_type": "write a table",
    "dict_type": "write a table",
    "tuple_type": "write an array: [ ... ]",
}


def syntax_problem(path: Path, text: str, error: ValueError) -> str:
    """Why `tomllib` could not read the file."""
    line = line_of_error(error, text)
    place = f"{path}:{line}" if line else str(path)
    lines = text.splitlines()
    unquoted = _UNQUOTED.match(lines[line - 1]) if line and line <= len(lines) else None
    if unquoted and unquoted[1] not in ("true", "false", "inf", "nan"):
        return f'{place}: text stands in quotes: "{unquoted[1]}"'
    message = re.sub(r" \(at (?:line [0-9]+, column [0-9]+|end of document)\)", "", str(error))
    return f"{place}: it is not TOML: {ascii(message)[1:-1]}"


def problems(
    path: Path, source: Source, error: ValidationError, known: Callable[[KeyPath], list[str]]
) -> str:
    """One line for each problem, in the order of the file; `known` are the settings of a table."""
    found: list[tuple[int, str]] = []
    for details in error.errors(include_url=False):
        for key_path, text in _explained(details, known):
            line = source.line(key_path) or 0
            place = f"{path}:{line}" if line else str(path)
            found.append((line, f"{place}: {path_text(key_path)}: {text}"))
    found.sort(key=lambda problem: problem[0])
    lines = [text for _, text in found[:MAX_PROBLEMS]]
    if len(found) > MAX_PROBLEMS:
        lines.append(f"{path}: and {len(found) - MAX_PROBLEMS} more problems")
    return "\n".join(lines)


def _explained(
    details: ErrorDetails, known: Callable[[KeyPath], list[str]]
) -> Iterator[tuple[KeyPath, str]]:
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    path = details["loc"]
    if path[-1:] == ("[key]",) and kind != "extra_forbidden":
        path = path[:-1]  # pydantic's mark for a key that is wrong itself
    if kind == CONTRADICTION:
        for name, text in context["problems"]:
            yield (*path, name), text
    elif kind == "extra_forbidden":
        yield path, _unknown(path, known(path[:-1]))
    elif kind == "literal_error":
        choices = context["expected"].replace("'", "").replace(" or ", ", ")
        yield path, f"{shown(value)} is not allowed; use one of: {choices}"
    elif kind == "value_error" and isinstance(value, dict):
        yield path, str(context["error"])
    elif kind == "value_error":
        yield path, f"{shown(value)} is not allowed; {context['error']}"
    elif kind == "too_long":
        length, most = context["actual_length"], context["max_length"]
        yield path, f"{length} entries; at most {most} are allowed"
    else:
        yield path, f"{shown(value)} is not allowed; {_CHOICES.get(kind, details['msg'])}"


def _unknown(path: KeyPath, known: Sequence[str]) -> str:
    name, place = str(path[-1]), path[:-1]
    if len(place) == 2 and name in NOT_ENFORCED:
        return "not enforced by this version; remove it"
    if len(place) > 2 and name == "proxy":
        return "not enforced by this version; use one of: tunnel, direct, block"
    near = difflib.get_close_matches(name, known, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    return f"no such setting; {meant}known here: {', '.join(known)}"
