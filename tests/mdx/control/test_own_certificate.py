from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mdx.control.own_certificate import OwnCertificate
from mdx.errors import AuditUnwritable

if TYPE_CHECKING:
    from tests.mdx.control.conftest import Control

DAY = 86_400.0


async def test_it_is_renewed_in_time_and_not_before(control: Control) -> None:
    own = OwnCertificate(control.enrollment, name="control", clock=control.clock)
    first = own.context()
    control.clock.ahead = 19 * DAY
    assert own.context() is first
    control.clock.ahead = 21 * DAY
    second = own.context()
    assert second is not first
    assert own.context() is second
    issued = [fields for fields in control.audit.of("certificate.issued")]
    assert {fields["role"] for fields in issued} == {"control"}
    assert len({fields["key_hash"] for fields in issued}) == len(issued) == 3


async def test_without_a_record_there_is_no_certificate(control: Control) -> None:
    control.audit.broken = True
    with pytest.raises(AuditUnwritable):
        OwnCertificate(control.enrollment, name="control", clock=control.clock)
