"""The versions in memory by their roles, and the experiment: what a request needs to choose who scores it.

A request reads one reference, `VersionManager.routes`, so it sees no mix of two maps or allocations. The reference is
replaced when versions were loaded, reproduced their golden scores and ran once (`serving.ranking.updater`).

Source: docs/serving.md, docs/rollout.md.
"""

import logging
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from abtest.experiment import ActiveExperiment
from serving.metrics import Metrics
from serving.ranking.scorer import Scorer
from stream.schemas.events import Slice
from trainer.rollout.slices import CANARY, salt, slice_of

NO_VERSION: Final = "no_version"
WITHDRAWN: Final = "withdrawn"
QUARANTINED: Final = "quarantined"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedVersion:
    """A version that can score.

    Attributes:
        lineage: Its lineage.
        number: Its number in the lineage.
        artifact: Address of its artifact.
        scorer: Its model, verified and warm.
    """

    lineage: str
    number: int
    artifact: str
    scorer: Scorer

    @property
    def key(self) -> tuple[str, int]:
        """Return lineage and number."""
        return self.lineage, self.number


class Choice(NamedTuple):
    """The version that scores a list.

    Attributes:
        version: The version; None if there is none.
        slice: Slice of the client while a canary is open.
        fallback: Reason why there is no version although a lineage was assigned.
        counts_for: Number of the version that the answer tells something about: in both slices the canary.
    """

    version: ServedVersion | None = None
    slice: Slice | None = None
    fallback: str | None = None
    counts_for: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LineageVersions:
    """The versions of one lineage that may answer, all of them in memory.

    Attributes:
        lineage: The lineage.
        ranked: The version that answers, followed by those that stand in for it after bad outputs.
        canary: The version that answers the clients of its slice; None opens neither slice.
        share: Share of the clients in that slice, and in the control slice.
        missing: Reason of the fallback if no version is there.
    """

    lineage: str
    ranked: tuple[ServedVersion, ...] = ()
    canary: ServedVersion | None = None
    share: float = 0.0
    missing: str = NO_VERSION
    _salt: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_salt", "" if self.canary is None else salt(*self.canary.key))

    @property
    def active(self) -> ServedVersion | None:
        """Return the version that answers clients outside of the canary."""
        return self.ranked[0] if self.ranked else None

    def choose(self, client_id: str) -> Choice:
        """Return the version for a client."""
        part = None if self.canary is None else slice_of(client_id, self._salt, self.share)
        version = self.canary if part == CANARY else self.active
        judged = version if part is None else self.canary
        return Choice(
            version,
            part,
            self.missing if version is None else None,
            None if judged is None else judged.number,
        )

    def without(self, bad: Collection[tuple[str, int]]) -> "LineageVersions":
        """Return the same without versions of these lineages and numbers."""
        ranked = tuple(version for version in self.ranked if version.key not in bad)
        return replace(
            self,
            ranked=ranked,
            canary=None if self.canary is None or self.canary.key in bad else self.canary,
            missing=QUARANTINED if self.ranked and not ranked else self.missing,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """The experiment and the versions by which requests are answered; replaced as a whole.

    Attributes:
        experiment: The running experiment.
        lineages: Versions by lineage.
    """

    experiment: ActiveExperiment | None = None
    lineages: Mapping[str, LineageVersions] = field(default_factory=dict)

    def choose(self, lineage: str | None, client_id: str) -> Choice:
        """Return the version that scores a request of a client in `lineage`, or the reason why there is none."""
        if lineage is None:
            return Choice()
        versions = self.lineages.get(lineage)
        return Choice(fallback=NO_VERSION) if versions is None else versions.choose(client_id)


class VersionManager:
    """Holder of the routes.

    Guarantees: a reader gets one whole reference, in any thread; a quarantined version does not answer again in this
    process.
    """

    def __init__(self, metrics: Metrics, *, max_bad_outputs: int) -> None:
        """Prepare a manager without versions; `max_bad_outputs` bad outputs quarantine a version."""
        self.routes = Routes()
        self._metrics = metrics
        self._max_bad_outputs = max_bad_outputs
        self._bad_outputs: dict[tuple[str, int], int] = {}
        self._lock = threading.Lock()
        self._quarantined: frozenset[tuple[str, int]] = frozenset()

    def get(self, lineage: str) -> ServedVersion | None:
        """Return the version of a lineage that answers clients outside of its canary."""
        versions = self.routes.lineages.get(lineage)
        return None if versions is None else versions.active

    def numbers(self) -> dict[str, str]:
        """Return the number of the version of each lineage that answers clients outside of its canary."""
        found = ((lineage, versions.active) for lineage, versions in self.routes.lineages.items())
        return {lineage: str(version.number) for lineage, version in found if version is not None}

    def is_quarantined(self, lineage: str, number: int) -> bool:
        """Return whether this process refuses a version after bad outputs."""
        return (lineage, number) in self._quarantined

    def assign(self, experiment: ActiveExperiment | None) -> None:
        """Assign clients by this experiment."""
        with self._lock:
            self.routes = replace(self.routes, experiment=experiment)

    def use(self, versions: LineageVersions) -> None:
        """Replace the versions of a lineage; quarantined ones are left out."""
        with self._lock:
            self._replace(versions.without(self._quarantined))

    def drop(self, lineage: str) -> None:
        """Forget the versions of a lineage that no client is assigned to."""
        with self._lock:
            rest = {name: versions for name, versions in self.routes.lineages.items() if name != lineage}
            self.routes = replace(self.routes, lineages=rest)
        self._metrics.version.remove(lineage)

    def report_bad_output(self, version: ServedVersion) -> None:
        """Count one bad output; at the limit, quarantine the version, so that the one before answers."""
        with self._lock:
            self._bad_outputs[version.key] = self._bad_outputs.get(version.key, 0) + 1
            if self._bad_outputs[version.key] < self._max_bad_outputs or version.key in self._quarantined:
                return
            self._quarantined |= {version.key}
            versions = self.routes.lineages.get(version.lineage)
            if versions is not None:
                self._replace(versions.without(self._quarantined))
        self._metrics.refused_versions.labels(version.lineage, "quarantined").inc()
        _log.error(
            "lineage %s: version %d is quarantined after %d bad outputs",
            version.lineage,
            version.number,
            self._max_bad_outputs,
        )

    def _replace(self, versions: LineageVersions) -> None:
        lineage = versions.lineage
        before = self.routes.lineages.get(lineage, LineageVersions(lineage=lineage))
        self.routes = replace(self.routes, lineages={**self.routes.lineages, lineage: versions})
        if versions.active != before.active:
            self._note_active(lineage, versions)
        if (versions.canary, versions.share) != (before.canary, before.share):
            opened = f"version {versions.canary.number}, share {versions.share}" if versions.canary else "none"
            _log.info("lineage %s: canary: %s", lineage, opened)

    def _note_active(self, lineage: str, versions: LineageVersions) -> None:
        if versions.active is None:
            self._metrics.version.remove(lineage)
            _log.warning("lineage %s: no version answers: %s", lineage, versions.missing)
        else:
            self._metrics.version.labels(lineage).set(versions.active.number)
            self._metrics.version_changes.labels(lineage).inc()
            _log.info("lineage %s: version %d is active", lineage, versions.active.number)
