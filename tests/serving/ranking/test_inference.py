import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from serving.ranking import rank
from serving.ranking.admission import Decision
from serving.ranking.context import RankContext
from serving.ranking.features import FeatureBuilder
from serving.ranking.inference import Inference
from serving.ranking.versions import NO_VERSION, ServedVersion
from stream.replicas.catalogue import Catalogue
from stream.replicas.profiles import Profiles
from tests.serving.world import StubScorer, context, items, request

LIMIT_S = 60.0


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Blocked:
    """A model that waits until the test releases it."""

    def __init__(self) -> None:
        self.entered, self.released = threading.Event(), threading.Event()

    def __call__(self, num: int) -> Sequence[float]:
        self.entered.set()
        self.released.wait(LIMIT_S)
        return [1.0] * num


@pytest.fixture
def clock() -> Clock:
    return Clock()


def inference(clock: Clock, *, max_waiting: int = 10) -> Inference:
    return Inference(
        FeatureBuilder(Catalogue(items()), Profiles(), num_scored=30, query_hash_key=b"key"),
        clock,
        max_waiting=max_waiting,
    )


def asked(scorer: StubScorer | None, **filled: Any) -> RankContext:
    version = ServedVersion(lineage="base", number=1, artifact="a" * 64, scorer=scorer) if scorer else None
    return context(request(num_candidates=3), version=version, **{"price_minor": [1, 2, 3], **filled})


def scored(thread: Inference, one: RankContext) -> RankContext:
    async def go() -> None:
        thread.start()
        await thread.score(one)
        thread.stop()

    asyncio.run(go())
    return one


def test_features_and_scores_are_filled(clock: Clock) -> None:
    found = scored(inference(clock), asked(StubScorer(lambda n: [float(k) for k in range(n)])))
    assert (found.scores, found.fallback) == ([0.0, 1.0, 2.0], None)
    assert found.features is not None


def test_without_a_version_only_features_are_built(clock: Clock) -> None:
    found = scored(inference(clock), asked(None, fallback=NO_VERSION))
    assert (found.scores, found.fallback) == (None, NO_VERSION)
    assert found.features is not None


@pytest.mark.parametrize(
    ("scores", "fallback"), [([1.0, 2.0], rank.WRONG_LENGTH), ([1.0, 2.0, float("nan")], rank.NOT_FINITE)]
)
def test_a_bad_output_is_a_fallback(clock: Clock, scores: list[float], fallback: str) -> None:
    found = scored(inference(clock), asked(StubScorer(lambda _: scores)))
    assert (found.scores, found.fallback) == (None, fallback)


def test_an_error_of_the_model_keeps_the_features(clock: Clock) -> None:
    def fail(num: int) -> Sequence[float]:
        raise RuntimeError(f"no scores for {num} items")

    found = scored(inference(clock), asked(StubScorer(fail)))
    assert (found.scores, found.fallback) == (None, rank.ERROR)
    assert found.features is not None


def test_an_error_in_the_features_is_a_fallback_without_features(clock: Clock) -> None:
    found = scored(inference(clock), asked(StubScorer(), price_minor=[1]))
    assert (found.features, found.scores, found.fallback) == (None, None, rank.ERROR)


def test_a_full_queue_does_not_wait(clock: Clock) -> None:
    thread = inference(clock, max_waiting=1)

    async def go() -> tuple[RankContext, RankContext]:
        first, second = asked(StubScorer()), asked(StubScorer())
        waiting = asyncio.create_task(thread.score(first))
        await asyncio.sleep(0)
        await thread.score(second)
        thread.start()
        await waiting
        thread.stop()
        return first, second

    first, second = asyncio.run(go())
    assert (first.fallback, second.fallback) == (None, rank.OVERLOAD)


def test_a_list_whose_scores_are_overdue_is_not_scored(clock: Clock) -> None:
    clock.now_s = 54.5
    scorer = StubScorer()
    found = scored(inference(clock), asked(scorer))
    assert (found.features, found.fallback, found.is_shed, scorer.num_calls) == (None, rank.OVERLOAD, True, 0)


