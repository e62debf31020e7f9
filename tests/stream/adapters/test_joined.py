"""Adapted events of each source through the join: the list, what was clicked on it and what was bought of it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stream.adapters import adapt
from stream.schemas import topics
from tests.laws.join_log import CLIENTS, SETTINGS, Log, Sent, run

GOLDEN = Path(__file__).parent / "golden"
WINDOWS = replace(SETTINGS, attribution_s=86_400, refund_s=604_800)


def sent_of(name: str, client: str, titles: list[str]) -> list[Sent]:
    """Return the records of these cases, their client renamed to one of the partition under test."""
    cases = {case["title"]: case["source"] for case in json.loads((GOLDEN / f"{name}.json").read_text())}
    sent = []
    for title in titles:
        raw = json.dumps(cases[title]).replace(f'"{client}"', f'"{CLIENTS[0]}"').encode()
        adapted, rejected = adapt(name, raw)
        assert rejected == []
        for result in adapted:
            assert result.key == CLIENTS[0].encode()
            sent.append(Sent(result.topic, CLIENTS[0], result.value, result.record.event_ts))
    return sent


@pytest.mark.parametrize(
    ("name", "client", "titles", "gross", "link"),
    [
        (
            "ubi",
            "c-81",
            ["a query with its hits is an impression", "a click", "a purchase without money"],
            0,
            "query_id",
        ),
        (
            "ga4",
            "531.77",
            ["a list, ordered by index", "a click and a cart addition of two items in one payload", "a purchase"],
            0,  # the order is in another currency than the list
            "query_id",
        ),
        ("segment", "a-5", ["a list", "a click", "an order", "a refund"], 5997, "query_id"),
        (
            "snowplow",
            "d-71",
            ["a list, linked by its name", "a click on a list without a link", "a transaction", "a refund of one line"],
            3998,
            "inferred",
        ),
        ("metarank", "c-7", ["a ranking", "a click", "a purchase with money"], 5997, "query_id"),
    ],
)
def test_a_shop_of_this_source_has_labelled_sessions(
    name: str, client: str, titles: list[str], gross: int, link: str
) -> None:
    sent = sent_of(name, client, titles)
    # Sent twice: ids from the source's own fields make the copies duplicates.
    outputs = run(Log.of([*sent, *sent], settings=WINDOWS), settings=WINDOWS).outputs
    last = max(outputs.sessions(), key=lambda one: one.revision)
    at = last.item_id.index("lamp-3")
    assert last.column("clicks")[at] == 1
    assert last.column("orders")[at] >= 1
    assert last.column("gross_minor")[at] == gross
    assert link in {event.link for event in last.events}
    assert not outputs.dead_letters(topics.DEAD_LETTERS)
    if "refund" in titles[-1]:
        assert last.column("refund_minor")[at] == 1999
