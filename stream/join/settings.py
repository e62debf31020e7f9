"""Settings of the join: seconds of event time, unless the name states another unit.

Source: docs/stream.md.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinSettings:
    """Windows, limits and switches of the join.

    Attributes:
        click_window_s: A session closes when the watermark passes its impression by this much.
        attribution_s: Clicks and conversions count up to this long after the impression.
        refund_s: Refunds and cancellations count up to this long after the purchase.
        wait_s: An event waits this long past its own time for its list or click.
        lateness_s: Disorder that the watermark allows.
        future_clamp_s: Times further ahead of `now` move the watermark only this far.
        future_dead_s: Times further ahead than this are dead letters.
        idle_s: A topic that is read to its end and quiet for this long does not hold the watermark.
        ahead_s: A topic this far ahead of a lagging one is paused.
        clock_tolerance_s: Clocks of one client's events differ by up to this much: an inferred list, or the click that
            an order is inferred from, may be this much later. Less than `wait_s` counts.
        infer_links: Whether clicks without `query_id` join the client's newest open list with the item.
        max_client_events: Events of one client held open at a time; the rest is `hot_key`.
        max_list_events: Clicks and order lines that one list takes; the rest is `evicted`. Keeps its row below 1 MB.
        clicks_per_item: Newest clicks kept per client and item, for conversions without `query_id`.
        profile_size: Newest behaviours kept per client.
        profile_idle_s: A profile without a behaviour for this long is deleted.
        hot_max_bytes: Size of the hot rows of one partition above which every topic ahead is paused. The lists of the
            last `click_window_s` + `lateness_s` stay in memory in any case, because only reading on closes them.
        warm_max_bytes: Size of the warm rows of one partition; the oldest sessions beyond it are evicted.
        progress_s: Interval of the progress records, in seconds of `now` or of the watermark.
        hold_behind_s: A watermark this far behind `now` holds training. Increase it for a driver's clock, which runs
            faster than time.
        ticks: Writer of the ticks: `worker` (live) or `driver` (simulations and replays, with their own clock).
    """

    click_window_s: int = 900
    attribution_s: int = 86_400
    refund_s: int = 604_800
    wait_s: int = 300
    lateness_s: int = 60
    future_clamp_s: int = 60
    future_dead_s: int = 86_400
    idle_s: int = 30
    ahead_s: int = 120
    clock_tolerance_s: int = 2
    infer_links: bool = True
    max_client_events: int = 5_000
    max_list_events: int = 1_000
    clicks_per_item: int = 5
    profile_size: int = 50
    profile_idle_s: int = 2_419_200
    hot_max_bytes: int = 134_217_728
    warm_max_bytes: int = 1_073_741_824
    progress_s: int = 5
    hold_behind_s: int = 300
    ticks: str = "worker"

    @property
    def retention_ms(self) -> int:
        """Time for which topics must keep records: the longest life of an order, and two days to repair a fault."""
        return (self.attribution_s + self.refund_s + 172_800) * 1_000

    @property
    def slack_ms(self) -> int:
        """Time by which a row outlives its window, for events that still arrive or wait for it."""
        return self.longest_wait_ms + self.lateness_s * 1_000 + 1

    @property
    def longest_wait_ms(self) -> int:
        """Time past its own after which every event has its outcome: a reversal waits for a purchase that waits."""
        return 2 * self.wait_s * 1_000 + self.clock_tolerance_ms

    @property
    def clock_tolerance_ms(self) -> int:
        """Tolerance of clocks; shorter than the wait, so that clicks have their outcome before orders do."""
        return min(self.clock_tolerance_s * 1_000, self.wait_s * 1_000 - 1)

    def __post_init__(self) -> None:
        if self.ticks not in {"worker", "driver"}:
            raise ValueError(f"ticks = '{self.ticks}': expected 'worker' or 'driver'")
        positive = ("click_window_s", "attribution_s", "refund_s", "wait_s", "progress_s")
        for name in (*positive, "max_client_events", "max_list_events"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: expected 1 or more")
        for name in (
            "lateness_s",
            "future_clamp_s",
            "idle_s",
            "clock_tolerance_s",
            "ahead_s",
            "hot_max_bytes",
            "warm_max_bytes",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)}: expected 0 or more")
        if self.attribution_s < self.click_window_s + self.wait_s:
            raise ValueError(
                f"attribution_s = {self.attribution_s}: expected at least click_window_s + wait_s = "
                f"{self.click_window_s + self.wait_s}"
            )
        if not 1 <= self.profile_size <= 1_000 or self.clicks_per_item < 1:
            raise ValueError("profile_size must lie in 1..1000, clicks_per_item must be 1 or more")
