"""The controller: once a second it takes each lineage's view and evidence, and makes the move that follows.

It also takes the steps of planned ramps.

It keeps nothing in memory that decides: times stand in rows, evidence in tables, so a restart goes on where it was. A
second controller waits for the lease of the first one.

Source: docs/rollout.md.
"""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict

from sqlalchemy import Engine

from stream.errors import ConfigError, FencedError, StoreError
from trainer.rollout import evidence, policy, ramps
from trainer.rollout.judgement import judge
from trainer.rollout.metrics import RolloutMetrics
from trainer.rollout.states import Hold, Verdict, next_move
from trainer.rollout.store import RolloutStore
from trainer.versions.leases import CONTROLLER, Leases

PERIOD_S = 1.0
LEASE_TTL_MS = 10_000
_log = logging.getLogger(__name__)


class Controller:
    """The controller of all lineages of a database.

    Args:
        engine: A database with the newest schema.
        store: The store of moves.
        holder: Name of this process, which no other one has.
        now_ms: Epoch milliseconds.
        metrics: Metrics of the process.

    Attributes:
        why_not_ready: Reason why nothing is decided, None while this controller or another one decides.
    """

    def __init__(
        self,
        engine: Engine,
        store: RolloutStore,
        *,
        holder: str,
        now_ms: Callable[[], int],
        metrics: RolloutMetrics,
    ) -> None:
        self.why_not_ready: str | None = "no lineage was looked at yet"
        self._metrics = metrics
        self._engine = engine
        self._store = store
        self._leases = Leases(engine)
        self._holder = holder
        self._now_ms = now_ms
        self._term: int | None = None
        self._reasons: dict[str, str] = {}

    def run(self, wait: Callable[[float], bool]) -> None:
        """Look at the lineages until `wait` returns that a stop was requested.

        Args:
            wait: Waits for so many seconds or until a stop is requested, and returns whether one was.
        """
        while True:
            try:
                self.step()
                self.why_not_ready = None
                self._metrics.last_look.set(self._now_ms() / 1_000)
            except FencedError as error:
                self._term = None
                self.why_not_ready = None
                self._say("controller", f"another controller is at work: {error}")
            except StoreError as error:
                self.why_not_ready = f"the database does not answer, nothing is decided: {error}"
                self._say("controller", self.why_not_ready)
            self._metrics.in_charge.set(self._term is not None)
            if wait(PERIOD_S):
                return

    def step(self) -> int:
        """Look at each lineage and each planned ramp once, and return the number of moves and steps made.

        Raises:
            FencedError: If another controller holds the lease.
            StoreError: If the database is unreachable or refused.
        """
        now_ms = self._now_ms()
        if self._term is None:
            self._leases.ensure(CONTROLLER)
            self._term = self._leases.acquire(CONTROLLER, self._holder, now_ms, LEASE_TTL_MS)
            self._say("controller", f"in charge, term {self._term}")
        else:
            self._leases.renew(CONTROLLER, self._term, now_ms, LEASE_TTL_MS)
        num_moves = 0
        for lineage in self._store.names():
            try:
                num_moves += self._decide(lineage, self._term, now_ms)
            except ConfigError as error:
                # A policy that this release does not know: the other lineages go on.
                self._say(f"lineage {lineage}", str(error))
        num_moves += ramps.advance(
            self._engine, self._store, term=self._term, now_ms=now_ms, metrics=self._metrics, say=self._say
        )
        return num_moves

    def _decide(self, lineage: str, term: int, now_ms: int) -> bool:
        view = self._store.view(lineage)
        values = policy.of(view.policy)
        if values.mode == "direct" or view.lock is not None:
            move = next_move(view, {}, values, now_ms)
            assert isinstance(move, Hold), "a lineage in direct mode, or locked, has no moves"
            self._metrics.observe(view)
            self._say(f"lineage {lineage}", move.reason)
            return False
        found = evidence.read(self._engine, view, values, now_ms)
        verdicts = judge(view, found, values)
        self._metrics.observe(view, found, verdicts)
        move = next_move(view, verdicts, values, now_ms, bucket_share=found.bucket_share)
        if isinstance(move, Hold):
            self._say(f"lineage {lineage}", move.reason)
            return False
        is_made = self._store.move(
            view, move, values, term=term, now_ms=now_ms, evidence=as_evidence(verdicts.get(move.version, {}))
        )
        if is_made:
            self._metrics.count(lineage, move)
            self._say(f"lineage {lineage}", f"version {move.version} is {move.to_status}: {move.why}")
        return is_made

    def _say(self, subject: str, reason: str) -> None:
        """Log what is new; the same state would fill the log once a second."""
        if self._reasons.get(subject) != reason:
            self._reasons[subject] = reason
            _log.info("%s: %s", subject, reason)


def as_evidence(verdicts: Mapping[str, Verdict]) -> dict[str, object]:
    """Return verdicts as an event keeps them: gate to outcome, reason and numbers."""
    return {
        gate: asdict(verdict) | {"numbers": {name: _storable(value) for name, value in verdict.numbers.items()}}
        for gate, verdict in verdicts.items()
    }


def _storable(value: float | str | None) -> float | str | None:
    """Return a number as JSON can hold it: PostgreSQL refuses those that are not finite."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
