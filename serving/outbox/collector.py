"""Events over HTTP: bounded in memory, adapted and delivered by one thread, answered once the broker has them.

A verdict is given only after the broker acknowledged the record, or the dead letter, that it speaks of. Memory is no
place for an event that its sender was told to forget: with a queue that acknowledges by itself, a kill would lose
accepted events, and "every acknowledged event is counted" would not hold. The price is that a sender waits for a round
trip to the broker; what waits meanwhile is bounded in bytes, beyond which senders are told to come back (429). When the
broker is away or too slow, nothing is acknowledged (503), and the sender sends the same batch again: ids make the
second copy a duplicate.

Source: STREAM.md 9 and 10, RELIABILITY.md 1.
"""

import asyncio
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import msgspec

from serving.metrics import Metrics
from serving.outbox.delivery import Delivery, Outgoing
from serving.schemas import CollectAnswer, RequestError, Verdict
from stream.adapters import FORMATS, Adapted, Options, Rejected, adapt
from stream.adapters.rejects import letter
from stream.errors import BusError, OverloadError
from stream.schemas import topics
from stream.schemas.problems import Problem, problem

OWN = "shelfwise"
MAX_PAYLOADS = 1_000
_MAX_TOGETHER = 4_000
_payloads = msgspec.json.Decoder(list[msgspec.Raw])


class BusyError(OverloadError):
    """Too much is on its way to the broker: come back in `retry_after_s` seconds."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("too many events are on their way to the broker")
        self.retry_after_s = retry_after_s


class UnacknowledgedError(BusError):
    """The broker did not acknowledge the batch: send it again in `retry_after_s` seconds."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("the broker did not acknowledge the events; send them again")
        self.retry_after_s = retry_after_s


class TooManyError(OverloadError):
    """A batch holds more payloads than one may."""


@dataclass(slots=True, kw_only=True)
class _Job:
    """A batch and what came of it."""

    name: str
    payloads: Sequence[bytes]
    done: Future[CollectAnswer | None]
    verdicts: list[Verdict] = field(default_factory=list)
    outgoing: list[Outgoing] = field(default_factory=list)

    @property
    def num_bytes(self) -> int:
        return sum(map(len, self.payloads))


class Collector:
    """Takes batches of events from the event loop; `start` and `stop` bracket its life."""

    def __init__(
        self,
        delivery: Delivery,
        metrics: Metrics,
        *,
        options: Options,
        max_bytes: int,
        timeout_s: float,
        now_ms: Callable[[], int],
    ) -> None:
        """Prepare; `now_ms` stamps dead letters."""
        self._delivery = delivery
        self._count = metrics.collected
        self._options = options
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._now_ms = now_ms
        self._jobs: deque[_Job] = deque()
        self._waiting_bytes = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="collect", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 6.0) -> None:
        """Deliver what is queued, and end the thread."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout_s)

    async def collect(self, name: str, body: bytes) -> CollectAnswer:
        """Return the verdicts on a batch, once the broker has acknowledged what they say.

        Args:
            name: Format of the payloads.
            body: A JSON array of payloads, or one payload.

        Raises:
            RequestError: If the body is neither, or the format is unknown.
            TooManyError: If it holds too many payloads.
            BusyError: If too much is on its way already.
            UnacknowledgedError: If the broker is away or did not answer in time.
        """
        if name not in FORMATS:
            known = ", ".join(FORMATS)
            raise RequestError(Problem(error=f"unknown format; one of {known}", field="format", value=name[:80]))
        payloads = _split(body)
        if len(payloads) > MAX_PAYLOADS:
            raise TooManyError(f"{len(payloads)} events in one batch, at most {MAX_PAYLOADS}")
        job = _Job(name=name, payloads=payloads, done=Future())
        self._offer(job)
        try:
            answer = await asyncio.wait_for(asyncio.wrap_future(job.done), self._timeout_s)
        except TimeoutError:
            answer = None
        if answer is None:
            self._count.labels("unacknowledged").inc(len(payloads))
            raise UnacknowledgedError(max(1, math.ceil(self._delivery.wait_s)))
        return answer

    def _offer(self, job: _Job) -> None:
        with self._lock:
            is_full = self._waiting_bytes + job.num_bytes > self._max_bytes
            if not is_full:
                self._waiting_bytes += job.num_bytes
                self._jobs.append(job)
        if is_full:
            self._count.labels("busy").inc(len(job.payloads))
            raise BusyError(max(1, math.ceil(self._delivery.wait_s)))
        self._wake.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait()
            self._wake.clear()
            self._drain()
        self._drain()
        self._delivery.close()

    def _drain(self) -> None:
        while jobs := self._take():
            for job in jobs:
                for payload in job.payloads:
                    self._adapt(job, payload)
            is_delivered = self._delivery.deliver([record for job in jobs for record in job.outgoing])
            with self._lock:
                self._waiting_bytes -= sum(job.num_bytes for job in jobs)
            for job in jobs:
                job.done.set_result(self._answer(job) if is_delivered else None)

    def _take(self) -> list[_Job]:
        """Return batches that share one round trip; those whose senders have gone are forgotten."""
        taken: list[_Job] = []
        with self._lock:
            while self._jobs and sum(len(job.payloads) for job in taken) < _MAX_TOGETHER:
                job = self._jobs.popleft()
                if job.done.set_running_or_notify_cancel():
                    taken.append(job)
                else:
                    self._waiting_bytes -= job.num_bytes
        return taken

    def _adapt(self, job: _Job, payload: bytes) -> None:
        results = adapt(job.name, payload, self._options)
        adapted = [result for result in results if isinstance(result, Adapted)]
        rejected = [result for result in results if isinstance(result, Rejected)]
        job.outgoing += [Outgoing(topic=one.topic, key=one.key, value=one.value) for one in adapted]
        if not rejected:
            job.verdicts.append(Verdict(status="accepted", records=len(adapted)))
            return
        key = adapted[0].key if adapted else None
        key, value, headers = letter(job.name, rejected, now_ms=self._now_ms(), key=key)
        job.outgoing.append(Outgoing(topic=topics.DEAD_LETTERS, key=key, value=value, headers=headers))
        found = problem(rejected[0].detail, payload)
        job.verdicts.append(
            Verdict(
                status="partial" if adapted else "rejected",
                records=len(adapted),
                reason=rejected[0].reason,
                error=found.error,
                field=found.field,
                value=found.value,
            )
        )

    def _answer(self, job: _Job) -> CollectAnswer:
        num_letters = sum(record.topic == topics.DEAD_LETTERS for record in job.outgoing)
        self._count.labels("record").inc(len(job.outgoing) - num_letters)
        self._count.labels("letter").inc(num_letters)
        return CollectAnswer(
            accepted=sum(verdict.status == "accepted" for verdict in job.verdicts),
            rejected=sum(verdict.status != "accepted" for verdict in job.verdicts),
            verdicts=job.verdicts,
        )


def _split(body: bytes) -> list[bytes]:
    if body.lstrip()[:1] == b"{":
        return [body]
    try:
        return [bytes(payload) for payload in _payloads.decode(body)]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(Problem(error=f"expected a JSON array of events or one event: {error}")) from error
