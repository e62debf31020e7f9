import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import numpy as np
import pytest

from deploy.simulation.marketplace.market import Listing, Market
from deploy.simulation.marketplace.rankers import RETRY_S, IncomingOrder, RankingService
from deploy.simulation.marketplace.settings import MarketplaceSettings
from deploy.simulation.marketplace.traffic import searches
from serving.schemas import RankAnswer, RankedItem, decode
from stream.errors import BusError, ConfigError
from stream.schemas.problems import Problem

Request = dict[str, object]
Answer = Callable[[Request], tuple[int, object]]


class Clock:
    """A clock that moves only when something waits."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def wait(self, seconds: float) -> None:
        self.now_s += seconds


@contextmanager
def service(answer: Answer) -> Iterator[str]:
    """A ranking service on a free port that answers what the test says."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = msgspec.json.decode(self.rfile.read(int(self.headers["Content-Length"])), type=Request)
            request["path"] = self.path
            status, document = answer(request)
            body = msgspec.json.encode(document)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Tests print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def candidates(request: Request) -> list[dict[str, object]]:
    return msgspec.convert(request["candidates"], type=list[dict[str, object]])


def ranked(
    request: Request, items: list[dict[str, object]], *, arm: str | None = None, fallback: str | None = None
) -> RankAnswer:
    """Return the answer of a service that shows `items` of the request's candidates."""
    incoming = [row["item_id"] for row in candidates(request)]
    return RankAnswer(
        query_id=str(request["query_id"]),
        items=[
            RankedItem(item_id=str(row["item_id"]), position=k, rank_in=incoming.index(row["item_id"]) + 1, score=None)
            for k, row in enumerate(items, start=1)
        ],
        lineage="base",
        version="3",
        experiment=None,
        arm=arm,
        epoch=None,
        bucket=None,
        fallback=fallback,
        latency_us=1,
        impression_event_id="i-1",
    )


def answer_reversed(request: Request) -> tuple[int, object]:
    return 200, ranked(request, candidates(request)[::-1], arm="treatment")


@pytest.fixture(scope="module")
def market() -> Market:
    return Market(MarketplaceSettings(hours=0.5, clients=500))


@pytest.fixture(scope="module")
def listing(market: Market) -> Listing:
    return market.listing(next(searches(market.world)))


def test_the_served_order_is_shown(market: Market, listing: Listing) -> None:
    seen: list[Request] = []

    def answer(request: Request) -> tuple[int, object]:
        seen.append(request)
        return answer_reversed(request)

    with service(answer) as url:
        ranker = RankingService(market, url)
        shown = ranker.rank(listing)
        assert ranker.rank(listing).order.tolist() == shown.order.tolist()
        ranker.close()
    assert shown.order.tolist() == list(range(29, -1, -1))
    assert (shown.arm, shown.is_fallback, shown.impression) == ("treatment", False, None)
    assert (shown.lineage, shown.version) == ("base", "3")
    request = seen[0]
    assert request["path"] == "/v1/rank"
    assert request["event_ts"] == listing.search.event_ts
    assert set(request) >= {"client_id", "query_id", "session_id", "query", "currency", "candidates", "client"}
    assert [row["price_minor"] for row in candidates(request)] == market.world.items.price_minor[
        listing.candidates.items
    ].tolist()


def test_the_request_tells_no_truth(market: Market, listing: Listing) -> None:
    seen: list[Request] = []

    def answer(request: Request) -> tuple[int, object]:
        seen.append(request)
        return answer_reversed(request)

    with service(answer) as url:
        ranker = RankingService(market, url)
        ranker.rank(listing)
        ranker.close()
    # The service itself takes it.
    body = {name: value for name, value in seen[0].items() if name != "path"}
    assert decode(msgspec.json.encode(body)).query.text
    assert all(set(row) == {"item_id", "price_minor"} for row in candidates(seen[0]))
    assert set(msgspec.convert(seen[0]["client"], type=dict[str, str])) == {"age_band", "gender"}


def test_a_fallback_is_noted(market: Market, listing: Listing) -> None:
    def answer(request: Request) -> tuple[int, object]:
        return 200, ranked(request, candidates(request), fallback="no_version")

    with service(answer) as url:
        ranker = RankingService(market, url)
        shown = ranker.rank(listing)
        ranker.close()
    assert shown.is_fallback
    assert shown.order.tolist() == list(range(30))


def test_an_absent_service_is_awaited_for_a_while_then_reported(market: Market, listing: Listing) -> None:
    with service(answer_reversed) as url:
        pass
    clock = Clock()
    ranker = RankingService(market, url, monotonic=clock.monotonic, wait=clock.wait)
    with pytest.raises(BusError, match="ConnectionRefusedError"):
        ranker.rank(listing)
    assert RETRY_S - 1 <= clock.now_s <= RETRY_S


def test_an_overloaded_service_is_asked_again(market: Market, listing: Listing) -> None:
    answers = iter([503, 503, 200])

    def answer(request: Request) -> tuple[int, object]:
        return (status, {}) if (status := next(answers)) == 503 else answer_reversed(request)

    clock = Clock()
    with service(answer) as url:
        ranker = RankingService(market, url, monotonic=clock.monotonic, wait=clock.wait)
        assert ranker.rank(listing).arm == "treatment"
        ranker.close()
    assert clock.now_s == pytest.approx(0.05 + 0.1)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda _: (400, {"detail": "bad"}), "ranking service: .*answered 400"),
        (lambda _: (400, Problem(error="expected a code", field="currency", value="x")), "currency = x: expected"),
        (lambda request: (200, ranked(request, candidates(request)[:1])), "expected the 30 candidates back, got 1"),
        (lambda _: (200, ["nonsense"]), "answer not understood"),
    ],
)
def test_a_wrong_answer_is_an_error(market: Market, listing: Listing, answer: Answer, message: str) -> None:
    with service(answer) as url:
        ranker = RankingService(market, url)
        with pytest.raises(BusError, match=message):
            ranker.rank(listing)
        ranker.close()


def test_an_address_that_cannot_be_meant_is_refused(market: Market) -> None:
    with pytest.raises(ConfigError, match="expected http://HOST:PORT"):
        RankingService(market, "127.0.0.1:8080")


def test_the_incoming_order_brings_its_impression(market: Market, listing: Listing) -> None:
    shown = IncomingOrder(market).rank(listing)
    assert shown.order.tolist() == np.arange(30).tolist()
    assert shown.impression is not None
