"""What happens to a destination, and which rule said so.

Rules of this file:
- Rules are ranked; the first that matches decides; there is always an explicit default.
- A destination given as a name meets name rules and `*`. It is not looked up to decide, and one
  that goes through the tunnel is never looked up on this side at all.
- Only for DIRECT is the name looked up by the caller, who then asks `choose_address` about the very
  address that it is going to dial. That may only tighten: any address rule that says BLOCK, at
  whatever rank, and the address guard.
- A destination given as an address meets address rules and `*`, and the guard, whatever the verb.
- The guard gives way only to a rule that names the one address, with the verb that was chosen.

Theory of operation: rules are found by what they name (a name, each of its suffixes, a network of
each length that occurs), so a decision costs the same for few and for many rules. `Pattern.matches`
is the obvious, slow definition of the same thing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from tunnel.addresses import Address, guarded, judged_address
from tunnel.destinations import Destination
from tunnel.errors import BadRule, RefusalCode, Refused
from tunnel.explanations import MAX_STEPS, Explanation, Step
from tunnel.patterns import ALL_PORTS, Pattern, PatternKind

__all__ = ["Pattern", "Route", "RouteTable", "Rule", "SplitMode", "Verb", "split_table"]


class Verb(Enum):
    """What can happen to a destination."""

    TUNNEL = "TUNNEL"
    DIRECT = "DIRECT"
    PROXY = "PROXY"
    BLOCK = "BLOCK"


class SplitMode(Enum):
    """How a table treats what it does not list."""

    ON = "on"
    OFF = "off"
    REVERSE = "reverse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One line of a policy. `origin` says where it stands, `reason` what its author wrote to it.

    `proxy` is where PROXY sends the connection, and is absent otherwise. Raises: BadRule.
    """

    pattern: Pattern
    verb: Verb
    origin: str
    reason: str = ""
    proxy: Destination | None = None

    def __post_init__(self) -> None:
        if (self.verb is Verb.PROXY) != (self.proxy is not None):
            raise BadRule(f"{self.origin}: a proxy belongs to the verb PROXY, and only to it")

    @property
    def text(self) -> str:
        """The rule as one would write it, such as `TUNNEL *.corp.internal:443`."""
        via = f" via {self.proxy}" if self.proxy is not None else ""
        return f"{self.verb.value} {self.pattern.text}{via}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What happens to one destination. `guard` is set where the guard made the rule a BLOCK."""

    verb: Verb
    rule: Rule
    guard: str = ""

    @property
    def text(self) -> str:
        """What decided, in words: the rule, where it stands and why, or the guard."""
        if self.guard:
            return f"address guard: {self.guard}"
        reason = f": {self.rule.reason}" if self.rule.reason else ""
        return f"{self.rule.text} ({self.rule.origin}){reason}"

    def refusal(self, hint: str = "") -> Refused:
        """The exception for a route that says BLOCK."""
        code = RefusalCode.ADDRESS_GUARD if self.guard else RefusalCode.BLOCKED_BY_RULE
        return Refused(code, self.text, hint)


class RouteTable:
    """Ranked rules and a default. `own` are the addresses of this machine, for the guard."""

    def __init__(
        self, rules: Sequence[Rule], *, default: Rule, own: Collection[Address] = ()
    ) -> None:
        if default.pattern.kind is not PatternKind.ANY or default.pattern.ports != ALL_PORTS:
            raise BadRule(f"{default.origin}: a default is about everything (*)")
        self.rules = tuple(rules)
        self.default = default
        self._own = frozenset(own)
        self._index = _Index(self.rules)
        self._blocks = _Index(rule for rule in self.rules if rule.verb is Verb.BLOCK)

    def choose(self, destination: Destination) -> Route:
        """What happens to this destination, as far as can be said without looking it up."""
        address = destination.address
        if address is None:
            rule = self._index.first_by_name(destination.host, destination.port) or self.default
            return Route(verb=rule.verb, rule=rule)
        rule = self._index.first_by_address(address, destination.port) or self.default
        return self._guard(rule, address, destination.port)

    def choose_address(self, destination: Destination, address: Address) -> Route:
        """What happens to this destination now that it is about to be dialled at `address`.

        The same as `choose`, or BLOCK.
        """
        route = self.choose(destination)
        if route.verb is Verb.BLOCK or destination.address == address:
            return route
        block = self._blocks.first_by_address(address, destination.port, with_any=False)
        if block is not None:
            return Route(verb=Verb.BLOCK, rule=block)
        return self._guard(route.rule, address, destination.port)

    def explain(self, destination: Destination, *, address: Address | None = None) -> Explanation:
        """Why this destination goes where it goes; with `address`, after it was looked up."""
        chosen = self.choose(destination)
        route = chosen if address is None else self.choose_address(destination, address)
        earlier: list[Rule] = []
        for rule in self.rules:
            if rule is chosen.rule:
                break
            earlier.append(rule)
        return Explanation(
            destination=str(destination),
            address=None if address is None else str(address),
            verb=route.verb.value,
            rule=route.rule.text,
            origin=route.rule.origin,
            reason=route.rule.reason,
            guard=route.guard,
            steps=tuple(
                Step(rule=rule.text, origin=rule.origin, why=_why_not(rule.pattern, destination))
                for rule in earlier[:MAX_STEPS]
            ),
            steps_left_out=max(0, len(earlier) - MAX_STEPS),
            change=self._what_would_change(route, destination, address),
        )

    def _guard(self, rule: Rule, address: Address, port: int) -> Route:
        reason = None if rule.verb is Verb.BLOCK else guarded(address, own=self._own)
        if reason is None or self._index.names_address(address, port, rule.verb):
            return Route(verb=rule.verb, rule=rule)
        return Route(verb=Verb.BLOCK, rule=rule, guard=reason)

    def _what_would_change(
        self, route: Route, destination: Destination, address: Address | None
    ) -> str:
        rule, looked_up = route.rule, address or destination.address
        if route.guard and looked_up is not None:
            named = judged_address(looked_up)
            named_text = f"[{named}]" if named.version == 6 else str(named)
            return f'a rule that names the address: "{rule.verb.value} {named_text}"'
        if rule is self.default:
            return f'a rule about it, such as "{_another(rule.verb).value} {destination}"'
        if route.verb is Verb.BLOCK and not rule.pattern.matches(destination):
            return f"removing {rule.origin}: an address that it blocks is not dialled for any name"
        text = f"changing {rule.origin}, or a rule about {destination} ranked before it"
        if route.verb is Verb.DIRECT and looked_up is None:
            return text + "; once looked up, an address rule with BLOCK or the guard may refuse it"
        return text