def with_one_under_way(
    clock: Clock, *, takes_s: float, then: Callable[[Inference, Blocked], Awaitable[None]]
) -> RankContext:
    """Let the thread score a list in `takes_s` and work on another, whose context is returned, while `then` runs."""
    thread, blocked = inference(clock), Blocked()
    last = asked(StubScorer(blocked))

    def slow(num: int) -> Sequence[float]:
        clock.now_s += takes_s
        return [1.0] * num

    async def go() -> None:
        thread.start()
        await thread.score(asked(StubScorer(slow)))
        clock.now_s = 0.0
        waiting = asyncio.create_task(thread.score(last))
        await asyncio.to_thread(blocked.entered.wait, LIMIT_S)
        await then(thread, blocked)
        blocked.released.set()
        await waiting
        thread.stop()

    asyncio.run(go())
    return last


def test_a_list_that_cannot_be_scored_in_time_is_shed_at_once(clock: Clock) -> None:
    found = asked(StubScorer())

    async def then(thread: Inference, _: Blocked) -> None:
        assert thread.admit(found.scores_due_s) is Decision.INCOMING_ORDER
        await thread.score(found)
        thread.spent(1e9)
        assert thread.admit(found.scores_due_s) is Decision.REFUSE

    last = with_one_under_way(clock, takes_s=30.0, then=then)
    assert (last.fallback, last.is_shed) == (None, False)
    assert (found.features, found.fallback, found.is_shed) == (None, rank.OVERLOAD, True)


def test_a_client_without_a_version_is_shed_without_a_fallback(clock: Clock) -> None:
    found = asked(None, fallback=NO_VERSION)

    async def then(thread: Inference, _: Blocked) -> None:
        await thread.score(found)

    with_one_under_way(clock, takes_s=30.0, then=then)
    assert (found.features, found.fallback, found.is_shed) == (None, NO_VERSION, True)


def test_a_list_whose_turn_comes_too_late_is_not_scored(clock: Clock) -> None:
    scorer = StubScorer()
    found = asked(scorer)

    async def then(thread: Inference, blocked: Blocked) -> None:
        waiting = asyncio.create_task(thread.score(found))
        await asyncio.sleep(0)
        clock.now_s = 53.0
        blocked.released.set()
        await waiting

    with_one_under_way(clock, takes_s=2.0, then=then)
    assert (found.features, found.fallback, found.is_shed, scorer.num_calls) == (None, rank.WAITED, False, 0)


def test_after_a_stall_the_newest_list_comes_first(clock: Clock) -> None:
    order: list[int] = []

    def noting(number: int) -> Callable[[int], Sequence[float]]:
        def answer(num: int) -> Sequence[float]:
            order.append(number)
            return [1.0] * num

        return answer

    async def then(thread: Inference, blocked: Blocked) -> None:
        waiting = [
            asyncio.create_task(thread.score(asked(StubScorer(noting(number)), arrival_s=number, deadline_s=60.0)))
            for number in range(4)
        ]
        await asyncio.sleep(0)
        clock.now_s = 40.0
        blocked.released.set()
        await asyncio.gather(*waiting)

    with_one_under_way(clock, takes_s=2.0, then=then)
    assert order[0] == 3


def test_while_the_thread_hangs_incoming_order_needs_no_budget(clock: Clock) -> None:
    async def then(thread: Inference, _: Blocked) -> None:
        thread.spent(1e9)
        clock.now_s = 539.0
        assert thread.admit(600.0) is Decision.REFUSE
        clock.now_s = 541.0
        thread.spent(1e9)
        assert thread.admit(600.0) is Decision.INCOMING_ORDER
        assert thread.admit(540.0) is Decision.REFUSE

    with_one_under_way(clock, takes_s=2.0, then=then)


def test_a_late_result_changes_nothing_and_the_next_list_does_not_wait(clock: Clock) -> None:
    thread, blocked = inference(clock), Blocked()

    async def go() -> tuple[RankContext, RankContext, RankContext]:
        thread.start()
        late, stuck = asked(StubScorer(blocked)), asked(StubScorer())
        waiting = asyncio.create_task(thread.score(late))
        await asyncio.to_thread(blocked.entered.wait, LIMIT_S)
        clock.now_s = 60.5
        await thread.score(stuck)
        clock.now_s = 0.0
        blocked.released.set()
        await waiting
        overdue = asked(StubScorer(), deadline_s=0.0)
        await thread.score(overdue)
        thread.stop()
        return late, stuck, overdue

    _, stuck, overdue = asyncio.run(go())
    assert (stuck.features, stuck.scores, stuck.fallback) == (None, None, rank.STUCK)
    assert (overdue.scores, overdue.fallback) == (None, rank.LATE)
