"""The tunnel, on the whole way of the product, beside pairs of other programs.

Ours: SOCKS5 in, whose socket it is, lease, routes, audit, certificate, session token, mutual
TLS 1.3 with X25519MLKEM768, allow list, address guard, audit, out. Each stream is a TLS connection
of its own, as in the pairs of stunnel, haproxy and nginx.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from benchmarks.figures import Figure, Unit, measure
from benchmarks.stage import Stage

__all__ = ["BENCHMARKS"]

TURNS = 9  # what needs four processes at one time is noisier than the rest
BULK_BYTES = 96_000_000
# Enough for a median, and few enough for all of them in less than a minute: numbers as load.c
# wants them.
CONNECTIONS = (8, 120)
REQUESTS = (32, 4800)
LATENCIES = 800


def _figure(name: str, words: str, unit: Unit, order: tuple[int, ...]) -> Callable[[Stage], Figure]:
    kind = {"GB/s": "bulk", "us": "latency"}.get(unit) or name.partition("_")[0]

    def benchmark(stage: Stage) -> Figure:
        medians = measure(
            TURNS,
            {who: partial(driver.order, kind, *order) for who, driver in stage.drivers.items()},
        )
        return Figure.of(
            f"tunnel.{name}", words, unit, "lower" if unit == "us" else "higher", medians
        )

    return benchmark


_FIGURES: Sequence[tuple[str, str, Unit, tuple[int, ...]]] = (
    ("bulk_1", "one stream, downwards", "GB/s", (1, BULK_BYTES)),
    ("bulk_8", "eight streams together, downwards", "GB/s", (8, BULK_BYTES // 8)),
    ("connections", "new streams to their first byte back, 8 at a time", "1/s", CONNECTIONS),
    ("requests_32", "64-byte request and answer, on 32 open streams", "1/s", REQUESTS),
    ("latency_p50", "64 bytes there and back on one open stream", "us", (LATENCIES,)),
)
BENCHMARKS: Mapping[str, Callable[[Stage], Figure]] = {
    f"tunnel.{name}": _figure(name, words, unit, order) for name, words, unit, order in _FIGURES
}
