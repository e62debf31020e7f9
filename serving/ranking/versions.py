"""Which version of each lineage answers, and the thread that keeps it current.

A version comes into use by replacing one reference, after it was loaded, gave its golden scores and ran warm; a
request reads the reference once. What cannot be taken into use leaves the former version where it is. The registry
is polled; announcements on `model_versions` are hints that this module does not need.

Source: TRAINING_SERVING.md 6-8, RELIABILITY.md V2, V4, V5, T3.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import msgspec

from serving.metrics import Metrics
from serving.ranking.scorer import Scorer
from stream.errors import ArtifactError, StoreError
from stream.files import replace_file
from trainer.versions.registry import Version

RETRY_REFUSED_S = 60.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class InUse:
    """A version that can score, and the one before it, which stays loaded for a step back."""

    lineage: str
    number: int
    artifact: str
    scorer: Scorer
    former: "InUse | None" = None


class Versions:
    """Lineage to the version in use; readers take one reference, writers replace it whole."""

    def __init__(self, metrics: Metrics, *, max_bad_outputs: int) -> None:
        self._in_use: Mapping[str, InUse] = {}
        self._metrics = metrics
        self._max_bad_outputs = max_bad_outputs
        self._bad_outputs: dict[tuple[str, int], int] = {}
        self._lock = threading.Lock()
        self._quarantined: frozenset[tuple[str, int]] = frozenset()

    def get(self, lineage: str) -> InUse | None:
        """Return the version to use now; pin it for the whole request."""
        return self._in_use.get(lineage)

    def numbers(self) -> dict[str, str]:
        """Return lineage to the number of the version in use."""
        return {lineage: str(version.number) for lineage, version in self._in_use.items()}

    def is_quarantined(self, lineage: str, number: int | None = None) -> bool:
        """Tell whether this process refuses a version, or has refused any version of the lineage."""
        return any(name == lineage and number in {None, bad} for name, bad in self._quarantined)

    def swap(self, version: InUse) -> None:
        """Put a version into use, keeping the one before it loaded."""
        with self._lock:
            former = self._in_use.get(version.lineage)
            # Only one step back is kept, so that old weights can be freed.
            kept = replace(former, former=None) if former else None
            self._in_use = {**self._in_use, version.lineage: replace(version, former=kept)}
        self._metrics.version.labels(version.lineage).set(version.number)
        self._metrics.swaps.labels(version.lineage).inc()
        _log.info("lineage %s: version %d in use", version.lineage, version.number)

    def report_bad(self, version: InUse) -> None:
        """Count one bad output; enough of them quarantine the version here and bring the former one back."""
        key = (version.lineage, version.number)
        with self._lock:
            self._bad_outputs[key] = self._bad_outputs.get(key, 0) + 1
            if self._bad_outputs[key] < self._max_bad_outputs or key in self._quarantined:
                return
            self._quarantined |= {key}
            if self._in_use.get(version.lineage) is version:
                rest = {lineage: used for lineage, used in self._in_use.items() if lineage != version.lineage}
                former = version.former
                if former is not None and (former.lineage, former.number) not in self._quarantined:
                    rest[version.lineage] = former
                self._in_use = rest
        self._metrics.refused_versions.labels(version.lineage, "quarantined").inc()
        _log.error("lineage %s: version %d quarantined here after bad outputs", version.lineage, version.number)


class Registry(Protocol):
    """What is asked of `trainer.versions.registry.Registry`."""

    def live(self, lineage: str) -> Version | None:
        """Return the live version of a lineage."""
        ...


class Updater:
    """Polls the registry for the lineages in use and puts new live versions into use."""

    def __init__(
        self,
        registry: Registry | None,
        versions: Versions,
        load: Callable[[str], Scorer],
        metrics: Metrics,
        *,
        pointers: Path,
        clock: Callable[[], float],
    ) -> None:
        """Prepare.

        Args:
            registry: The truth about what is live; None works from the local pointers alone.
            versions: Where versions are put into use.
            load: Artifact address to a scorer that is verified and warm; raises ArtifactError.
            metrics: Counts what is refused.
            pointers: File that remembers the live versions for a start without the database.
            clock: Monotonic seconds.
        """
        self._registry = registry
        self._versions = versions
        self._load = load
        self._metrics = metrics
        self._pointers = pointers
        self._clock = clock
        self._retry_at: dict[tuple[str, int], float] = {}
        self._known: dict[str, tuple[int, str]] = _read_pointers(pointers)
        self._away = False

    def poll(self, lineages: Iterable[str]) -> None:
        """Look once at every lineage; whatever fails leaves its former version in use."""
        for lineage in lineages:
            live = self._live(lineage)
            if live is not None:
                self._use(lineage, *live)

    def _live(self, lineage: str) -> tuple[int, str] | None:
        if self._registry is None:
            return self._known.get(lineage)
        try:
            version = self._registry.live(lineage)
        except StoreError as error:
            if not self._away:
                _log.warning("registry away, versions in use stay: %s", error)
            self._away = True
            return self._known.get(lineage)
        self._away = False
        return None if version is None else (version.version, version.artifact)

    def _use(self, lineage: str, number: int, artifact: str) -> None:
        current = self._versions.get(lineage)
        if current is not None and (current.number, current.artifact) == (number, artifact):
            return
        key = (lineage, number)
        retry_at = self._retry_at.get(key)
        if self._versions.is_quarantined(*key) or (retry_at is not None and self._clock() < retry_at):
            return
        try:
            scorer = self._load(artifact)
        except ArtifactError as error:
            if key not in self._retry_at:
                self._metrics.refused_versions.labels(lineage, "artifact").inc()
                _log.error("lineage %s: version %d refused, the former one stays: %s", lineage, number, error)
            self._retry_at[key] = self._clock() + RETRY_REFUSED_S
            return
        self._retry_at.pop(key, None)
        self._versions.swap(InUse(lineage=lineage, number=number, artifact=artifact, scorer=scorer))
        self._known[lineage] = (number, artifact)
        replace_file(self._pointers, msgspec.json.encode(self._known))


def _read_pointers(path: Path) -> dict[str, tuple[int, str]]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, tuple[int, str]])
    except FileNotFoundError:
        return {}
    except msgspec.MsgspecError as error:
        _log.warning("%s is damaged and ignored: %s", path.name, error)
        return {}
