from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from mdx.certificate_key import CertificateKey
from mdx.control.client import ControlClient, ControlRefused, ControlUnreachable
from mdx.control.face import Answer, Caller, Face, Fields, Route
from mdx.control.own_certificate import OwnCertificate
from mdx.control.service import serve
from mdx.errors import MdxError

if TYPE_CHECKING:
    from tests.mdx.control.conftest import Control, StartControl


async def test_nobody_there_is_said_with_what_to_do(start_control: StartControl) -> None:
    async with start_control() as control:
        device = await control.device()
        code = control.join_code()
    with pytest.raises(ControlUnreachable, match="cannot be reached") as caught:
        await device.client.status()
    assert str(control.address.port) in str(caught.value)
    assert caught.value.hint
    with pytest.raises(ControlUnreachable, match="cannot be reached"):
        await ControlClient.enroll(code, CertificateKey().request())


async def test_a_text_that_is_no_code_goes_nowhere() -> None:
    with pytest.raises(MdxError, match="not a join code"):
        await ControlClient.enroll("hello", CertificateKey().request())


async def test_another_name_is_not_the_control_that_was_joined(control: Control) -> None:
    device = await control.device()
    client = ControlClient(
        host=control.address.host,
        port=control.address.port,
        name="other",
        ca=control.root.certificate_pem.encode(),
        certificate=device.enrolled.certificate.encode(),
        key=device.key.pem(),
    )
    with pytest.raises(ControlUnreachable, match="not the control service"):
        await client.status()


async def test_a_key_that_is_not_the_certificates_is_said_and_not_shown(control: Control) -> None:
    device = await control.device()
    stranger = CertificateKey()
    with pytest.raises(MdxError, match="of no use") as caught:
        control.client(device.enrolled.certificate, stranger)
    assert "BEGIN" not in str(caught.value)
    for text in (repr(device.client), repr(device.key)):
        assert "PRIVATE" not in text


@asynccontextmanager
async def impostor(control: Control, answer: Answer | int) -> AsyncIterator[ControlClient]:
    """A control service with the right certificate that gives this answer to everything."""

    def say(caller: Caller, fields: Fields) -> Answer:
        assert isinstance(answer, dict)
        return answer

    routes = {("POST", "/v1/tickets"): Route(answer=say, fields={"app": str, "key_hash": str})}
    device = await control.device()
    own = OwnCertificate(control.enrollment, name="control", clock=control.clock)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            await serve(
                listeners,
                context=own.context,
                face=Face(routes, record=lambda event, **fields: None),
                clock=control.clock,
                log=lambda event, **facts: None,
            )

        nursery.start_soon(run)
        yield ControlClient(
            host="127.0.0.1",
            port=listeners[0].socket.getsockname()[1],
            name="control",
            ca=control.root.certificate_pem.encode(),
            certificate=device.enrolled.certificate.encode(),
            key=device.key.pem(),
        )
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("answer", [{}, {"ticket": 1}, {"ticket": None}])
async def test_an_answer_that_lacks_something_is_an_error(control: Control, answer: Any) -> None:
    async with impostor(control, answer) as client:
        with pytest.raises(ControlUnreachable, match="lacks"):
            await client.ticket("payroll", "ab" * 32)


async def test_a_servers_words_cannot_move_the_cursor(control: Control) -> None:
    device = await control.device()
    with pytest.raises(ControlRefused) as caught:
        await device.client.certificate("\x1b[2J", CertificateKey().request(), lifetime_seconds=60)
    assert str(caught.value).isprintable()
