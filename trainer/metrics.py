"""Prometheus metrics of one trainer, computed from its loop at each scrape."""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from trainer.loop import Loop

PREFIX = "shelfwise_trainer_"


class LoopCollector(Collector):
    """Collector of a loop's state. Counters of sessions continue across restarts with the checkpoint."""

    def __init__(self, lineage: str, loop: Loop, monotonic_s: Callable[[], float]) -> None:
        self._lineage = lineage
        self._loop = loop
        self._monotonic_s = monotonic_s

    def collect(self) -> Iterable[Metric]:
        """Yield all metrics."""
        progress, own = self._loop.progress, self._loop.learner
        outcomes = dict(own.counters)
        trained = outcomes.pop("trained", 0)
        outcomes["undecodable"] = progress.num_undecodable
        yield self._counter("sessions", "Sessions trained.", trained)
        yield self._counter("batches", "Batches cut.", own.batch_number)
        yield self._counter("published", "Versions published by this process.", progress.num_published)
        yield self._counter(
            "failed_writes", "Versions and checkpoints that the file system refused.", progress.num_failed_writes
        )
        yield self._counter("items_rejected", "Item records that could not be decoded.", self._loop.feed.num_rejected)
        skipped = CounterMetricFamily(
            f"{PREFIX}skipped", "Session records not trained, by reason.", labels=["lineage", "reason"]
        )
        for reason, count in sorted(outcomes.items()):
            skipped.add_metric([self._lineage, reason], count)
        yield skipped
        yield self._gauge("loss", "Loss of the newest batch, by part.", "part", progress.losses)
        running = own.prequential.means()
        means = dict(running if running["lists"] >= 1 else progress.prequential)
        means.pop("lists", None)
        yield self._gauge(
            "prequential", "Quality of predictions made before learning, since the newest version.", "metric", means
        )
        yield self._gauge("version", "Number of the newest version.", "", {"": progress.version})
        if progress.watermark_ts is not None:
            seconds = progress.watermark_ts / 1000
            yield self._gauge("watermark_timestamp_seconds", "Watermark of the newest record.", "", {"": seconds})
        if progress.checkpoint_at is not None:
            age = self._monotonic_s() - progress.checkpoint_at
            yield self._gauge("checkpoint_age_seconds", "Time since the newest checkpoint.", "", {"": age})

    def _counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(f"{PREFIX}{name}", text, labels=["lineage"])
        family.add_metric([self._lineage], value)
        return family

    def _gauge(self, name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
        family = GaugeMetricFamily(f"{PREFIX}{name}", text, labels=["lineage", *([label] if label else [])])
        for key, value in sorted(values.items()):
            family.add_metric([self._lineage, *([key] if label else [])], value)
        return family
