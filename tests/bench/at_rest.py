"""Whole requests at a low rate beside the eager forward pass of full ARMMT, and the highest rate with few fallbacks.

Machines differ, and one machine differs from hour to hour; the ratio of a request to a forward pass of the same minute
and core does so less. Requests come ten times a second, so that none waits for another.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from serving.ranking import torch_runtime
from stream.replicas.catalogue import Catalogue
from tests.bench.http_load import Pool, open_loop
from tests.serving.world import World, example_of, items, request
from trainer.features import collate
from trainer.features.slot_cache import SlotCache
from trainer.versions import artifact

RATE: Final = 10.0
MOST_FALLBACKS: Final = 0.01
_LOADS: Final = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
_NUM_PASSES: Final = 60
_COLUMNS: Final = (
    "model",
    "runtime",
    "request p50 / p90 / p99, ms",
    "in incoming order",
    "forward pass, ms",
    "request p50 / forward pass",
    "request p99 / forward pass",
    "most with 1 % in incoming order, /s",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AtRest:
    """Figures of one model in one runtime at low rates.

    Attributes:
        requests_ms: Quantiles of the latency of requests: .5, .9 and .99.
        fallback: Share of the answers in incoming order.
        forward_ms: Median time of an eager forward pass of full ARMMT.
        calm_rate: Highest offered rate, per second, with at most `MOST_FALLBACKS` of the answers in incoming order; 0
            if the lowest one had more.
        lowest_rate: The lowest offered rate.
    """

    requests_ms: tuple[float, float, float]
    fallback: float
    forward_ms: float
    calm_rate: float
    lowest_rate: float


class ForwardPass:
    """Eager forward pass of full ARMMT for one list of 30 candidates."""

    def __init__(self, home: Path, core: int) -> None:
        """Prepare the pass.

        Args:
            home: An empty folder.
            core: Core that it runs on.
        """
        version = artifact.load(home / "artifacts", World(home).go_live("base", 1, model="armmt", profile="full"))
        config = version.config
        torch_runtime.use_one_thread()
        self._forward = torch_runtime.eager(version)
        self._batch = collate(
            example_of(request(), Catalogue(items())),
            SlotCache(version.id_maps),
            width=config.vector_width,
            history=config.history,
            pages=config.num_pages,
            schema=config.feature_schema,
        )
        self._core = core

    def times_ms(self) -> list[float]:
        """Return the milliseconds of some passes, after as many to warm up."""
        found = []
        with _pinned(self._core):
            for _ in range(2 * _NUM_PASSES):
                begun_s = time.perf_counter()
                self._forward(self._batch)
                found.append(1_000 * (time.perf_counter() - begun_s))
        return found[_NUM_PASSES:]


async def measure(
    pool: Pool, requests: Sequence[bytes], forward: ForwardPass, *, capacity: float, seconds: float
) -> AtRest:
    """Return the figures of a service.

    Args:
        pool: Connections to it.
        requests: Bytes of the requests, sent in turn.
        forward: The pass to compare with; the service rests meanwhile.
        capacity: Scored answers per second that the service is capable of.
        seconds: Length of a run; the one at `RATE` takes three times as long.
    """
    rng = np.random.default_rng(2)
    passes_ms = forward.times_ms()
    outcomes, lost = await open_loop(pool, requests, rate=RATE, seconds=3 * seconds, rng=rng)
    passes_ms += forward.times_ms()
    calm_rate = 0.0
    for load in _LOADS:
        tried, missed = await open_loop(pool, requests, rate=load * capacity, seconds=seconds, rng=rng)
        if missed or sum(1 for one in tried if one.status != 200 or one.fallback) > MOST_FALLBACKS * len(tried):
            break
        calm_rate = load * capacity
    p50, p90, p99 = np.quantile([1_000 * one.latency_s for one in outcomes], [0.5, 0.9, 0.99])
    return AtRest(
        requests_ms=(float(p50), float(p90), float(p99)),
        fallback=(lost + sum(1 for one in outcomes if one.status != 200 or one.fallback)) / (lost + len(outcomes)),
        forward_ms=float(np.median(passes_ms)),
        calm_rate=calm_rate,
        lowest_rate=_LOADS[0] * capacity,
    )


def markdown(found: dict[tuple[str, str], AtRest]) -> list[str]:
    """Return the lines of the table, by model and runtime."""
    lines = [
        "## At ten requests per second",
        "",
        f"Whole requests, {RATE:g} each second, as a client sees them. The forward pass is that of armmt, full, in"
        " eager torch for one list, on the same core, right before and after; the median of both. The last column"
        f" holds the highest rate, by tenths of C, with at most {100 * MOST_FALLBACKS:g} % in incoming order.",
        "",
        f"| {' | '.join(_COLUMNS)} |",
        f"|---|---|{'---:|' * (len(_COLUMNS) - 2)}",
    ]
    for (model, runtime), one in found.items():
        p50, p90, p99 = one.requests_ms
        lines.append(
            f"| {model} | {runtime} | {p50:.1f} / {p90:.1f} / {p99:.1f} | {100 * one.fallback:.1f} %"
            f" | {one.forward_ms:.1f} | {p50 / one.forward_ms:.2f} | {p99 / one.forward_ms:.2f}"
            f" | {f'{one.calm_rate:.0f}' if one.calm_rate else f'under {one.lowest_rate:.0f}'} |"
        )
    return lines


@contextmanager
def _pinned(core: int) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
