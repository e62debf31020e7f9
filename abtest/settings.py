"""Settings of the sink that turns sessions into facts, and of the watcher that reports on experiments."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AbtestSettings:
    """Settings of the sink and of the watcher.

    Attributes:
        metrics_port: Port of the sink for probes and metrics; 0 opens none.
        metrics_host: Address that probes and metrics listen on.
        watch_s: Seconds between the reports of `shelfwise abtest watch`.
        watch_port: Port of the watcher for probes and metrics; 0 opens none.
    """

    metrics_port: int = 9103
    metrics_host: str = "127.0.0.1"
    watch_s: float = 60.0
    watch_port: int = 9106

    def __post_init__(self) -> None:
        if not self.watch_s > 0:
            raise ValueError(f"watch_s = {self.watch_s}: expected more than 0")
