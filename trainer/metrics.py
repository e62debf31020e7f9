"""Prometheus metrics of one trainer, computed from its loop at each scrape."""

from collections.abc import Callable, Iterable
from typing import TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from trainer.loop import Loop

Family: TypeAlias = CounterMetricFamily | GaugeMetricFamily
_LINEAGE = ("lineage",)


def families() -> dict[str, Family]:
    """Return every metric of a trainer without samples, by the part of its name after `shelfwise_trainer_`."""
    declared: tuple[Family, ...] = (
        CounterMetricFamily("shelfwise_trainer_sessions", "Sessions trained.", labels=_LINEAGE),
        CounterMetricFamily("shelfwise_trainer_batches", "Batches cut.", labels=_LINEAGE),
        CounterMetricFamily("shelfwise_trainer_published", "Versions published by this process.", labels=_LINEAGE),
        CounterMetricFamily(
            "shelfwise_trainer_held_back",
            "Times that a first version was due and waited, because nothing said yet that it is better than the"
            " incoming order.",
            labels=_LINEAGE,
        ),
        GaugeMetricFamily(
            "shelfwise_trainer_breaker_open",
            "1 while a breaker keeps the trainer from learning and publishing, by breaker.",
            labels=(*_LINEAGE, "breaker"),
        ),
        CounterMetricFamily(
            "shelfwise_trainer_quarantined_ranges",
            "Ranges of the log that breakers kept this process from learning.",
            labels=_LINEAGE,
        ),
        CounterMetricFamily(
            "shelfwise_trainer_graded_pages",
            "Pages graded by people, by whether this process learned them: learned, or lost, unplaced or refused.",
            labels=(*_LINEAGE, "outcome"),
        ),
        CounterMetricFamily(
            "shelfwise_trainer_failed_writes",
            "Versions and checkpoints that the file system refused.",
            labels=_LINEAGE,
        ),
        CounterMetricFamily(
            "shelfwise_trainer_items_rejected", "Item records that could not be decoded.", labels=_LINEAGE
        ),
        CounterMetricFamily(
            "shelfwise_trainer_skipped", "Session records not trained, by reason.", labels=(*_LINEAGE, "reason")
        ),
        CounterMetricFamily(
            "shelfwise_trainer_behaviours",
            "Behaviours in the histories of trained sessions, by whether the query's category kept them.",
            labels=(*_LINEAGE, "outcome"),
        ),
        CounterMetricFamily(
            "shelfwise_trainer_labels", "Clicked and bought items trained by this process.", labels=_LINEAGE
        ),
        GaugeMetricFamily(
            "shelfwise_trainer_effective_labels",
            "Labels of equal weight that those of this process are worth: (sum w)^2 / sum w^2 of their weights by"
            " inverse examination.",
            labels=_LINEAGE,
        ),
        CounterMetricFamily(
            "shelfwise_trainer_candidates",
            "Candidates of trained lists that were looked up in an id table, by whether they have a row of their own or"
            " share the cold row.",
            labels=(*_LINEAGE, "table", "row"),
        ),
        GaugeMetricFamily("shelfwise_trainer_loss", "Loss of the newest batch, by part.", labels=(*_LINEAGE, "part")),
        GaugeMetricFamily(
            "shelfwise_trainer_prequential",
            "Quality of scores before their sessions were learned, since the newest version: of the present weights"
            " (arrival), as served, and, of the lists served, by the version before the newest one (former) and by the"
            " incoming order (incoming).",
            labels=(*_LINEAGE, "series", "label", "metric"),
        ),
        GaugeMetricFamily(
            "shelfwise_trainer_modality_weight",
            "Mean weight that a fusion unit of ARMMT gives to a modality, over the queries that this process learned"
            " since the newest version, by query category: the ten largest ones, and the rest as other.",
            labels=(*_LINEAGE, "unit", "modality", "category"),
        ),
        GaugeMetricFamily(
            "shelfwise_trainer_shuffled_lists",
            "Clicked lists in random order that the lead rests on, older ones counted less.",
            labels=_LINEAGE,
        ),
        GaugeMetricFamily(
            "shelfwise_trainer_shuffled_lead",
            "Mean AUC of clicked items by score less that by the incoming order, on lists in random order.",
            labels=_LINEAGE,
        ),
        GaugeMetricFamily("shelfwise_trainer_pending", "Sessions that wait for their batch to fill.", labels=_LINEAGE),
        GaugeMetricFamily("shelfwise_trainer_version", "Number of the newest version.", labels=_LINEAGE),
        GaugeMetricFamily(
            "shelfwise_trainer_version_bytes",
            "Bytes of the newest version that this process wrote; small if it holds changed rows only.",
            labels=_LINEAGE,
        ),
        GaugeMetricFamily(
            "shelfwise_trainer_freshness_seconds",
            "Time from an impression until a version that learned from it was verified, by quantile (0.5, 0.95) of the"
            " lists that the newest version of this process has learned and the one before had not.",
            labels=(*_LINEAGE, "quantile"),
        ),
        GaugeMetricFamily(
            "shelfwise_trainer_watermark_timestamp_seconds", "Watermark of the newest record.", labels=_LINEAGE
        ),
        GaugeMetricFamily(
            "shelfwise_trainer_checkpoint_age_seconds", "Time since the newest checkpoint.", labels=_LINEAGE
        ),
    )
    return {family.name.removeprefix("shelfwise_trainer_"): family for family in declared}


