"""What `mdx explain` concludes from what both ends say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mdx.explaining import Answered, AtGateway, Explained, LookUp
from tunnel import Explanation


def here(verb: str) -> Explanation:
    return Explanation(
        destination="a.test:443",
        address=None,
        verb=verb,
        rule=f"{verb} *",
        origin="mdx.toml:1",
        reason="",
        guard="",
        steps=(),
        steps_left_out=0,
        change="changing mdx.toml:1",
    )


def lease(state: str) -> dict[str, Any]:
    return {"state": state, "seconds_left": None, "why": ""}


BLOCK = Explained(app="a", here=here("BLOCK"), lease=lease("unlocked"))
TUNNEL = replace(BLOCK, here=here("TUNNEL"))
DIRECT = replace(BLOCK, here=here("DIRECT"))
GOOD = LookUp(addresses=(Answered(address="192.0.2.1", dialled=True, says="DIRECT *"),))
GUARDED = LookUp(
    addresses=(Answered(address="127.0.0.1", dialled=False, says="address guard"),),
    change='a rule that names the address: "DIRECT 127.0.0.1"',
)
ALLOWED = AtGateway(verdict="ALLOW", rule="allow a")
REFUSED = AtGateway(verdict="REFUSE", code="NOT_ALLOWED", rule="no", hint="ask")
UNNAMED = AtGateway(verdict="REFUSE", code="NAME_NOT_FOUND", rule="no such name")
UNKNOWN = AtGateway(verdict="UNKNOWN", problem="it does not answer")


@pytest.mark.parametrize(
    ("explained", "outcome"),
    [
        (BLOCK, "refused here"),
        (replace(BLOCK, lease=lease("locked")), "refused here"),
        (TUNNEL, "through the tunnel"),
        (replace(TUNNEL, gateway=ALLOWED), "through the tunnel"),
        (replace(TUNNEL, gateway=REFUSED), "refused by the gateway"),
        (replace(TUNNEL, gateway=UNKNOWN), "through the tunnel, if the gateway lets"),
        (replace(TUNNEL, lease=lease("expired")), "refused here until mdx unlock a"),
        (replace(TUNNEL, lease=lease("never unlocked")), "refused here until mdx unlock a"),
        (replace(TUNNEL, lease=lease("expired"), unattended=True), "through the tunnel"),
        (
            replace(TUNNEL, lease=lease("locked"), unattended=True),
            "refused here until mdx unlock a",
        ),
        (replace(TUNNEL, lease=lease("unknown")), "through the tunnel"),
        (DIRECT, "directly"),
        (replace(DIRECT, look_up=GOOD), "directly"),
        (replace(DIRECT, look_up=GUARDED), "refused here: no address may be dialled"),
        (replace(DIRECT, look_up=LookUp(problem="no name")), "refused here: no name"),
    ],
)
def test_the_outcome(explained: Explained, outcome: str) -> None:
    assert explained.outcome == outcome
    assert explained.to_dict()["outcome"] == outcome


@pytest.mark.parametrize(
    ("explained", "change"),
    [
        (TUNNEL, "changing mdx.toml:1"),
        (replace(TUNNEL, gateway=REFUSED), "at the gateway: ask"),
        (
            replace(TUNNEL, gateway=UNNAMED),
            "a name server of the gateway, or its [[hosts]], that knows the name",
        ),
        (replace(DIRECT, look_up=GUARDED), GUARDED.change),
        (replace(DIRECT, look_up=GOOD), "changing mdx.toml:1"),
    ],
)
def test_what_would_change_it_is_said_of_the_end_that_decided(
    explained: Explained, change: str
) -> None:
    assert explained.change == change
    assert explained.to_dict()["change"] == change
