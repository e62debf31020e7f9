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

    app = Application(
        broker_address=bootstrap,
        consumer_group=group,
        state_dir=folder,
        auto_offset_reset="earliest",
        auto_create_topics=True,
        commit_interval=1.0,
        use_changelog_topics=True,
        # A static member, as our worker is: its restart need not wait for the dead one's session to end.
        consumer_extra_config={"group.instance.id": "bench"},
        producer_extra_config={"linger.ms": 5},
    )
    impressions = app.dataframe(app.topic("quix-impressions"))
    clicks = app.dataframe(app.topic("quix-clicks"))
    # Rows are kept for the default seven days: with less, disorder between the topics loses partners.
    joined_rows = impressions.join_interval(
        clicks, how="left", on_merge=joined, backward_ms=60_000, forward_ms=15 * 60_000
    )
    joined_rows.to_topic(app.topic("quix-joined"))
    app.run()


if __name__ == "__main__":
    main(*sys.argv[1:4])
