"""The routes of one app as plain data, from the policy in the hub to the agent's table.

The agent imports this, so nothing here needs pydantic. The data is JSON: the hub may write it to a
file and read it again. What is in it was checked when the policy was loaded, and is checked again
when the table is made: nothing is ever allowed because the data was odd.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any

from tunnel import BadRule, Pattern, RouteTable, Rule, SplitMode, Verb, split_table

if TYPE_CHECKING:
    from mdx.policy import AppPolicy

__all__ = ["route_rules", "table_from_data"]


def route_rules(app: str, policy: AppPolicy) -> dict[str, Any]:
    """What `table_from_data` makes a table of. `origin` says where each rule stands."""
    decided_by = "split_tunnel" if policy.network_access == "tunneled" else "network_access"
    return {
        "network_access": policy.network_access,
        "split_tunnel": policy.split_tunnel,
        "origin": policy.origin(app, decided_by),
        "routes": [
            {
                "verb": entry.verb.upper(),
                "pattern": entry.pattern,
                "reason": entry.reason,
                "origin": policy.origin(app, "routes", rank),
            }
            for rank, entry in enumerate(policy.routes)
        ],
        "exclusions": [
            {
                "verb": "DIRECT",
                "pattern": pattern,
                "reason": "",
                "origin": policy.origin(app, "exclusions", rank),
            }
            for rank, pattern in enumerate(policy.exclusions)
        ],
    }


def table_from_data(
    data: Mapping[str, Any], *, own: Collection[IPv4Address | IPv6Address] = ()
) -> RouteTable:
    """The route table; `own` are the addresses of this machine, for the guard.

    Raises: BadRule for data that does not come from `route_rules`.
    """
    try:
        access, origin = str(data["network_access"]), str(data["origin"])
        if access == "blocked":
            return RouteTable([], default=_default(Verb.BLOCK, access, origin), own=own)
        routes = [_rule(entry) for entry in data["routes"]]
        if access == "unrestricted":
            return RouteTable(routes, default=_default(Verb.DIRECT, access, origin), own=own)
        if access != "tunneled":
            raise BadRule(f"{origin}: network access {access!a} is not known")
        exclusions = [_rule(entry) for entry in data["exclusions"]]
        mode = SplitMode(data["split_tunnel"])
        return split_table(mode, routes, exclusions, origin=origin, own=own)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise BadRule(f"this is not the data of routes: {error!r}") from None


def _rule(entry: Mapping[str, Any]) -> Rule:
    return Rule(
        pattern=Pattern.parse(entry["pattern"]),
        verb=Verb(entry["verb"]),
        origin=str(entry["origin"]),
        reason=str(entry["reason"]),
    )


def _default(verb: Verb, access: str, origin: str) -> Rule:
    reason = f"network access is {access}"
    return Rule(pattern=Pattern.parse("*"), verb=verb, origin=origin, reason=reason)
