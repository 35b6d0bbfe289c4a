"""Caps: what is over one is refused, and what ended gives its place back."""

from __future__ import annotations

from dataclasses import fields

import pytest

from tunnel.errors import RefusalCode, Refused
from tunnel.limits import Limits, Places


def test_places_are_taken_and_given_back() -> None:
    places = Places()
    with places.take("handshakes", at_most=2), places.take("handshakes", at_most=2):
        assert places.taken("handshakes") == 2
        with pytest.raises(Refused) as caught, places.take("handshakes", at_most=2):
            raise AssertionError
        assert caught.value.code is RefusalCode.OVERLOADED
        with places.take("handshakes of another kind", at_most=1):
            assert places.taken("handshakes") == 2
    assert places.taken("handshakes") == 0
    assert vars(places) == {"_taken": {}}  # nothing is left of what came once


def test_place_is_given_back_after_a_failure() -> None:
    places = Places()
    with pytest.raises(OSError, match="x"), places.take("connections", at_most=1):
        raise OSError("x")
    with places.take("connections", at_most=1):
        pass


def test_each_clients_cap_is_below_the_cap_of_all() -> None:
    limits = Limits()
    assert limits.connections_per_device < limits.connections
    assert limits.handshakes_per_source < limits.handshakes < limits.connections
    assert limits.session_idle_seconds <= limits.session_seconds
    assert all(getattr(limits, field.name) > 0 for field in fields(limits))
