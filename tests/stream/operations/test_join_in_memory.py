from collections.abc import Sequence

from stream.operations.join_in_memory import Joined, join_in_memory
from stream.operations.replay import Replayed
from stream.schemas.events import encode
from tests.laws.join_log import CLIENTS, ITEMS, Event, click, impression, purchase, topic_of


def joined(events: Sequence[Event], *, settle_ms: int | None = None) -> Joined:
    replayed = [
        Replayed(event_ts=event.event_ts, topic=topic_of(event), key=event.client_id.encode(), value=encode(event))
        for event in sorted(events, key=lambda event: event.event_ts)
    ]
    return join_in_memory(replayed) if settle_ms is None else join_in_memory(replayed, settle_ms=settle_ms)


def test_events_become_the_newest_revision_of_each_session() -> None:
    found = joined(
        [
            impression(1),
            click(1, query=1, item=ITEMS[0], at_s=60),
            # After the click window: it corrects the session.
            purchase(1, query=1, items=[ITEMS[0]], at_s=3_000),
            impression(2, client=CLIENTS[1], at_s=5_000),
        ]
    )
    assert set(found.sessions) == {"q1", "q2"}
    assert found.sessions["q1"].revision == 1
    assert found.sessions["q1"].column("orders").sum() == 1
    assert found.counters["joined"] == found.counters["produced"] == 4
    assert (found.num_unjoined, found.num_dead, found.num_open) == (0, 0, 0)


def test_what_does_not_join_is_counted() -> None:
    found = joined([impression(1), click(1, query=None, item=ITEMS[5], at_s=60)])
    assert found.num_unjoined == found.counters["orphan"] == 1
    bad = Replayed(event_ts=impression(1).event_ts, topic="clicks", key=CLIENTS[0].encode(), value=b"{}")
    assert join_in_memory([bad]).num_dead == 1


def test_windows_that_are_not_over_are_counted_as_open() -> None:
    assert joined([impression(1)], settle_ms=60_000).num_open == 1


def test_no_events_give_no_sessions() -> None:
    assert joined([]).sessions == {}
