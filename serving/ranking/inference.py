"""The thread that builds features and runs models, so that the event loop can answer while a model is still busy.

Lists are scored one at a time, without batches. A list that cannot be scored in time is not admitted to the queue, or
leaves it, and a list that arrives while the thread is past the time of another does not wait.

Source: docs/serving.md.
"""

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from serving.ranking import rank
from serving.ranking.admission import Admission, Decision
from serving.ranking.context import RankContext
from serving.ranking.features import FeatureBuilder, RequestFeatures
from serving.ranking.waiting import WaitingLists

# Share of the time that `Service.rank` may spend on answers in incoming order to requests that are shed. With HTTP, and
# the delivery of the impression by other threads, such an answer costs the process about four times as much.
_SHED_BUDGET: Final = 0.01

# A thread that has been busy with one list for so many times its time is taken to hang, and not to be slow.
_HUNG: Final = 10.0

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
        done: Receives the result, unless the scores are late.
        is_tried: Whether nothing was ahead of it.
        features: Set by the thread as soon as they are built, so that a late answer can log them.
    """

    context: RankContext
    log_context: contextvars.Context
    done: "asyncio.Future[_Result]"
    is_tried: bool
    features: RequestFeatures | None = None

    @property
    def due_s(self) -> float:
        return self.context.scores_due_s


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
        self._admission = Admission(budget=_SHED_BUDGET)
        self._waiting: WaitingLists[_Job] = WaitingLists(max_waiting)
        self._changed = threading.Condition()
        self._is_stopping = False
        self._running: _Job | None = None
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 1.0) -> None:
        """End the thread after the lists that wait; a thread that is stuck in a model is abandoned."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def admit(self, scores_due_s: float) -> Decision:
        """Return the way in which a request is answered whose scores are due at that time, if its headers arrive now.

        The request counts as one of the queue until `score` takes it, `forget` is called, or its scores are due.
        """
        now_s = self._clock()
        if self._is_stuck(now_s, since=_HUNG):
            return self._admission.admit_unscored(scores_due_s, now_s)
        return self._admission.admit(scores_due_s, len(self._waiting), now_s)

    def forget(self, scores_due_s: float) -> None:
        """Forget a request that `admit` let in and that ended before `score`."""
        self._admission.forget(scores_due_s)

    def spent(self, seconds: float) -> None:
        """Take the seconds of a request that was shed from the budget of such requests."""
        self._admission.spent(seconds)

    async def score(self, context: RankContext) -> None:
        """Fill the features and the scores, or the fallback, of a context before its scores are due.

        Without a version only the features are built. The thread's later results change nothing.
        """
        result = await self._result(context)
        context.features = result.features
        context.is_shed = result.fallback in {rank.OVERLOAD, rank.STUCK}
        if context.version is not None:
            context.scores, context.fallback = result.scores, result.fallback

    async def _result(self, context: RankContext) -> _Result:
        now_s = self._clock()
        decision = self._admission.decide(context.scores_due_s, len(self._waiting), now_s)
        if self._is_stuck(now_s):
            return _Result(fallback=rank.STUCK)
        if decision is not Decision.SCORE:
            return _Result(fallback=rank.OVERLOAD)
        done: asyncio.Future[_Result] = asyncio.get_running_loop().create_future()
        with self._changed:
            is_tried = self._admission.is_idle(len(self._waiting))
            job = _Job(context=context, log_context=contextvars.copy_context(), done=done, is_tried=is_tried)
            if not self._waiting.put(job):
                return _Result(fallback=rank.OVERLOAD)
            self._changed.notify()
        try:
            async with asyncio.timeout(max(context.scores_due_s - now_s, 0)):
                return await job.done
        except TimeoutError:
            return _Result(features=job.features, fallback=rank.LATE)

    def _is_stuck(self, now_s: float, *, since: float = 1.0) -> bool:
        running = self._running
        if running is None:
            return False
        arrival_s = running.context.arrival_s
        return now_s > arrival_s + since * (running.due_s - arrival_s)

    def _run(self) -> None:
        while (job := self._next()) is not None:
            result = job.log_context.run(self._work, job)
            self._running = None
            self._admission.finished(self._clock())
            _answer(job, result)

    def _next(self) -> _Job | None:
        """Return the list to score, after answering those whose turn came too late; None after the last one."""
        while True:
            with self._changed:
                while not len(self._waiting):
                    if self._is_stopping:
                        return None
                    self._changed.wait()
                now_s = self._clock()
                job, expired = self._waiting.take(now_s, self._admission.mean_s)
                if job is not None:
                    self._running = job
                    self._admission.started(now_s)
            for each in expired:
                _answer(each, _Result(fallback=rank.WAITED))
            if job is not None:
                return job

    def _work(self, job: _Job) -> _Result:
        context = job.context
        identity = context.identity
        try:
            job.features = self._features.build(
                context.request, identity.query_id, identity.event_ts, context.price_minor, context.item_types
            )
            if context.version is None:
                return _Result(features=job.features)
            scores = context.version.scorer.score(job.features.example)
        except Exception:  # noqa: BLE001 - any error of a model is answered in incoming order
            _log.exception("a list could not be scored")
            return _Result(features=job.features, fallback=rank.ERROR)
        fault = rank.fault_of(scores, len(job.features.example.item_ids))
        return _Result(features=job.features, scores=None if fault else scores, fallback=fault)


def _answer(job: _Job, result: _Result) -> None:
    try:
        job.done.get_loop().call_soon_threadsafe(_finish, job.done, result)
    except RuntimeError:
        _log.debug("the event loop is closed, a late result is dropped")


def _finish(done: "asyncio.Future[_Result]", result: _Result) -> None:
    if not done.done():
        done.set_result(result)
