import tracemalloc

import numpy as np
import pytest

from stream.errors import SchemaError
from stream.replicas.profiles import MAX_BEHAVIOURS, Profiles, decode
from stream.schemas import topics
from stream.schemas.events import MAX_PAGE_ITEMS, MAX_PAGES, Behaviour, ClickedPage, History, Profile, encode
from stream.schemas.session import ACTION_CODES
from tests.stream.replicas.test_catalogue import StoredRecord


def profile(client: str, *times: int) -> Profile:
    return Profile(
        client_id=client,
        behaviours=[Behaviour(event_id=f"e{t}", item_id=f"i{t}", action="click", event_ts=t) for t in times],
        updated_ts=max(times),
    )


def record(value: Profile | None, offset: int, client: str) -> StoredRecord:
    return StoredRecord(client.encode(), encode(value) if value else None, offset, topic=topics.PROFILES)


def test_behaviours_come_newest_first_and_are_capped() -> None:
    profiles = Profiles()
    profiles.apply([record(profile("a", *range(1, 71)), 0, "a")])
    newest = range(70, 70 - MAX_BEHAVIOURS, -1)
    assert profiles.history("a", 70).object_id == [f"i{time}" for time in newest]
    assert profiles.history("nobody", 70) == History(object_id=[], action=[], age_s=[], category=[])


def test_tombstones_delete_and_bad_records_are_counted() -> None:
    profiles = Profiles()
    bad = StoredRecord(b"c", b"[1]", 2, topic=topics.PROFILES)
    assert profiles.apply([record(profile("a", 1), 0, "a"), record(None, 1, "a"), bad]) == 2
    assert "a" not in profiles
    assert profiles.num_rejected == 1
    assert profiles.positions == {(topics.PROFILES, 0): 3}


def test_the_client_used_longest_ago_leaves_first() -> None:
    profiles = Profiles(capacity=2)
    profiles.put(profile("a", 1))
    profiles.put(profile("b", 1))
    assert profiles.history("a", 1).object_id
    profiles.put(profile("c", 1))
    assert "b" not in profiles
    assert len(profiles) == 2
    assert profiles.num_evicted == 1


def test_refusals_name_the_field() -> None:
    with pytest.raises(ValueError, match="capacity = 0"):
        Profiles(capacity=0)
    with pytest.raises(SchemaError, match="schema_version 9"):
        decode(encode(Profile(schema_version=9, client_id="a", behaviours=[], updated_ts=0)))


def visits(client: str, rng: np.random.Generator, num: int) -> Profile:
    actions = [*ACTION_CODES, "hover"]
    behaviours = [
        Behaviour(
            event_id=f"{client}-{number}",
            item_id=f"item-{rng.integers(1_000_000):08d}",
            action=actions[rng.integers(len(actions))],
            event_ts=int(rng.integers(0, 2**50)),
            category=(None, "", "Shoes", "Shoes > Men", "\u00e9\0")[rng.integers(5)],
            price_minor=int(rng.integers(1_000_000)),
        )
        for number in range(num)
    ]
    pages = [
        ClickedPage(
            query_id=f"{client}-{number}",
            impression_ts=int(rng.integers(0, 2**50)),
            item_id=[f"item-{rng.integers(1_000_000):08d}" for _ in range(MAX_PAGE_ITEMS)],
        )
        for number in range(min(num, MAX_PAGES))
    ]
    return Profile(client_id=client, behaviours=behaviours, pages=pages, updated_ts=2**51)


@pytest.mark.parametrize("num", [0, 1, 30, 70])
def test_a_history_shows_what_its_behaviours_say(num: int) -> None:
    profiles, made = Profiles(), visits("a", np.random.default_rng(num), num)
    profiles.put(made)
    newest = sorted(made.behaviours, key=lambda b: (b.event_ts, b.event_id), reverse=True)[:MAX_BEHAVIOURS]
    known = [b for b in newest if b.action in ACTION_CODES]
    asked_ts = known[len(known) // 2].event_ts + 1_999 if known else 0
    assert profiles.history("a", asked_ts) == History(
        object_id=[b.item_id for b in known],
        action=[b.action for b in known],
        age_s=[max(asked_ts - b.event_ts, 0) // 1_000 for b in known],
        category=[b.category or "" for b in known],
        pages=[page.item_id for page in sorted(made.pages, key=lambda page: page.impression_ts, reverse=True)],
    )


def test_items_of_pages_and_behaviours_take_space_once() -> None:
    rng, profiles = np.random.default_rng(1), Profiles()
    made = visits("a", rng, 5)
    sizes = []
    for item_id in ([b.item_id for b in made.behaviours], [f"other-{number}" for number in range(5)]):
        made.pages = [ClickedPage(query_id="q", impression_ts=1, item_id=item_id)]
        profiles.put(made)
        assert profiles.history("a", 0).pages == [item_id]
        sizes.append(len(profiles._clients["a"]))
    assert sizes[0] < sizes[1]


def test_a_profile_of_an_older_release_has_no_pages() -> None:
    old = decode(
        b'{"schema_version":1,"client_id":"a","behaviours":'
        b'[{"event_id":"e","item_id":"i","action":"click","event_ts":1,"category":"c"}],"updated_ts":1}'
    )
    profiles = Profiles()
    profiles.put(old)
    assert profiles.history("a", 1) == History(object_id=["i"], action=["click"], age_s=[0], category=["c"], pages=[])


def test_a_full_history_takes_at_most_2_kb() -> None:
    rng, num_clients = np.random.default_rng(1), 200
    made = [visits(f"client-{number:032d}", rng, MAX_BEHAVIOURS) for number in range(num_clients)]
    raw = [StoredRecord(b"", encode(each), offset, topic=topics.PROFILES) for offset, each in enumerate(made)]
    profiles = Profiles()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        profiles.apply(raw)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(profiles) == num_clients
    assert after - before < 2_048 * num_clients