class LoopCollector(Collector):
    """Collector of a loop's state. Counters of sessions continue across restarts with the checkpoint."""

    def __init__(self, lineage: str, loop: Loop, monotonic_s: Callable[[], float]) -> None:
        self._lineage = lineage
        self._loop = loop
        self._monotonic_s = monotonic_s

    def describe(self) -> Iterable[Metric]:
        """Return all metrics without samples."""
        return families().values()

    def collect(self) -> Iterable[Metric]:
        """Return all metrics; those without a value have no sample."""
        progress, own = self._loop.progress, self._loop.learner
        outcomes = dict(own.counters)
        trained = outcomes.pop("trained", 0)
        outcomes["undecodable"] = progress.num_undecodable
        found = families()

        def add(name: str, value: float, *labels: str) -> None:
            found[name].add_metric([self._lineage, *labels], value)

        add("sessions", trained)
        add("batches", own.batch_number)
        add("published", progress.num_published)
        add("held_back", progress.num_held_back)
        for name, is_open in self._loop.guard.states().items():
            add("breaker_open", is_open, name)
        add("quarantined_ranges", self._loop.guard.num_ranges)
        for name, value in own.shuffled.means().items():
            add(name, value)
        for outcome, count in sorted((self._loop.graded.outcomes if self._loop.graded else {}).items()):
            add("graded_pages", count, outcome)
        add("failed_writes", progress.num_failed_writes)
        add("items_rejected", self._loop.feed.num_rejected)
        for reason, count in sorted(outcomes.items()):
            add("skipped", count, reason)
        for part, loss in sorted(progress.losses.items()):
            add("loss", loss, part)
        for key, mean in (own.prequential.means() or progress.prequential).items():
            add("prequential", mean, *key.split("."))
        for place, mean in own.modalities.means().items():
            add("modality_weight", mean, *place)
        add("labels", own.labels.num)
        add("effective_labels", own.labels.effective)
        add("pending", len(own.pending))
        for outcome, count in sorted(own.behaviours.items()):
            add("behaviours", count, outcome)
        for (table, row), count in sorted(own.candidates.items()):
            add("candidates", count, table, row)
        add("version", progress.version)
        if progress.version_bytes is not None:
            add("version_bytes", progress.version_bytes)
        for share, seconds in progress.freshness.items():
            add("freshness_seconds", seconds, str(share))
        if progress.watermark_ts is not None:
            add("watermark_timestamp_seconds", progress.watermark_ts / 1000)
        if progress.checkpoint_at is not None:
            add("checkpoint_age_seconds", self._monotonic_s() - progress.checkpoint_at)
        return found.values()
