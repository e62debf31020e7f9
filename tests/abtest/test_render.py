from html.parser import HTMLParser

import pytest
from sqlalchemy import Engine

from abtest import render
from abtest.report import report
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
    fill(store_engine, generate(seed=19)[0])
    page = render.report_html(report(store_engine, "first"))
    assert page == render.report_html(report(store_engine, "first"))
    references = References()
    references.feed(page)
    assert references.found == []
    assert "svg" in references.tags
    assert "script" not in references.tags
    for row in render.table_rows(report(store_engine, "first")):
        assert all(f"<td>{cell}</td>" in page for cell in row)
