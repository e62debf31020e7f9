"""The page of annotators in Chromium, by keys alone, against a service on a memory broker."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from serving import run
from serving.settings import ServingSettings
from serving.tokens import Role, make
from stream import db
from stream.broker.reader import read_to_end
from stream.broker.settings import Broker
from stream.replicas.annotations import Annotations
from stream.schemas import topics
from stream.schemas.annotation import Annotation
from tests.harness.chromium import Tab, browser
from tests.serving.live import live
from tests.serving.world import World
from tests.trainer.annotation.test_scored_lists import LIST
from trainer.annotation.files import write_pages
from trainer.annotation.pages import rows_of

pytestmark = pytest.mark.system

TOKEN, LINE = make(Role.ANNOTATE, lambda num: b"t" * num)
ROWS = [
    row
    for number in range(3)
    for row in rows_of(replace(LIST, query_id=f"q-{number}"), 0.7, "p70", f"query {number}", {"i0": "<b>A</b>"})
]


@pytest.fixture
def address(tmp_path: Path, memory_broker: Broker) -> Iterator[str]:
    path = tmp_path / "pages.jsonl"
    write_pages(path, ROWS)
    service = run.build(
        ServingSettings(annotation_pages=str(path), tokens=str(LINE)),
        home=tmp_path,
        broker=memory_broker,
        engine=db.create(World(tmp_path).url),
        query_hash_key=b"key",
    )
    with live(service) as found:
        yield found


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Tab]:
    with browser(tmp_path) as found:
        yield found


def status(tab: Tab) -> str:
    return str(tab.value("document.getElementById('status').textContent"))


def start(tab: Tab, address: str, token: str = TOKEN) -> None:
    tab.open(f"{address}/annotate")
    tab.value("document.getElementById('annotator').focus()")
    tab.press(*"ann")
    tab.value(f"document.getElementById('token').value = '{token}'")
    tab.press("Enter")


def started(tab: Tab, address: str) -> None:
    start(tab, address)
    tab.wait_for("!document.getElementById('work').hidden")


def sent(broker: Broker) -> list[Annotation]:
    found = Annotations()
    found.apply(read_to_end(broker, topics.ANNOTATIONS))
    return list(found.by_id.values())


def test_pages_are_labelled_undone_corrected_and_sent_by_keys(tab: Tab, address: str, memory_broker: Broker) -> None:
    started(tab, address)
    assert tab.value("document.getElementById('query').textContent") == "query 0"
    assert tab.value("document.getElementById('done').textContent") == "Page 1 of 3, 0 saved"
    # Titles are text, never markup.
    assert tab.value("document.querySelectorAll('li').length") == 2
    assert tab.value("document.querySelectorAll('li b').length") == 0
    assert "<b>A</b>" in tab.value("document.getElementById('items').textContent")
    tab.press("4", "Enter")
    assert status(tab) == "1 of 2 items have no grade yet."
    tab.press("1", "u", "2")
    assert status(tab) == "All items of the page have a grade. Enter sends them."
    tab.press("Enter")
    tab.wait_for("document.getElementById('done').textContent === 'Page 2 of 3, 1 saved'")
    assert [(each.query_id, each.item_id, each.grade) for each in sent(memory_broker)] == [
        ("q-0", ROWS[0].item_id, 4),
        ("q-0", ROWS[1].item_id, 2),
    ]
    assert {each.annotator for each in sent(memory_broker)} == {"ann"}
    assert all(0 <= (each.seconds or -1) < 600 for each in sent(memory_broker))
    # Back to what was sent: the arrows, another grade for the second item, and only that is sent.
    tab.press("Left", "Down", "7", "Enter")
    tab.wait_for("document.getElementById('done').textContent === 'Page 2 of 3, 1 saved'")
    assert [(each.item_id, each.grade) for each in sent(memory_broker)[2:]] == [(ROWS[1].item_id, 7)]
    # The one before the correction comes back as a later judgement.
    tab.press("u", "Enter")
    tab.wait_for("document.getElementById('done').textContent === 'Page 2 of 3, 1 saved'")
    found = Annotations()
    found.apply(read_to_end(memory_broker, topics.ANNOTATIONS))
    assert [(each.item_id, each.grade) for each in found.counting()] == [(ROWS[0].item_id, 4), (ROWS[1].item_id, 2)]
    tab.press("1", "1", "Enter")
    tab.wait_for("document.getElementById('done').textContent === 'Page 3 of 3, 2 saved'")
    tab.press("3")
    # A reload keeps a grade that was not sent.
    started(tab, address)
    assert tab.value("document.getElementById('done').textContent") == "Page 3 of 3, 2 saved"
    assert tab.value("document.querySelectorAll('[aria-pressed=true]').length") == 1
    tab.press("Down", "0", "Enter")
    tab.wait_for("document.getElementById('done').textContent === 'Page 3 of 3, 3 saved'")
    assert status(tab) == "Saved. All pages are saved."
    assert len(found.counting()) + 4 == len({each.identity for each in sent(memory_broker)}) == 6


def test_what_is_refused_is_shown_and_nothing_is_lost(tab: Tab, address: str) -> None:
    start(tab, address, token="wrong")
    tab.wait_for("document.getElementById('status').textContent")
    assert status(tab) == "No pages: the bearer token is unknown or has expired"
    started(tab, address)
    tab.press("4", "4")
    tab.value("document.getElementById('token').value = ''")
    tab.press("Enter")
    tab.wait_for("document.getElementById('status').textContent.startsWith('Not saved')")
    assert "Enter tries again" in status(tab)
    tab.value(f"document.getElementById('token').value = '{TOKEN}'")
    tab.press("Enter")
    tab.wait_for("document.getElementById('done').textContent === 'Page 2 of 3, 1 saved'")


def test_two_tabs_of_an_annotator_keep_each_others_grades(tab: Tab, address: str, memory_broker: Broker) -> None:
    other = tab.another()
    started(tab, address)
    started(other, address)
    tab.press("4")
    other.wait_for("document.querySelectorAll('[aria-pressed=true]').length === 1")
    other.press("Down", "2")
    tab.wait_for("document.querySelectorAll('[aria-pressed=true]').length === 2")
    # The grades of both are sent by one, and none of them again by the other.
    tab.press("Enter")
    tab.wait_for("document.getElementById('done').textContent === 'Page 2 of 3, 1 saved'")
    other.wait_for("document.getElementById('done').textContent === 'Page 1 of 3, 1 saved'")
    other.press("Enter")
    other.wait_for("document.getElementById('done').textContent === 'Page 2 of 3, 1 saved'")
    tab.press("1", "u")
    other.wait_for("document.querySelectorAll('[aria-pressed=true]').length === 0")
    started(tab, address)
    assert tab.value("document.getElementById('done').textContent") == "Page 2 of 3, 1 saved"
    assert [(each.item_id, each.grade) for each in sent(memory_broker)] == [
        (ROWS[0].item_id, 4),
        (ROWS[1].item_id, 2),
    ]


@pytest.mark.parametrize("width", [320, 1_200])
def test_nothing_is_cut_off(tab: Tab, address: str, width: int) -> None:
    tab.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
    started(tab, address)
    assert tab.value("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
    # The item in turn has the focus, so that a screen reader reads it and the tab key goes on from there.
    assert tab.value("document.activeElement.getAttribute('aria-current')") == "true"
    assert tab.value("document.querySelectorAll('input:not(label input), button:empty').length") == 0
