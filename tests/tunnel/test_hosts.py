"""The table of hosts: exactly one destination leads to exactly one address."""

from __future__ import annotations

import pytest

from tunnel.destinations import Destination
from tunnel.errors import BadRule
from tunnel.hosts import Host, Hosts

SITE = Destination("site.test", 443)
HERE = Destination("127.0.0.1", 9443)


def test_found_by_host_and_port() -> None:
    host = Host(destination=SITE, dial=HERE)
    hosts = Hosts([host])
    assert hosts.find(SITE) is host
    assert hosts.find(Destination("site.test", 80)) is None
    assert hosts.find(Destination("a.site.test", 443)) is None
    assert Hosts().find(SITE) is None


def test_bad_tables() -> None:
    with pytest.raises(BadRule, match="not an address"):
        Host(destination=SITE, dial=Destination("elsewhere.test", 443))
    with pytest.raises(BadRule, match="goes with TLS"):
        Host(destination=SITE, dial=HERE, server_name="site.test")
    with pytest.raises(BadRule, match="twice"):
        Hosts([Host(destination=SITE, dial=HERE)] * 2)