def split_table(
    mode: SplitMode,
    routes: Sequence[Rule],
    exclusions: Sequence[Rule] = (),
    *,
    origin: str,
    own: Collection[Address] = (),
) -> RouteTable:
    """The table that a split mode stands for; `origin` says where the mode is set.

    ON: only what the routes list, the rest is blocked. OFF: everything tunnels unless the routes
    say otherwise. REVERSE: the same, but the exclusions, ranked after the routes, go DIRECT.

    Raises: BadRule for exclusions in another mode or with another verb.
    """
    for exclusion in exclusions:
        if mode is not SplitMode.REVERSE:
            raise BadRule(f"{exclusion.origin}: exclusions belong to the split mode reverse")
        if exclusion.verb is not Verb.DIRECT:
            raise BadRule(f"{exclusion.origin}: an exclusion goes DIRECT")
    default = Rule(
        pattern=Pattern.parse("*"),
        verb=Verb.BLOCK if mode is SplitMode.ON else Verb.TUNNEL,
        origin=origin,
        reason=f"the default of split mode {mode.value}",
    )
    return RouteTable([*routes, *exclusions], default=default, own=own)


_Ranked = list[tuple[int, Rule]]


class _Index:
    """Rules by what they name. Every list is in rank order."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._any: _Ranked = []
        self._names: dict[str, _Ranked] = {}
        self._suffixes: dict[str, _Ranked] = {}
        # (IP version, prefix length) -> first bits of the network as a number -> rules
        self._networks: dict[tuple[int, int], dict[int, _Ranked]] = {}
        for rank, rule in enumerate(rules):
            self._list_of(rule.pattern).append((rank, rule))

    def first_by_name(self, host: str, port: int) -> Rule | None:
        return _first(self._by_name(host), port)

    def first_by_address(
        self, address: Address, port: int, *, with_any: bool = True
    ) -> Rule | None:
        found = self._by_address(judged_address(address))
        return _first([*found, self._any] if with_any else found, port)

    def names_address(self, address: Address, port: int, verb: Verb) -> bool:
        judged = judged_address(address)
        same = self._networks.get((judged.version, judged.max_prefixlen), {}).get(int(judged), [])
        return any(rule.verb is verb and rule.pattern.has_port(port) for _, rule in same)

    def _list_of(self, pattern: Pattern) -> _Ranked:
        if pattern.network is not None:
            network = pattern.network
            same_length = self._networks.setdefault((network.version, network.prefixlen), {})
            bits = int(network.network_address) >> (network.max_prefixlen - network.prefixlen)
            return same_length.setdefault(bits, [])
        match pattern.kind:
            case PatternKind.NAME:
                return self._names.setdefault(pattern.name, [])
            case PatternKind.SUFFIX:
                return self._suffixes.setdefault(pattern.name, [])
        return self._any

    def _by_name(self, host: str) -> Iterator[_Ranked]:
        yield self._any
        if host in self._names:
            yield self._names[host]
        dot = host.find(".")
        while dot != -1:
            if (suffix := host[dot + 1 :]) in self._suffixes:
                yield self._suffixes[suffix]
            dot = host.find(".", dot + 1)

    def _by_address(self, judged: Address) -> Iterator[_Ranked]:
        number, length = int(judged), judged.max_prefixlen
        for (version, prefix), networks in self._networks.items():
            if version == judged.version and (bits := number >> (length - prefix)) in networks:
                yield networks[bits]


def _first(lists: Iterable[_Ranked], port: int) -> Rule | None:
    best: tuple[int, Rule] | None = None
    for ranked in lists:
        for rank, rule in ranked:
            if best is not None and rank > best[0]:
                break
            if rule.pattern.has_port(port):
                best = rank, rule
                break
    return best[1] if best is not None else None


def _why_not(pattern: Pattern, destination: Destination) -> str:
    if pattern.kind is PatternKind.NETWORK and destination.address is None:
        return "it is about addresses, and a name is not looked up to decide"
    if pattern.kind in (PatternKind.NAME, PatternKind.SUFFIX) and destination.address is not None:
        return "it is about names, and the destination is an address"
    if pattern.kind is PatternKind.SUFFIX and pattern.name == destination.host:
        return f"it is about names below {pattern.name}, not about that name itself"
    if not pattern.has_port(destination.port):
        return f"it is about port {pattern.ports_text}"
    return "it is about another host"


def _another(verb: Verb) -> Verb:
    return Verb.TUNNEL if verb is Verb.BLOCK else Verb.BLOCK
