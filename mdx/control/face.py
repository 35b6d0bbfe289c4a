"""A face of control: a table of routes, who may use each, and one way to say no.

Rules of this file:
- A request names the fields that its route takes and no others, each of its type; nothing is
  guessed.
- Who asks is decided by the connection, before the body is looked at.
- Refusals are `{"error": {"message", "hint"}}` with the right status, and they are recorded; what
  cannot be recorded or stored is 503, and then nothing happened.
- Routes run in a thread, since they wait for the disk.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import trio

from mdx.control.errors import RequestRefused
from mdx.control.sta import Record
from mdx.control.store import StoreFailed
from mdx.errors import AuditUnwritable
from mdx.sparing import Sparing
from tunnel import Request, Response, error_response
from vault import now

__all__ = ["MAX_BODY_BYTES", "Answer", "Caller", "Face", "Fields", "Route"]

MAX_BODY_BYTES = 16 * 1024  # a certificate request and a few names are under 2 KiB
MAX_WHOLE = 2**53  # beyond it a float does not hold every whole number
MAX_WAITING = 64  # requests in threads or waiting for one; beyond that control says 503 at once

Fields: TypeAlias = dict[str, Any]
Answer: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who is at the other end: fields for the audit. Faces add what their routes need to know."""

    facts: Mapping[str, str]
    known: bool = True  # by a certificate, or by the kernel; of others little is recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """`answer(caller, fields)` runs in a thread, after `admit(caller)` let the caller in.

    `admit` and `answer` raise RequestRefused. `fields` are the body's names and types; those of
    `optional` may be left out.
    """

    answer: Callable[[Any, Fields], Answer]
    admit: Callable[[Any], None] = lambda caller: None
    fields: Mapping[str, type] = field(default_factory=dict)
    optional: Mapping[str, type] = field(default_factory=dict)


class Face:
    """`routes` by method and target. `record` writes the audit."""

    def __init__(self, routes: Mapping[tuple[str, str], Route], *, record: Record) -> None:
        self._routes = routes
        self._record = record
        self._targets = {target for _, target in routes}
        self._waiting = 0
        self._strangers = Sparing()

    async def answer(self, caller: Caller, request: Request) -> Response:
        """The answer to one request. Raises nothing that a client could cause."""
        if self._waiting >= MAX_WAITING:
            return error_response(503, "control is busy", "try again in a moment")
        self._waiting += 1
        try:
            return await trio.to_thread.run_sync(self._answer, caller, request)
        finally:
            self._waiting -= 1

    def _answer(self, caller: Caller, request: Request) -> Response:
        try:
            try:
                route = self._find(request)
                route.admit(caller)
                answer = route.answer(caller, _read_fields(request, route))
            except RequestRefused as refused:
                if not refused.recorded:
                    self._record_refusal(caller, request, refused)
                return error_response(refused.status, str(refused), refused.hint)
        except (AuditUnwritable, StoreFailed):
            # The text would name our files; the operator finds the cause with `mdx doctor`.
            return error_response(
                503, "control cannot record what it does", "its operator must look at its disk"
            )
        return Response(status=200, body=json.dumps(answer).encode() + b"\n")

    def _find(self, request: Request) -> Route:
        if request.target not in self._targets:
            raise RequestRefused("there is nothing here", status=404)
        route = self._routes.get((request.method, request.target))
        if route is None:
            raise RequestRefused("this is not asked for with that method", status=405)
        return route

    def _record_refusal(self, caller: Caller, request: Request, refused: RequestRefused) -> None:
        left_out: dict[str, int] = {}
        if not caller.known:
            count = self._strangers.let(now().boot)
            if count is None:
                return
            left_out = {"left_out": count}
        known = request.target in self._targets
        self._record(
            "request.refused",
            target=f"{request.method} {request.target}" if known else "unknown",
            status=refused.status,
            reason=refused.reason,
            **left_out,
            **caller.facts,
        )


def _read_fields(request: Request, route: Route) -> Fields:
    """Raises: RequestRefused (400)."""
    wanted = {**route.fields, **route.optional}
    if not wanted:
        if request.body:
            raise RequestRefused("this request takes no body", status=400)
        return {}
    try:
        fields = json.loads(request.body)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise RequestRefused("the body must be a JSON object", status=400)
    if not route.fields.keys() <= fields.keys() <= wanted.keys():
        more = f", and may have {', '.join(route.optional)}" if route.optional else ""
        raise RequestRefused(
            f"the body must have exactly {', '.join(route.fields)}{more}", status=400
        )
    for name, value in fields.items():
        type_ = wanted[name]
        if type_ is float and type(value) is int and abs(value) < MAX_WHOLE:
            fields[name] = value = float(value)
        if type(value) is not type_:
            raise RequestRefused(f"{name} must be {_TYPES[type_]}", status=400)
    return fields


_TYPES = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
}
