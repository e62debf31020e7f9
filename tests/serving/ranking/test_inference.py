import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from serving.ranking import rank
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
    assert (first.fallback, second.fallback) == (None, rank.WAITED)


def test_a_list_past_half_of_its_deadline_is_not_scored(clock: Clock) -> None:
    clock.now_s = 30.5
    scorer = StubScorer()
    found = scored(inference(clock), asked(scorer))
    assert (found.features, found.fallback, scorer.num_calls) == (None, rank.WAITED, 0)


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
