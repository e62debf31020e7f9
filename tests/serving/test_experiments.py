"""Pages of experiments as the service reads them."""

import asyncio
import threading

import pytest

from serving.experiments import ExperimentPages, NoPageError, PagesUnavailableError
from stream.errors import StoreError


def test_pages_are_what_the_database_holds() -> None:
    pages = ExperimentPages(lambda: "list", {"a": "page"}.get)
    assert asyncio.run(pages.listed()) == "list"
    assert asyncio.run(pages.page("a")) == "page"
    with pytest.raises(NoPageError, match="experiment 'b' has no page"):
        asyncio.run(pages.page("b"))


@pytest.mark.parametrize("key", ["\0", "a\0", "", "größe", "a/b", "k" * 65, "\ufffd", "' OR 1=1 --"])
def test_what_is_no_name_of_an_experiment_is_not_looked_up(key: str) -> None:
    """PostgreSQL takes no zero byte in a text, which would look like a database that does not answer."""
    asked: list[str] = []
    with pytest.raises(NoPageError):
        asyncio.run(ExperimentPages(None, asked.append).page(key))
    assert asked == []


def test_a_database_that_refuses_is_not_named_to_the_caller() -> None:
    def refuse() -> str:
        raise StoreError("database postgresql://user@host/shop: no")

    with pytest.raises(PagesUnavailableError, match=r"^the database does not answer$"):
        asyncio.run(ExperimentPages(refuse, lambda _key: None).listed())
    with pytest.raises(PagesUnavailableError, match="has no database"):
        asyncio.run(ExperimentPages(None, None).page("a"))


def test_a_database_that_stalls_holds_up_one_reader() -> None:
    answers, entered = threading.Event(), threading.Event()

    def stall() -> str:
        entered.set()
        assert answers.wait(60)
        return "late"

    pages = ExperimentPages(stall, lambda _key: "page")

    async def ask() -> str:
        first = asyncio.create_task(pages.listed())
        await asyncio.to_thread(entered.wait, 60)
        with pytest.raises(PagesUnavailableError, match="another page is being read"):
            await pages.page("a")
        answers.set()
        return await first

    assert asyncio.run(ask()) == "late"
    assert asyncio.run(pages.page("a")) == "page"
