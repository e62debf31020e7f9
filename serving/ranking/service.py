"""The ranking service without its web framework: the path of one request, and the threads beside it.

The path of a request uses no disk, database or broker: the assignment, the versions, the catalogue and the profiles are
in memory, and the impression goes to a queue.

Source: docs/serving.md.
"""

import hashlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from serving.annotation import AnnotationDesk
from serving.credentials import CredentialWatch
from serving.experiments import ExperimentPages
from serving.metrics import Metrics
from serving.outbox.collector import Collector
from serving.outbox.emitter import Emitter
from serving.ranking import rank
from serving.ranking.admission import Decision
from serving.ranking.assignment import Assigner, assignment_of
from serving.ranking.context import RankContext, identify, scores_due_s
from serving.ranking.features import FeatureBuilder
from serving.ranking.impression import impression
from serving.ranking.inference import Inference
from serving.ranking.replicas import CURRENT, STARTING, ReplicaUpdater
from serving.ranking.reports import Reporter
from serving.ranking.scorer import runtime_of
from serving.ranking.swaps import SwapPolicy
from serving.ranking.updater import NO_MAP, VersionUpdater
from serving.ranking.versions import VersionManager
from serving.schemas import Health, RankAnswer, RankRequest, with_hashed_ids
from serving.settings import ServingSettings
from serving.tokens import Token
from stream.replicas.catalogue import Catalogue
from stream.replicas.profiles import Profiles
from stream.schemas.identity import uuid7

NONE: Final = "none"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """Clocks and random bytes of the machine, which tests replace.

    Attributes:
        clock: Return seconds that never go back.
        now_ms: Return epoch milliseconds.
        random_bytes: Return that many random bytes.
        random: Return a uniform number in [0, 1), for the jitter of retries.
    """

    clock: Callable[[], float]
    now_ms: Callable[[], int]
    random_bytes: Callable[[int], bytes]
    random: Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """Components of a service."""

    catalogue: Catalogue
    catalogue_updater: ReplicaUpdater
    profiles: Profiles
    profiles_updater: ReplicaUpdater
    credentials: CredentialWatch
    assigner: Assigner
    versions: VersionManager
    version_updater: VersionUpdater
    emitter: Emitter
    collector: Collector
    reporter: Reporter
    pages: ExperimentPages
    annotation: AnnotationDesk
    metrics: Metrics
    system: System


