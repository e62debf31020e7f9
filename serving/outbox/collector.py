"""Collection of events over HTTP: adapted and delivered by one thread, answered after the broker has acknowledged them.

Annotations come as records and take the same way.

A result is stated only after the broker has acknowledged the record or the dead letter. With a queue that answered
first, a kill would lose acknowledged events. A sender therefore waits for one round trip to the broker. The payloads
that wait are bounded in bytes; beyond the bound, senders are refused with 429. If the broker is unavailable or too
slow, the whole batch is answered with 503 and sent again by its sender; event ids turn the copies into duplicates.

Source: docs/serving.md, docs/adapters.md.
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
from serving.outbox import stated
from serving.outbox.delivery import Delivery
from serving.schemas import CollectAnswer, EventResult, RequestError, RetryLaterError
from stream.adapters import FORMATS, Options, adapt
from stream.adapters.rejects import dead_letter_of, kept
from stream.errors import ShelfwiseError
from stream.schemas import topics
from stream.schemas.problems import Problem, problem
from stream.schemas.records import ProducerRecord

OWN_FORMAT = "shelfwise"
MAX_PAYLOADS = 1_000
_MAX_TOGETHER = 4_000
_payloads = msgspec.json.Decoder(list[msgspec.Raw])


class BusyError(RetryLaterError):
    """Refusal of a batch while too many events wait for the broker."""


class UnacknowledgedError(RetryLaterError):
    """A batch that the broker did not acknowledge."""


class TooManyError(ShelfwiseError):
    """A batch with too many payloads."""


@dataclass(slots=True, kw_only=True)
class _Job:
    """A batch and its results: payloads, which are adapted, or records."""

    name: str = OWN_FORMAT
    payloads: Sequence[bytes] = ()
    done: Future[CollectAnswer | None] = field(default_factory=Future)
    results: list[EventResult] = field(default_factory=list)
    records: list[ProducerRecord] = field(default_factory=list)
    num_events: int
    num_bytes: int


class Collector:
    """Queue of event batches and the thread that delivers them, from `start` to `stop`."""

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
        """Prepare the thread.

        Args:
            delivery: Connection to the broker.
            metrics: Metrics of the process.
            options: Options of the adapters.
            max_bytes: Size of the payloads that may wait.
            timeout_s: Seconds within which a batch is answered.
            now_ms: Return epoch milliseconds, the time of dead letters.
        """
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
        self._thread = threading.Thread(target=self._run, name="collector", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 6.0) -> None:
        """Deliver the queued batches, and end the thread."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout_s)

    async def collect(self, name: str, body: bytes) -> CollectAnswer:
        """Return the results of a batch after the broker has acknowledged its records and dead letters.

        Args:
            name: Format of the payloads.
            body: A JSON array of payloads, or one payload.

        Raises:
            RequestError: If the body is neither, or the format is unknown.
            TooManyError: If the batch holds too many payloads.
            StatedError: If an event has a field that only the service states; none of the batch is then sent.
            BusyError: If too many payloads wait already.
            UnacknowledgedError: If the broker is unavailable or did not answer in time.
        """
        if name not in FORMATS:
            known = ", ".join(FORMATS)
            raise RequestError(Problem(error=f"unknown format; one of {known}", field="format", value=name[:80]))
        payloads = _split(body)
        if len(payloads) > MAX_PAYLOADS:
            raise TooManyError(f"{len(payloads)} events in one batch, at most {MAX_PAYLOADS}")
        if name == OWN_FORMAT:
            # No other format has such fields.
            stated.check(payloads)
        return await self._delivered(
            _Job(name=name, payloads=payloads, num_events=len(payloads), num_bytes=sum(map(len, payloads)))
        )

    async def deliver(self, records: Sequence[ProducerRecord]) -> None:
        """Return after the broker has acknowledged records.

        Raises:
            BusyError: If too many payloads wait already.
            UnacknowledgedError: If the broker is unavailable or did not answer in time.
        """
        num_bytes = sum(len(record.value or b"") for record in records)
        await self._delivered(_Job(records=list(records), num_events=len(records), num_bytes=num_bytes))

    async def _delivered(self, job: _Job) -> CollectAnswer:
        self._offer(job)
        try:
            answer = await asyncio.wait_for(asyncio.wrap_future(job.done), self._timeout_s)
        except TimeoutError:
            answer = None
        if answer is None:
            self._count.labels("unacknowledged").inc(job.num_events)
            reason = "the broker did not acknowledge the events; send them again"
            raise UnacknowledgedError(reason, self._retry_after_s())
        return answer

    def _offer(self, job: _Job) -> None:
        with self._lock:
            is_full = self._waiting_bytes + job.num_bytes > self._max_bytes
            if not is_full:
                self._waiting_bytes += job.num_bytes
                self._jobs.append(job)
        if is_full:
            self._count.labels("busy").inc(job.num_events)
            raise BusyError("too many events wait for the broker", self._retry_after_s())
        self._wake.set()

    def _retry_after_s(self) -> int:
        return max(1, math.ceil(self._delivery.wait_s))

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
            is_delivered = self._delivery.deliver([record for job in jobs for record in job.records])
            with self._lock:
                self._waiting_bytes -= sum(job.num_bytes for job in jobs)
            for job in jobs:
                job.done.set_result(self._answer(job) if is_delivered else None)

    def _take(self) -> list[_Job]:
        """Return batches that share one round trip, without those whose senders have gone."""
        taken: list[_Job] = []
        with self._lock:
            while self._jobs and sum(job.num_events for job in taken) < _MAX_TOGETHER:
                job = self._jobs.popleft()
                if job.done.set_running_or_notify_cancel():
                    taken.append(job)
                else:
                    self._waiting_bytes -= job.num_bytes
        return taken

    def _adapt(self, job: _Job, payload: bytes) -> None:
        adapted, rejected = adapt(job.name, payload, self._options)
        job.records += [ProducerRecord(topic=one.topic, key=one.key, value=one.value) for one in adapted]
        if not rejected:
            job.results.append(EventResult(status="accepted", records=len(adapted)))
            return
        client = adapted[0].key if adapted else None
        for reject in kept(rejected, self._options):
            key, value, headers = dead_letter_of(job.name, [reject], now_ms=self._now_ms(), key=client)
            job.records.append(ProducerRecord(topic=topics.DEAD_LETTERS, key=key, value=value, headers=headers))
        fault = problem(rejected[0].detail, payload)
        job.results.append(
            EventResult(
                status="partial" if adapted else "rejected",
                records=len(adapted),
                reason=rejected[0].reason,
                error=fault.error,
                field=fault.field,
                value=fault.value,
            )
        )

    def _answer(self, job: _Job) -> CollectAnswer:
        num_dead_letters = sum(record.topic == topics.DEAD_LETTERS for record in job.records)
        self._count.labels("record").inc(len(job.records) - num_dead_letters)
        self._count.labels("dead_letter").inc(num_dead_letters)
        return CollectAnswer(
            accepted=sum(result.status == "accepted" for result in job.results),
            rejected=sum(result.status != "accepted" for result in job.results),
            results=job.results,
        )


def _split(body: bytes) -> list[bytes]:
    if body.lstrip()[:1] == b"{":
        return [body]
    try:
        return [bytes(payload) for payload in _payloads.decode(body)]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(Problem(error=f"expected a JSON array of events or one event: {error}")) from error
