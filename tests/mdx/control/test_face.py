from __future__ import annotations

import json
import threading
from typing import Any

import trio
from hypothesis import given
from hypothesis import strategies as st

from mdx.control.errors import RequestRefused
from mdx.control.face import MAX_WAITING, Answer, Caller, Face, Fields, Route
from mdx.control.store import StoreFailed
from tunnel import Request

CALLER = Caller(facts={"peer": "192.0.2.1"})
WANTED = {"name": str, "count": int, "seconds": float}


def _face(records: list[dict[str, Any]] | None = None) -> Face:
    def record(event: str, **fields: Any) -> None:
        if records is not None:
            records.append({"event": event, **fields})

    def echo(caller: Caller, fields: Fields) -> Answer:
        return fields

    def fail(caller: Caller, fields: Fields) -> Answer:
        raise StoreFailed("/a/path/of/ours: disk I/O error")

    def refuse(caller: Caller, fields: Fields) -> Answer:
        raise RequestRefused("no", status=403, hint="ask", reason="known to us alone")

    routes = {
        ("POST", "/echo"): Route(answer=echo, fields=WANTED),
        ("GET", "/nothing"): Route(answer=echo),
        ("GET", "/fail"): Route(answer=fail),
        ("GET", "/refuse"): Route(answer=refuse),
    }
    return Face(routes, record=record)


async def test_a_refusal_tells_the_client_less_than_the_audit() -> None:
    records: list[dict[str, Any]] = []
    answer = await _face(records).answer(CALLER, Request(method="GET", target="/refuse"))
    assert answer.status == 403
    assert json.loads(answer.body) == {"error": {"message": "no", "hint": "ask"}}
    assert records == [
        {
            "event": "request.refused",
            "target": "GET /refuse",
            "status": 403,
            "reason": "known to us alone",
            "peer": "192.0.2.1",
        }
    ]


async def test_what_a_client_invents_is_not_recorded() -> None:
    records: list[dict[str, Any]] = []
    request = Request(method="GET", target="/\x1b[31mred")
    assert (await _face(records).answer(CALLER, request)).status == 404
    assert [record["target"] for record in records] == ["unknown"]


async def test_our_own_faults_do_not_name_our_files() -> None:
    answer = await _face().answer(CALLER, Request(method="GET", target="/fail"))
    assert answer.status == 503
    assert b"/a/path" not in answer.body


async def test_a_whole_number_will_do_for_a_number() -> None:
    body = json.dumps({"name": "a", "count": 1, "seconds": 2}).encode()
    answer = await _face().answer(CALLER, Request(method="POST", target="/echo", body=body))
    assert json.loads(answer.body) == {"name": "a", "count": 1, "seconds": 2.0}


async def test_overload_is_said_at_once_and_passes() -> None:
    let_go = threading.Event()

    def wait(caller: Caller, fields: Fields) -> Answer:
        let_go.wait()
        return {}

    face = Face({("GET", "/wait"): Route(answer=wait)}, record=lambda event, **fields: None)
    request = Request(method="GET", target="/wait")
    statuses: list[int] = []

    async def ask() -> None:
        statuses.append((await face.answer(CALLER, request)).status)

    async with trio.open_nursery() as nursery:
        for _ in range(MAX_WAITING + 3):
            nursery.start_soon(ask)
        try:
            with trio.fail_after(5):
                while len(statuses) < 3:
                    await trio.testing.wait_all_tasks_blocked()
            assert statuses == [503] * 3
        finally:
            let_go.set()
    assert statuses.count(200) == MAX_WAITING
    await ask()
    assert statuses[-1] == 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*WANTED, "x"]), inner, max_size=4)
    ),
    max_leaves=6,
)
BODIES = st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode())


@given(body=BODIES, target=st.sampled_from(["/echo", "/nothing"]))
def test_any_body_gets_an_answer(body: bytes, target: str) -> None:
    method = "POST" if target == "/echo" else "GET"
    answer = trio.run(_face().answer, CALLER, Request(method=method, target=target, body=body))
    assert answer.status in (200, 400)
    if answer.status == 200 and target == "/echo":
        fields = json.loads(body)
        assert set(fields) == set(WANTED)
        assert type(fields["name"]) is str
        assert type(fields["count"]) is int
