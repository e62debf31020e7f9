"""Quix Streams' interval join of impressions and clicks, left; run by the interpreter of .venv-bench.

Its topics are keyed by query, so that it needs no repartitioning and no filter. It emits a row for each click that
finds its list and one for each list on arrival; it knows no close, no duplicates, no corrections and no orders.

Usage: quix_joiner.py BOOTSTRAP GROUP STATE_FOLDER
"""

import sys


def main(bootstrap: str, group: str, folder: str) -> None:
    """Join until the process is ended."""
    from quixstreams import Application  # type: ignore[import-not-found]  # only in .venv-bench

    def joined(shown: dict[str, object], click: dict[str, object] | None) -> dict[str, object]:
        return {**shown, "click": click}

    def event_ts(value: dict[str, int], *_: object) -> int:
        return value["event_ts"]

    app = Application(
        broker_address=bootstrap,
        consumer_group=group,
        state_dir=folder,
        auto_offset_reset="earliest",
        auto_create_topics=True,
        commit_interval=1.0,
        use_changelog_topics=True,
        on_consumer_error=lambda *_: True,
        producer_extra_config={"linger.ms": 5},
    )
    impressions = app.dataframe(app.topic("quix-impressions", timestamp_extractor=event_ts))
    clicks = app.dataframe(app.topic("quix-clicks", timestamp_extractor=event_ts))
    # Disorder of a minute and duplicates two minutes late must still find their partner.
    joined_rows = impressions.join_interval(
        clicks, how="left", on_merge=joined, grace_ms=20 * 60_000, backward_ms=60_000, forward_ms=15 * 60_000
    )
    joined_rows.to_topic(app.topic("quix-joined"))
    app.run()


if __name__ == "__main__":
    main(*sys.argv[1:4])
