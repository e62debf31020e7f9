"""Settings of one join worker; `stream.join` has those of the join."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """Settings of the worker process.

    Attributes:
        group: Consumer group. Workers of one group share the partitions.
        instance: Static member name, unique among the workers of a group: the restart of a named worker moves no
            partition. Empty for a member without a name.
        session_s: A worker that sends no heartbeat for this long loses its partitions. Brokers accept 6 and more.
        metrics_port: Port of `/livez`, `/readyz` and `/metrics`, 0 for none.
        metrics_host: Address of that port.
        max_in_flight: Number of micro-batches that may wait for their confirmations.
        read_ahead_bytes: Size of unacknowledged input above which no more is read.
        confirm_s: A write that is not confirmed after this long stops the worker.
        drain_s: Time in which a revoked or stopping worker waits for confirmations.
        watchdog_s: Lag without a moving offset for this long stops the worker.
    """

    group: str = "shelfwise-join"
    instance: str = ""
    session_s: float = 10.0
    metrics_port: int = 9101
    metrics_host: str = "127.0.0.1"
    max_in_flight: int = 64
    read_ahead_bytes: int = 8 << 20
    confirm_s: float = 30.0
    drain_s: float = 10.0
    watchdog_s: float = 60.0

    def __post_init__(self) -> None:
        if self.max_in_flight < 1:
            raise ValueError(f"max_in_flight = {self.max_in_flight}: expected 1 or more")
        if self.read_ahead_bytes < 1:
            raise ValueError(f"read_ahead_bytes = {self.read_ahead_bytes}: expected 1 or more")
        if not 6 <= self.session_s <= 30:
            raise ValueError(f"session_s = {self.session_s}: expected 6 to 30")
        if not 0 <= self.metrics_port <= 65_535:
            raise ValueError(f"metrics_port = {self.metrics_port}: expected 0 to 65535")