class Service:
    """The ranking service of one process, from `start` to `stop`."""

    def __init__(
        self,
        settings: ServingSettings,
        dependencies: Dependencies,
        *,
        query_hash_key: bytes,
        client_id_key: bytes = b"",
        host: str,
        worker: int = 0,
    ) -> None:
        """Prepare a service that is not started.

        Args:
            settings: The section `serving`.
            dependencies: Its components.
            query_hash_key: Key of the hash that replaces query texts.
            client_id_key: Key of the hash that replaces ids of clients, visits and accounts; empty = none.
            host: Name of this host in impressions.
            worker: Number of this process among those of one port, from 1; 0 if it is the only one.
        """
        self.settings = settings
        self.metrics = dependencies.metrics
        self.catalogue = dependencies.catalogue
        self.profiles = dependencies.profiles
        self.versions = dependencies.versions
        self.collector = dependencies.collector
        self.pages = dependencies.pages
        self.annotation = dependencies.annotation
        self._assigner = dependencies.assigner
        self._credentials = dependencies.credentials
        self._version_updater = dependencies.version_updater
        self._reporter = dependencies.reporter
        self._emitter = dependencies.emitter
        self._catalogue_updater = dependencies.catalogue_updater
        self._profiles_updater = dependencies.profiles_updater
        self._system = dependencies.system
        self._query_hash_key = query_hash_key
        self._client_id_key = client_id_key
        self._host = host
        self.worker = worker
        self._features = FeatureBuilder(
            self.catalogue, self.profiles, num_scored=settings.num_scored, query_hash_key=query_hash_key
        )
        self._swaps = SwapPolicy(
            share=settings.swap_share,
            reach=settings.swap_reach,
            num_positions=settings.num_scored,
            # The key of a keyed BLAKE2 has at most 64 bytes.
            key=hashlib.sha256(query_hash_key).digest(),
        )
        self._inference = Inference(self._features, self._system.clock)
        self._is_polled = threading.Event()
        self._is_ready = False
        self._read_at_s = self._system.clock()
        self.metrics.map_age.set_function(self._map_age_s)
        self._is_draining = False
        self._stop = threading.Event()
        self._poller = threading.Thread(target=self._poll_forever, name="poll", daemon=True)

    def refuses(self, arrival_s: float) -> bool:
        """Return whether a rank request that arrived at that time is refused, and count it.

        The caller asks before it reads the body, so that a refusal costs little.
        """
        due_s = scores_due_s(arrival_s, self._deadline_s(arrival_s))
        is_refused = self._inference.admit(due_s) is Decision.REFUSE
        if is_refused:
            self.metrics.shed.labels("refusal").inc()
        return is_refused

    def gave_up(self, arrival_s: float) -> None:
        """Note that a request which arrived at that time, and was not refused, does not come to `rank` yet, or at all.

        Its body is not valid or has not come, for example.
        """
        self._inference.forget(scores_due_s(arrival_s, self._deadline_s(arrival_s)))

    async def rank(self, request: RankRequest, arrival_s: float | None = None) -> RankAnswer:
        """Answer one request before its deadline, and hand its impression to the outbox.

        Args:
            request: The decoded request.
            arrival_s: Reading of the service's clock when its first byte arrived; now if it is None.
        """
        clock, begun_s = self._system.clock, self._system.clock()
        if self._client_id_key:
            request = with_hashed_ids(request, self._client_id_key)
        arrival_s = begun_s if arrival_s is None else arrival_s
        context = RankContext(
            request=request,
            arrival_s=arrival_s,
            deadline_s=self._deadline_s(arrival_s),
            identity=identify(
                request,
                now_ms=self._system.now_ms(),
                random_bytes=self._system.random_bytes,
                query_hash_key=self._query_hash_key,
                trust_event_ts=self.settings.trust_event_ts,
            ),
        )
        # One reference for both, so that no request sees a new allocation with old versions.
        routes = self.versions.routes
        context.assignment = assignment_of(request.client_id, routes.experiment, self.settings.default_lineage or None)
        choice = routes.choose(context.assignment.lineage, request.client_id)
        context.version, context.slice, context.fallback, context.counts_for = choice
        context.price_minor = self._features.prices(request)
        context.item_types = self._features.types(request)
        await self._inference.score(context)
        # An error before the features were built is not the version's.
        if context.version and context.features and context.fallback in rank.BAD_OUTPUTS:
            self.versions.report_bad_output(context.version)
        context.items, context.propensity, is_swapped = self._swaps.placed(context, rank.order(context))
        context.latency_us = int((clock() - arrival_s) * 1e6)
        self._emitter.offer(impression(context, self._attributes(context)))
        arm = context.assignment.arm or NONE
        self.metrics.requests.labels(arm, context.fallback or NONE).inc()
        self._reporter.answers.add(context)
        if is_swapped:
            self.metrics.swapped.labels(arm).inc()
        answer = context.answer()
        if context.is_shed:
            self.metrics.shed.labels("incoming_order").inc()
            self._inference.spent(clock() - begun_s)
        return answer

    def answered(self, arm: str | None, arrival_s: float) -> None:
        """Note that an answer has been written to a client of an arm, whose request arrived at `arrival_s`."""
        self.metrics.latency.labels(arm or NONE).observe(self._system.clock() - arrival_s)

    @property
    def clock(self) -> Callable[[], float]:
        """Return the clock of the deadlines, in seconds that never go back."""
        return self._system.clock

    @property
    def now_ms(self) -> Callable[[], int]:
        """Return the clock of the records, in epoch milliseconds."""
        return self._system.now_ms

    @property
    def tokens(self) -> tuple[Token, ...]:
        """Return the tokens of callers in use."""
        return self._credentials.present.tokens

    def new_id(self) -> str:
        """Return a new id that sorts by time."""
        return uuid7(self._system.now_ms(), self._system.random_bytes)

    def listens_on(self, port: int) -> None:
        """Name the reports of this process after host, port and worker; called before `start`."""
        self._reporter.name = f"{self._host}:{port}" + (f"/{self.worker}" if self.worker else "")

    def start(self) -> None:
        """Start all threads; `health` tells when the service is ready."""
        self._assigner.load_copy()
        self.versions.assign(self._assigner.active)
        self._inference.start()
        self._emitter.start()
        self.collector.start()
        self._catalogue_updater.start()
        self._profiles_updater.start()
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
        self._catalogue_updater.request_stop()
        self._profiles_updater.request_stop()
        self._inference.stop()
        self.collector.stop()
        self._emitter.stop()
        self._catalogue_updater.join()
        self._profiles_updater.join()
        self._poller.join(1.0)

    def poll(self) -> None:
        """Read credentials, allocation and versions once; a failure leaves the current ones.

        An allocation comes into use after the versions of its lineages are loaded, so that no arm starts without its
        model.
        """
        if self._credentials.look():
            self._version_updater.retry_refused()
        self.metrics.credentials_refused.set(self._credentials.reason is not None)
        # A database that stalls costs one time-out: the second question is not asked.
        is_read = self._assigner.look()
        lineages = self._assigner.lineages()
        is_read &= self._version_updater.poll(lineages, from_copy=not is_read, wait_s=self.settings.poll_s)
        if is_read:
            self._read_at_s = self._system.clock()
        if self._version_updater.is_settled(lineages):
            self._assigner.adopt()
            self.versions.assign(self._assigner.active)
            # Without a map no client has an arm or a version, so another host or the shop's own order is better.
            if self._version_updater.map_source != NO_MAP:
                self._is_polled.set()
        self._reporter.answers.keep(self._version_updater.judged())
        if is_read:
            self._reporter.report(
                self._version_updater.states(lineages),
                map_sha256=self._version_updater.map_sha256,
                is_ready=self.is_ready and not self._is_draining,
            )

    @property
    def is_ready(self) -> bool:
        """Return whether the service has been warm: versions loaded, and catalogue and profiles read to their ends.

        Before the database, or a local copy, has named experiment and versions, it is not. Once ready, the service
        stays ready: it answers from memory without them.
        """
        if not self._is_ready:
            states = {self._catalogue_updater.state, self._profiles_updater.state}
            self._is_ready = self._is_polled.is_set() and STARTING not in states
        return self._is_ready

    def health(self) -> Health:
        """Return the state of the service."""
        catalogue, profiles = self._catalogue_updater.state, self._profiles_updater.state
        active = self._assigner.active
        return Health(
            status="draining" if self._is_draining else "ready" if self.is_ready else "starting",
            versions=self.versions.numbers(),
            experiment=active.experiment if active else None,
            epoch=active.epoch if active else None,
            catalogue=catalogue,
            profiles=profiles,
            refused=self._version_updater.refused(),
            withdrawn=self._version_updater.withdrawn(),
            map_source=self._version_updater.map_source,
            map_age_s=round(self._map_age_s(), 1),
            num_items=len(self.catalogue),
            num_profiles=len(self.profiles),
        )

    def _map_age_s(self) -> float:
        return self._system.clock() - self._read_at_s

    def _deadline_s(self, arrival_s: float) -> float:
        return arrival_s + self.settings.deadline_ms / 1_000

    def _attributes(self, context: RankContext) -> dict[str, object]:
        version = context.version
        return {
            "host": self._host,
            "profile_state": "warm" if self._profiles_updater.state == CURRENT else "cold",
            "runtime": runtime_of(self.settings) if version is None else version.scorer.runtime,
        }

    def _poll_forever(self) -> None:
        while not self._stop.is_set():
            due_s = self._system.clock() + self.settings.poll_s
            try:
                self.poll()
            except Exception:  # noqa: BLE001 - the thread must outlive any fault of one poll
                _log.exception("a poll failed; it is repeated in %s s", self.settings.poll_s)
            # A poll that waited for loads is followed by the next one at once.
            self._stop.wait(max(0.0, due_s - self._system.clock()))
