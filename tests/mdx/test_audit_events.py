"""The catalogue of audit events: closed, documented, and the one that the code goes by."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mdx.audit_events import EVENTS, FIELDS, check_event

ROOT = Path(__file__).parents[2]
FORMAT = (ROOT / "docs" / "audit-format.md").read_text(encoding="utf-8")

Used = tuple[str, str, str, tuple[str, ...]]  # file, line, event, fields


def test_an_event_of_the_catalogue_passes() -> None:
    check_event("run.ended", {"app": "payroll", "run": "0badcafe"})
    check_event("run.ended", {})


@pytest.mark.parametrize("event", ["run.finished", "", "run", "RUN.ENDED"])
def test_an_unknown_event_is_a_programming_error(event: str) -> None:
    with pytest.raises(ValueError, match="is not an audit event"):
        check_event(event, {})


def test_an_unknown_field_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match=r"run\.ended has no field password, secret"):
        check_event("run.ended", {"run": 1, "secret": 2, "password": 3})


def test_every_field_of_an_event_is_explained_and_none_for_nothing() -> None:
    used = {field for event in EVENTS.values() for field in event.fields}
    assert used == set(FIELDS)


def test_names_are_spelt_as_a_chain_demands() -> None:
    for event in EVENTS.values():
        assert re.fullmatch(r"[a-z_]+\.[a-z_]+", event.name)
        assert len(set(event.fields)) == len(event.fields)
        assert set(event.by) <= {"hub", "agent", "gateway", "control"}


def test_no_field_can_hold_a_secret() -> None:
    assert not {"secret", "password", "token", "value", "key", "code_secret"} & set(FIELDS)


def test_the_documentation_lists_every_event_and_field() -> None:
    for event in EVENTS.values():
        fields = ", ".join(f"`{field}`" for field in event.fields)
        row = f"| `{event.name}` | {', '.join(event.by)} | {event.meaning} | {fields} |"
        assert row in FORMAT, row
    for field, meaning in FIELDS.items():
        assert f"| `{field}` | {meaning} |" in FORMAT, field


def used_in(path: Path) -> Iterator[Used]:
    """Every call that names an event: `record("run.ended", app=…)`, `log.append("…", …)`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        called = node.func
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        first = node.args[0]
        if name.strip("_") not in ("record", "record_refusal", "append", "audit"):
            continue
        if isinstance(first, ast.Constant) and isinstance(first.value, str) and "." in first.value:
            fields = tuple(keyword.arg for keyword in node.keywords if keyword.arg is not None)
            place = f"{path.relative_to(ROOT)}:{node.lineno}"
            yield place, name, first.value, fields


USED = [
    used
    for folder in ("mdx", "tunnel")
    for path in (ROOT / folder).rglob("*.py")
    for used in used_in(path)
]


def test_what_the_code_records_is_in_the_catalogue() -> None:
    wrong = []
    for place, _, event, fields in USED:
        try:
            check_event(event, fields)
        except ValueError as error:
            wrong.append(f"{place}: {error}")
    assert not wrong
    assert len(USED) > 20
