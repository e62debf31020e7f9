from html.parser import HTMLParser

import pytest
from sqlalchemy import Engine

from abtest import render
from abtest.plan import Plan
from abtest.report import decide, report
from tests.harness.generated_facts import fill, generate


class References(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [str(value) for name, value in attrs if name in {"src", "href", "action"}]


@pytest.mark.slow
def test_html_is_one_file_and_repeats_byte_by_byte(store_engine: Engine) -> None:
    fill(store_engine, generate(seed=19)[0], plan=Plan(min_buyers=20))
    decide(store_engine, "first")
    page = render.report_html(report(store_engine, "first"))
    assert page == render.report_html(report(store_engine, "first"))
    references = References()
    references.feed(page)
    assert references.found == []
    assert "svg" in references.tags
    assert "script" not in references.tags
    found = report(store_engine, "first")
    assert len(found.looks) == 1
    for row in (*render.table_rows(found), *render.look_rows(found)):
        assert all(f"<td>{cell}</td>" in page for cell in row)


@pytest.mark.slow
def test_a_verdict_that_is_open_names_its_date_and_the_missing_clients(store_engine: Engine) -> None:
    fill(store_engine, generate(seed=19)[0], plan=Plan(looks=2, clients=600, min_buyers=20))
    found = report(store_engine, "first")
    assert render.verdict_line(found).startswith("keep running until 1970-01-02 (300 more clients)")
    assert "`shelfwise abtest decide first` takes one." in render.report_markdown(found)
