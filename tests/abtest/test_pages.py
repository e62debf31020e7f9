"""Pages of experiments in the database."""

from html.parser import HTMLParser

from sqlalchemy import Engine

from abtest import pages
from abtest.plan import Plan
from abtest.store import ExperimentStore
from abtest.watch import Watcher
from tests.harness.generated_facts import ARMS, fill, generate


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [str(value) for name, value in attrs if name in {"src", "href", "action"}]


def links(page: str) -> list[str]:
    parser = Links()
    parser.feed(page)
    return parser.found


def test_the_list_names_each_experiment_and_links_those_with_a_page(store_engine: Engine) -> None:
    assert "There is no experiment." in pages.list_page(store_engine)
    store = ExperimentStore(store_engine)
    for number, key in enumerate(("old", "new")):
        store.create(key=key, arms=ARMS, now_ts=number, layer=key)
    pages.write(store_engine, "old", as_of=1, verdict="ship <it>", html="<p>one</p>")
    found = pages.list_page(store_engine)
    assert links(found) == ["/experiments/old"]
    assert found.index(">new<") < found.index(">old<")
    assert "no report yet" in found
    assert "ship &lt;it&gt;" in found


def test_a_page_of_earlier_data_replaces_none_of_later(store_engine: Engine) -> None:
    ExperimentStore(store_engine).create(key="first", arms=ARMS, now_ts=0)
    assert pages.page(store_engine, "first") is None
    for as_of, html in ((5, "five"), (4, "four")):
        pages.write(store_engine, "first", as_of=as_of, verdict="", html=html)
        assert pages.page(store_engine, "first") == "five"
    pages.write(store_engine, "first", as_of=5, verdict="", html="five again")
    assert pages.page(store_engine, "first") == "five again"
    assert pages.page(store_engine, "other") is None


def test_the_watcher_writes_the_page(store_engine: Engine) -> None:
    fill(store_engine, generate(seed=15, num_clients=60)[0], plan=Plan(min_buyers=5))
    Watcher(store_engine).round()
    page = pages.page(store_engine, "first")
    assert page is not None
    assert "<h2>Goals</h2>" in page
    assert links(pages.list_page(store_engine)) == ["/experiments/first"]
