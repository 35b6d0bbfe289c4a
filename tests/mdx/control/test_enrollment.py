"""Who may join by which code, what devices are called, and how they end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mdx.certificate_key import CertificateKey
from mdx.control.client import ControlClient, ControlRefused, Enrolled
from mdx.control.errors import RequestRefused

if TYPE_CHECKING:
    from tests.mdx.control.conftest import Control


async def join(code: str, name: str = "") -> Enrolled:
    return await ControlClient.enroll(code, CertificateKey().request(), name=name)


def code_for(control: Control, name: str, **options: Any) -> str:
    wanted = {"uses": 1, "lifetime_seconds": 60.0} | options
    return control.enrollment.new_join_code(name=name, now=control.clock(), **wanted).code


async def test_a_device_is_called_what_its_code_says(control: Control) -> None:
    code = code_for(control, "laptop", tags={"team": "pay"})
    with pytest.raises(ControlRefused, match="for the device laptop, not for desk") as caught:
        await join(code, "desk")
    assert caught.value.status == 403
    enrolled = await join(code)  # the refused one used nothing up
    assert enrolled.name == "laptop"
    (device,) = control.enrollment.devices()
    assert (device.name, device.tags) == ("laptop", {"team": "pay"})
    (record,) = control.audit.of("device.enrolled")
    assert record["name"] == "laptop"
    assert device.join_code == record["join_code"]


async def test_a_code_without_a_name_lets_the_device_say(control: Control) -> None:
    assert (await join(control.join_code(), "desk")).name == "desk"
    assert (await join(control.join_code())).name == ""
    with pytest.raises(ControlRefused, match="a name is 1 to 63"):
        await join(control.join_code(), "Desk\x1b[2J")


async def test_a_key_numbers_its_devices_and_ends_with_its_uses(control: Control) -> None:
    key = code_for(control, "ci", is_key=True, uses=3, tags={"pool": "a"})
    names = [(await join(key)).name, (await join(key, "runner-9")).name, (await join(key)).name]
    assert names == ["ci-1", "runner-9", "ci-3"]
    with pytest.raises(ControlRefused, match="not good"):
        await join(key)
    assert [device.tags for device in control.enrollment.devices()] == [{"pool": "a"}] * 3
    (entry,) = control.enrollment.join_codes(control.clock())
    assert (entry.uses, entry.uses_left) == (3, 0)


async def test_one_key_of_a_name_at_a_time(control: Control) -> None:
    code_for(control, "ci", is_key=True)
    with pytest.raises(RequestRefused, match="there is a key ci already") as caught:
        code_for(control, "ci", is_key=True)
    assert caught.value.status == 409
    code_for(control, "ci")  # a one-time code for a device of that name is another thing
    control.clock.ahead += 61
    code_for(control, "ci", is_key=True)


async def test_a_code_that_was_removed_is_good_for_nothing(control: Control) -> None:
    code = code_for(control, "laptop")
    (entry,) = control.enrollment.join_codes(control.clock())
    control.enrollment.remove_join_code(entry.id, control.clock())
    with pytest.raises(ControlRefused, match="not good"):
        await join(code)
    assert control.audit.of("join_code.removed") == [{"tenant": "home", "join_code": entry.id}]
    with pytest.raises(RequestRefused, match="no such join code"):
        control.enrollment.remove_join_code(entry.id, control.clock())


@pytest.mark.parametrize(
    "options",
    [
        {"name": ""},
        {"name": "A"},
        {"name": "a/b"},
        {"name": "a", "tags": {"K": "v"}},
        {"name": "a", "tags": {"k": "v\n"}},
        {"name": "a", "tags": {"k": 1}},
        {"name": "a", "tags": {"k": "v" * 65}},
        {"name": "a", "tags": {f"k{i}": "v" for i in range(17)}},
        {"name": "a", "uses": 1001},
    ],
)
async def test_odd_keys_are_refused(control: Control, options: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused) as caught:
        code_for(control, is_key=True, **options)
    assert caught.value.status == 400
    assert control.enrollment.join_codes(control.clock()) == []


async def test_a_device_that_left_is_one_no_longer(control: Control) -> None:
    device = await control.device()
    await device.client.leave()
    for again in (
        device.client.leave(),
        device.client.status(),
        device.client.ticket("payroll", "ab" * 32),
    ):
        with pytest.raises(ControlRefused) as caught:
            await again
        assert caught.value.status == 403
    (listed,) = control.enrollment.devices()
    assert listed.left
    assert listed.revoked_at is not None
    assert control.audit.of("device.left")[0]["device"] == device.enrolled.device


async def test_gateways_learn_whom_they_must_cut_off(control: Control) -> None:
    gateway = control.gateway()
    assert await gateway.revocations() == frozenset()
    revoked, good = await control.device(), await control.device()
    control.enrollment.revoke(revoked.enrolled.device, control.clock())
    assert await gateway.revocations() == {revoked.enrolled.device}
    with pytest.raises(ControlRefused) as caught:  # whom, is not for devices to know
        await good.client.revocations()
    assert caught.value.status == 403
    control.clock.ahead += 20 * 86_400
    assert control.enrollment.revoked(control.clock()) == [revoked.enrolled.device]
    control.clock.ahead += 11 * 86_400  # by now no certificate of it is good by its dates
    assert control.enrollment.revoked(control.clock()) == []


async def test_a_device_is_seen_when_it_asks_for_something(control: Control) -> None:
    device = await control.device()

    def seen_at() -> float:
        (listed,) = control.enrollment.devices()
        assert listed.seen_at is not None
        return listed.seen_at

    joined_at = seen_at()
    await device.client.ticket("payroll", "ab" * 32)
    assert seen_at() == joined_at  # to the minute
    control.clock.ahead += 120
    await device.client.ticket("payroll", "ab" * 32)
    assert seen_at() >= joined_at + 119
    control.clock.ahead += 120
    await device.client.certificate("payroll", CertificateKey().request(), lifetime_seconds=60)
    assert seen_at() >= joined_at + 239
