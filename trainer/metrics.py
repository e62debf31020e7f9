"""Prometheus metrics of one trainer, read from its loop when they are asked for."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from trainer.loop import Loop

_LABELS = ["lineage"]


class LoopCollector(Collector):
    """Turns the state of a loop into metrics; counters of sessions go on across restarts with the checkpoint."""

    def __init__(self, lineage: str, loop: Loop, wall_s: Callable[[], float]) -> None:
        self._lineage = lineage
        self._loop = loop
        self._wall_s = wall_s

    def collect(self) -> Iterable[Metric]:
        """Yield all metrics."""
        progress, own = self._loop.progress, self._loop.learner
        counters = dict(own.counters)
        trained = counters.pop("trained", 0)
        counters["undecodable"] = progress.num_undecodable
        yield self._counter("sessions", "Sessions trained.", trained)
        yield self._counter("batches", "Batches cut.", own.batch_number)
        yield self._counter("published", "Versions published by this process.", progress.num_published)
        skipped = CounterMetricFamily(
            "shelfwise_trainer_skipped", "Session records not trained.", labels=[*_LABELS, "reason"]
        )
        for reason, count in sorted(counters.items()):
            skipped.add_metric([self._lineage, reason], count)
        yield skipped
        yield self._gauges("loss", "part", "Loss of the newest batch.", dict(progress.losses))
        running = own.prequential.means()
        means = dict(running if running["lists"] >= 1 else progress.prequential)
        means.pop("lists", None)
        yield self._gauges("prequential", "metric", "Before learning, since the newest version.", means)
        yield self._gauge("version", "Number of the newest version.", progress.version)
        if progress.watermark_ts is not None:
            yield self._gauge("watermark_seconds", "Watermark of the newest record.", progress.watermark_ts / 1000)
        if progress.checkpoint_at is not None:
            age = self._wall_s() - progress.checkpoint_at
            yield self._gauge("checkpoint_age_seconds", "Since the newest checkpoint.", age)

    def _counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(f"shelfwise_trainer_{name}", text, labels=_LABELS)
        family.add_metric([self._lineage], value)
        return family

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"shelfwise_trainer_{name}", text, labels=_LABELS)
        family.add_metric([self._lineage], value)
        return family

    def _gauges(self, name: str, label: str, text: str, values: dict[str, float]) -> Metric:
        family = GaugeMetricFamily(f"shelfwise_trainer_{name}", text, labels=[*_LABELS, label])
        for key, value in sorted(values.items()):
            family.add_metric([self._lineage, key], value)
        return family


@contextmanager
def served(collector: Collector, port: int) -> Iterator[None]:
    """Answer `/metrics` on loopback while the context lasts; port 0 turns it off."""
    if not port:
        yield
        return
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    server, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
