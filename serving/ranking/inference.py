"""One thread that runs the model, so that the event loop can answer at the deadline while a model is still busy.

There is no batching queue: lists are scored one at a time. A list whose turn comes too late is not scored any more,
and while the model is stuck past a deadline new lists do not even wait for it.

Source: TRAINING_SERVING.md 8.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from serving.ranking import rank
from serving.ranking.features import Served
from serving.ranking.scorer import Scorer

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Job:
    """One list on its way through the thread.

    Attributes:
        build: Makes the features.
        scorer: The pinned version's scorer; None only builds features.
        deadline: Clock reading at which the loop answers without the result.
        admitted_until: Clock reading after which the thread does not begin any more.
        served: Set by the thread as soon as features are there, so that a late answer can log them.
        fallback: Set by the thread when there are no scores.
    """

    build: Callable[[], Served]
    scorer: Scorer | None
    deadline: float
    admitted_until: float
    done: "asyncio.Future[None]"
    served: Served | None = None
    scores: Sequence[float] | None = None
    fallback: str | None = None


class Inference:
    """The inference thread and its queue."""

    def __init__(self, clock: Callable[[], float], *, max_waiting: int = 256) -> None:
        """Prepare; `clock` is monotonic seconds and the one that deadlines refer to."""
        self._clock = clock
        self._queue: queue.Queue[Job | None] = queue.Queue(max_waiting)
        self._running: Job | None = None
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 1.0) -> None:
        """End the thread after the list it works on; a stuck model is left behind."""
        self._queue.put(None)
        self._thread.join(timeout_s)

    async def run(self, job: Job) -> None:
        """Wait for the job's result until its deadline; afterwards `job` says what came of it.

        The outcome is copied to the event loop's view at once: what the thread finds later changes nothing.
        """
        running = self._running
        now = self._clock()
        if running is not None and now > running.deadline:
            job.fallback = rank.STUCK
            return
        try:
            self._queue.put_nowait(job)
        except queue.Full:
            job.fallback = rank.WAITED
            return
        try:
            async with asyncio.timeout(max(job.deadline - now, 0)):
                await job.done
        except TimeoutError:
            job.fallback = rank.LATE
            job.scores = None

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            self._running = job
            served, scores, fallback = self._work(job)
            self._running = None
            loop = job.done.get_loop()
            try:
                loop.call_soon_threadsafe(_finish, job, served, scores, fallback)
            except RuntimeError:
                _log.debug("the loop is closed, a late result is dropped")

    def _work(self, job: Job) -> tuple[Served | None, Sequence[float] | None, str | None]:
        if self._clock() > job.admitted_until:
            return None, None, rank.WAITED
        served: Served | None = None
        try:
            served = job.served = job.build()
            if job.scorer is None:
                return served, None, None
            scores = job.scorer.score(served.example)
        except Exception:  # noqa: BLE001 - whatever a model raises, the list is answered in incoming order
            _log.exception("a list could not be scored")
            return served, None, rank.ERROR
        fault = rank.fault_of(scores, len(served.example.item_ids))
        return served, None if fault else scores, fault


def _finish(job: Job, served: Served | None, scores: Sequence[float] | None, fallback: str | None) -> None:
    if not job.done.done():
        job.served, job.scores, job.fallback = served, scores, fallback
        job.done.set_result(None)
