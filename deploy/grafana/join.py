"""Panels of the join on the dashboard of the loop."""

from deploy.grafana.model import Panel, Query, Section
from deploy.grafana.promql import STEP, quantiles, rate, share

_OUTCOMES = "shelfwise_join_outcomes_total"

STREAM = Section(
    title="Stream: join of impressions, clicks and conversions",
    panels=(
        Panel(
            title="Events in by topic",
            description="Records read per second from each input topic, the clock's ticks included.",
            unit="eps",
            kind="timeseries",
            queries=(Query(text=f"sum by (topic) ({rate('shelfwise_join_events_total')})", legend="{{topic}}"),),
        ),
        Panel(
            title="Events by outcome",
            description="Each event ends as joined, duplicate, late, orphan or dead; the sum is the number of events"
            " read.",
            unit="eps",
            kind="timeseries",
            queries=(Query(text=f"sum by (outcome) ({rate(_OUTCOMES)})", legend="{{outcome}}"),),
            stack=True,
        ),
        Panel(
            title="Sessions out by reason",
            description="Reason for the record of a session: its click window closed, or a later event corrected it.",
            unit="ops",
            kind="timeseries",
            queries=(Query(text=f"sum by (reason) ({rate('shelfwise_join_sessions_total')})", legend="{{reason}}"),),
            stack=True,
        ),
        Panel(
            title="Share joined, late, orphan and dead",
            description="Shares of all events. Late above 1 % or dead above 0.5 % fires an alert.",
            unit="percentunit",
            kind="timeseries",
            queries=tuple(
                Query(text=share(rate(_OUTCOMES, f'{{outcome="{outcome}"}}'), rate(_OUTCOMES)), legend=outcome)
                for outcome in ("joined", "late", "orphan", "dead")
            ),
            low=0,
            high=1,
        ),
        Panel(
            title="Unjoined and dead by reason",
            description="Reason codes of events that did not join; the records lie in `unjoined` and `dead_letters`.",
            unit="eps",
            kind="timeseries",
            queries=(
                Query(
                    text=f"sum by (reason) ({rate('shelfwise_join_outcome_reasons_total')}) or vector(0)",
                    legend="{{reason}}",
                ),
            ),
        ),
        Panel(
            title="Lag by topic",
            description="Unread records by input topic.",
            unit="short",
            kind="timeseries",
            queries=(Query(text="sum by (topic) (shelfwise_join_lag_offsets)", legend="{{topic}}"),),
            low=0,
        ),
        Panel(
            title="Watermark age",
            description="Clock of the join minus its watermark, for the oldest and the median partition.",
            unit="s",
            kind="timeseries",
            queries=(
                Query(text="max(shelfwise_join_watermark_age_seconds)", legend="oldest"),
                Query(text="quantile(0.5, shelfwise_join_watermark_age_seconds)", legend="median"),
            ),
        ),
        Panel(
            title="State by tier",
            description="Bytes of open state. The size grows with open sessions and falls after their windows close.",
            unit="bytes",
            kind="timeseries",
            queries=(Query(text="sum by (tier) (shelfwise_join_state_bytes)", legend="{{tier}}"),),
            low=0,
            stack=True,
        ),
        Panel(
            title="Open sessions",
            description="Sessions whose click or attribution window is still open.",
            unit="short",
            kind="timeseries",
            queries=(Query(text="sum(shelfwise_join_open_sessions)", legend="open"),),
            low=0,
        ),
        Panel(
            title="Events that wait",
            description="Clicks and order lines whose impression has not been read yet. The number rises while a"
            " backlog is read.",
            unit="short",
            kind="timeseries",
            queries=(Query(text="sum(shelfwise_join_waiting_events)", legend="waiting"),),
            low=0,
            width=8,
        ),
        Panel(
            title="Paused partitions",
            description="Partitions paused until the same partition of the other topics catches up, for example in a"
            " backlog.",
            unit="short",
            kind="timeseries",
            queries=(Query(text="sum by (topic) (shelfwise_join_paused)", legend="{{topic}}"),),
            low=0,
            width=8,
        ),
        Panel(
            title="Hot state against its budget",
            description="Used share of join.hot_max_bytes. At 1 the join pauses every topic that is ahead of another.",
            unit="percentunit",
            kind="timeseries",
            queries=(
                Query(
                    text='sum(shelfwise_join_state_bytes{tier="hot"}) / sum(shelfwise_join_hot_budget_bytes)',
                    legend="used",
                ),
            ),
            low=0,
            width=8,
        ),
        Panel(
            title="Delay from window close to emit",
            description="Quantiles of the time from the close of a window to its confirmed session. Expect a p99"
            " below 2 s.",
            unit="s",
            kind="timeseries",
            queries=quantiles("shelfwise_join_emit_delay_seconds"),
            low=0,
            width=12,
        ),
        Panel(
            title="Rebalances",
            description="Rebalances of the join's consumer group within the rate interval. Frequent ones point to"
            " slow workers.",
            unit="short",
            kind="timeseries",
            queries=(Query(text=f"sum(increase(shelfwise_join_rebalances_total{STEP}))", legend="rebalances"),),
            low=0,
            width=12,
        ),
    ),
)
