"""The ranking service without its framework: what one request does, and the parts that live beside the requests.

In the request path there is no disk, no database and no broker: a decision from memory, the pinned version of its
lineage, the inference thread, and a queue for the impression.

Source: TRAINING_SERVING.md 8, RELIABILITY.md 1 (G5).
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from abtest.store import ActiveExperiment
from serving.identifiers import uuid7
from serving.metrics import Metrics
from serving.outbox.collector import Collector
from serving.outbox.emitter import Emitter
from serving.ranking import assignment, features, rank
from serving.ranking.assignment import Decision, decide
from serving.ranking.impression import Moment, impression
from serving.ranking.inference import Inference, Job
from serving.ranking.rank import Ranking
from serving.ranking.replicas import CURRENT, STARTING, Follower
from serving.ranking.versions import InUse, Updater, Versions
from serving.schemas import Health, RankAnswer, RankRequest
from serving.settings import ServingSettings
from stream.errors import SchemaError, StoreError
from stream.replicas.catalogue import Catalogue
from stream.replicas.profiles import Profiles
from stream.schemas.identity import query_hash

OUTSIDE: Final = "none"
_log = logging.getLogger(__name__)


class Experiments(Protocol):
    """What is asked of `abtest.store.ExperimentStore`."""

    def active(self, layer: str) -> ActiveExperiment | None:
        """Return the running experiment of a layer."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Time and chance: seconds that never go back, epoch milliseconds, random bytes."""

    clock: Callable[[], float]
    now_ms: Callable[[], int]
    random_bytes: Callable[[int], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a service is made of; `followers` are the catalogue's and the profiles', in this order."""

    catalogue: Catalogue
    profiles: Profiles
    followers: tuple[Follower, Follower]
    versions: Versions
    updater: Updater
    experiments: Experiments | None
    emitter: Emitter
    collector: Collector
    metrics: Metrics


class Service:
    """Answers requests; `start` and `stop` bracket its life."""

    def __init__(
        self, settings: ServingSettings, parts: Parts, sources: Sources, *, home: Path, pepper: bytes, host: str
    ) -> None:
        """Prepare; `home` holds the local copies, `host` is named in impressions."""
        self.settings = settings
        self.metrics = parts.metrics
        self.catalogue = parts.catalogue
        self.profiles = parts.profiles
        self.versions = parts.versions
        self.collector = parts.collector
        self._parts = parts
        self._sources = sources
        self._pepper = pepper
        self._host = host
        self._copy = home / "experiment.json"
        self._active: ActiveExperiment | None = None
        self._store_away = False
        self._inference = Inference(sources.clock)
        self._first_poll = threading.Event()
        self._is_draining = False
        self._stop = threading.Event()
        self._poller = threading.Thread(target=self._poll_forever, name="poll", daemon=True)

    def start(self) -> None:
        """Start all threads; the service is ready when `health` says so."""
        try:
            self._active = assignment.load(self._copy)
        except SchemaError as error:
            _log.warning("the local copy of the experiment is ignored: %s", error)
        self._inference.start()
        self._parts.emitter.start()
        self.collector.start()
        for follower in self._parts.followers:
            follower.start()
        self._poller.start()

    def drain(self) -> None:
        """Report the service as not ready; requests are answered as before."""
        self._is_draining = True

    @property
    def is_draining(self) -> bool:
        """Return whether the service is about to close."""
        return self._is_draining

    def stop(self) -> None:
        """End all threads; queued impressions are delivered or spooled, queued events delivered or not acknowledged."""
        self._stop.set()
        for follower in self._parts.followers:
            follower.request_stop()
        self._inference.stop()
        self.collector.stop()
        self._parts.emitter.stop()
        for follower in self._parts.followers:
            follower.join()
        self._poller.join(1.0)

    def poll(self) -> None:
        """Look once for a new allocation and new versions; failures leave things as they are."""
        self._poll_experiment()
        active = self._active
        lineages = {arm.lineage for arm in active.arms if arm.lineage} if active else set()
        if self.settings.default_lineage:
            lineages.add(self.settings.default_lineage)
        self._parts.updater.poll(sorted(lineages))
        self._first_poll.set()

    def health(self) -> Health:
        """Return the state: ready after the first look at registry and experiment and the first way through topics."""
        catalogue, profiles = (follower.state for follower in self._parts.followers)
        started = self._first_poll.is_set() and STARTING not in {catalogue, profiles}
        active = self._active
        return Health(
            status="draining" if self._is_draining else "ready" if started else "starting",
            versions=self.versions.numbers(),
            experiment=active.experiment if active else None,
            epoch=active.epoch if active else None,
            catalogue=catalogue,
            profiles=profiles,
            num_items=len(self.catalogue),
            num_profiles=len(self.profiles),
        )

    async def rank(self, request: RankRequest) -> RankAnswer:
        """Answer one request before its deadline, and hand its impression over."""
        arrival = self._sources.clock()
        decision = decide(request.client_id, self._active, self.settings.default_lineage or None)
        version = self.versions.get(decision.lineage) if decision.lineage else None
        moment = self._moment(request)
        job = self._job(request, moment, version, arrival)
        await self._inference.run(job)
        served, ranking = job.served, self._ranking(request, decision, version, moment, job)
        if version and served and ranking.fallback in rank.BAD_OUTPUTS:
            self.versions.report_bad(version)
        number = str(version.number) if version and ranking.scored else None
        latency_us = int((self._sources.clock() - arrival) * 1e6)
        self._parts.emitter.offer(
            impression(
                request,
                decision,
                ranking,
                moment,
                version=number,
                served=served,
                price_minor=served.price_minor if served else features.prices_of(request, self.catalogue),
                latency_us=latency_us,
                attributes=self._attributes(),
            )
        )
        arm = decision.arm or OUTSIDE
        self.metrics.requests.labels(arm, ranking.fallback or OUTSIDE).inc()
        self.metrics.latency.labels(arm).observe(latency_us / 1e6)
        return RankAnswer(
            query_id=moment.query_id,
            items=list(ranking.items),
            lineage=decision.lineage,
            version=number,
            experiment=decision.experiment,
            arm=decision.arm,
            epoch=decision.epoch,
            bucket=decision.bucket,
            fallback=ranking.fallback,
            latency_us=latency_us,
            impression_event_id=moment.event_id,
        )

    def _moment(self, request: RankRequest) -> Moment:
        now_ms = self._sources.now_ms()
        trusted = self.settings.trust_event_ts and request.event_ts is not None
        return Moment(
            event_id=uuid7(now_ms, self._sources.random_bytes),
            event_ts=request.event_ts if trusted and request.event_ts is not None else now_ms,
            query_id=request.query_id or uuid7(now_ms, self._sources.random_bytes),
            query_hash=request.query.hash or query_hash(request.query.text or "", self._pepper),
        )

    def _job(self, request: RankRequest, moment: Moment, version: InUse | None, arrival: float) -> Job:
        deadline_s = self.settings.deadline_ms / 1_000

        def build() -> features.Served:
            return features.build(
                request,
                query_id=moment.query_id,
                event_ts=moment.event_ts,
                catalogue=self.catalogue,
                profiles=self.profiles,
                num_scored=self.settings.num_scored,
            )

        return Job(
            build=build,
            scorer=version.scorer if version else None,
            deadline=arrival + deadline_s,
            admitted_until=arrival + deadline_s / 2,
            done=asyncio.get_running_loop().create_future(),
        )

    def _ranking(
        self, request: RankRequest, decision: Decision, version: InUse | None, moment: Moment, job: Job
    ) -> Ranking:
        if decision.lineage is None:
            if decision.policy == assignment.SHUFFLE:
                return rank.shuffled(request, moment.query_id)
            return rank.in_incoming_order(request)
        if version is None:
            bad = self.versions.is_quarantined(decision.lineage)
            return rank.in_incoming_order(request, rank.QUARANTINED if bad else rank.NO_VERSION)
        if job.scores is None:
            return rank.in_incoming_order(request, job.fallback or rank.ERROR)
        return rank.by_score(request, moment.query_id, job.scores)

    def _attributes(self) -> dict[str, object]:
        state = self._parts.followers[1].state
        return {"host": self._host, "profile_state": "warm" if state == CURRENT else "cold", "runtime": self._runtime}

    @property
    def _runtime(self) -> str:
        return "torch-compiled" if self.settings.compiled else "torch-eager"

    def _poll_forever(self) -> None:
        while not self._stop.is_set():
            try:
                self.poll()
            except Exception:  # noqa: BLE001 - the poll is a background edge; it must outlive any fault
                _log.exception("a look at the registry failed; the next one follows")
            self._stop.wait(self.settings.poll_s)

    def _poll_experiment(self) -> None:
        store = self._parts.experiments
        if store is None:
            return
        try:
            found = store.active(self.settings.layer)
        except StoreError as error:
            if not self._store_away:
                _log.warning("experiment store away, the allocation in memory stays: %s", error)
            self._store_away = True
            return
        self._store_away = False
        current = self._active
        known = (current.experiment, current.epoch, current.sha256) if current else None
        if known != ((found.experiment, found.epoch, found.sha256) if found else None):
            self._active = found
            assignment.save(found, self._copy)
            _log.info("experiment: %s", f"{found.experiment}, epoch {found.epoch}" if found else "none")
