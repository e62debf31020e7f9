"""The thread that builds features and runs models, so that the event loop can answer while a model is still busy.

Lists are scored one at a time, without batches. A list that waited for half of its deadline is not scored, and a list
that arrives while the thread is past a deadline does not wait.

Source: docs/serving.md.
"""

import asyncio
import contextvars
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from serving.ranking import rank
from serving.ranking.context import RankContext
from serving.ranking.features import FeatureBuilder, RequestFeatures

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Result:
    features: RequestFeatures | None = None
    scores: Sequence[float] | None = None
    fallback: str | None = None


@dataclass(slots=True, kw_only=True)
class _Job:
    """One list on its way through the thread.

    Attributes:
        context: The request; the thread only reads it.
        log_context: Context variables of the request, so that log lines of the thread carry its id.
        done: Receives the result, unless the deadline has passed.
        features: Set by the thread as soon as they are built, so that a late answer can log them.
    """

    context: RankContext
    log_context: contextvars.Context
    done: "asyncio.Future[_Result]"
    features: RequestFeatures | None = None


class Inference:
    """The inference thread and its queue."""

    def __init__(self, features: FeatureBuilder, clock: Callable[[], float], *, max_waiting: int = 256) -> None:
        """Prepare the thread.

        Args:
            features: Builder of the features.
            clock: Monotonic seconds, the clock of the deadlines.
            max_waiting: Lists that may wait; further ones are answered in incoming order.
        """
        self._features = features
        self._clock = clock
        self._queue: queue.Queue[_Job | None] = queue.Queue(max_waiting)
        self._running: _Job | None = None
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 1.0) -> None:
        """End the thread after the list that it works on; a thread that is stuck in a model is abandoned."""
        self._queue.put(None)
        self._thread.join(timeout_s)

    async def score(self, context: RankContext) -> None:
        """Fill the features and the scores, or the fallback, of a context before its deadline.

        Without a version only the features are built. The thread's later results change nothing.
        """
        result = await self._result(context)
        context.features = result.features
        if context.version is not None:
            context.scores, context.fallback = result.scores, result.fallback

    async def _result(self, context: RankContext) -> _Result:
        running = self._running
        now_s = self._clock()
        if running is not None and now_s > running.context.deadline_s:
            return _Result(fallback=rank.STUCK)
        done: asyncio.Future[_Result] = asyncio.get_running_loop().create_future()
        job = _Job(context=context, log_context=contextvars.copy_context(), done=done)
        try:
            self._queue.put_nowait(job)
        except queue.Full:
            return _Result(fallback=rank.WAITED)
        try:
            async with asyncio.timeout(max(context.deadline_s - now_s, 0)):
                return await job.done
        except TimeoutError:
            return _Result(features=job.features, fallback=rank.LATE)

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            self._running = job
            result = job.log_context.run(self._work, job)
            self._running = None
            try:
                job.done.get_loop().call_soon_threadsafe(_finish, job.done, result)
            except RuntimeError:
                _log.debug("the event loop is closed, a late result is dropped")

    def _work(self, job: _Job) -> _Result:
        context = job.context
        if self._clock() > context.arrival_s + (context.deadline_s - context.arrival_s) / 2:
            return _Result(fallback=rank.WAITED)
        identity = context.identity
        try:
            job.features = self._features.build(
                context.request, identity.query_id, identity.event_ts, context.price_minor
            )
            if context.version is None:
                return _Result(features=job.features)
            scores = context.version.scorer.score(job.features.example)
        except Exception:  # noqa: BLE001 - any error of a model is answered in incoming order
            _log.exception("a list could not be scored")
            return _Result(features=job.features, fallback=rank.ERROR)
        fault = rank.fault_of(scores, len(job.features.example.item_ids))
        return _Result(features=job.features, scores=None if fault else scores, fallback=fault)


def _finish(done: "asyncio.Future[_Result]", result: _Result) -> None:
    if not done.done():
        done.set_result(result)
