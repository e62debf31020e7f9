"""Settings of the sink that turns sessions into facts, and of the watcher that reports on experiments."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AbtestSettings:
    """Settings of the sink and of the watcher.

    Attributes:
        metrics_port: Port of the sink for probes and metrics; 0 opens none.
        metrics_host: Address that probes and metrics listen on.
        watch_s: Seconds between the reports of `shelfwise abtest watch`.
        watch_port: Port of the watcher for probes and metrics; 0 opens none.
        keep_facts_days: Days of event time after the end of an experiment for which its facts, sums and monitoring
            results are kept; its looks and final report stay.
        keep_history_days: Days before the watermark of which facts of all clients are kept, at least as long as
            `create --cuped` and `power --days` look back.
    """

    metrics_port: int = 9103
    metrics_host: str = "127.0.0.1"
    watch_s: float = 60.0
    watch_port: int = 9106
    keep_facts_days: float = 28.0
    keep_history_days: float = 28.0

    def __post_init__(self) -> None:
        if not self.watch_s > 0:
            raise ValueError(f"watch_s = {self.watch_s}: expected more than 0")
        for name in ("keep_facts_days", "keep_history_days"):
            days = getattr(self, name)
            if not (math.isfinite(days) and days > 0):
                raise ValueError(f"{name} = {days}: expected more than 0 days")
