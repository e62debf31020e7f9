"""The version manager: the live version of each lineage in memory, and the poll that keeps it current.

A version becomes active when one reference is replaced, after the version was loaded, reproduced its golden scores and
ran once. A request reads the reference once. A version that cannot be activated leaves the previous one active. The
registry in SQL is polled; the announcements on `model_versions` are not needed.

Source: docs/serving.md, docs/training.md.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

import msgspec

from serving.metrics import Metrics
from serving.ranking.scorer import Scorer
from stream.errors import ArtifactError, StoreError
from stream.files import replace_file
from trainer.versions.registry import Version

NO_VERSION: Final = "no_version"
QUARANTINED: Final = "quarantined"
RETRY_REFUSED_S = 60.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedVersion:
    """A version that can score.

    Attributes:
        lineage: Its lineage.
        number: Its number in the lineage.
        artifact: Address of its artifact.
        scorer: Its model, verified and warm.
        previous: The version that was active before, kept in memory for a quick return.
    """

    lineage: str
    number: int
    artifact: str
    scorer: Scorer
    previous: "ServedVersion | None" = None


class VersionManager:
    """Active version of each lineage.

    Guarantees: a reader gets one whole reference, in any thread; a quarantined version is not activated again in this
    process.
    """

    def __init__(self, metrics: Metrics, *, max_bad_outputs: int) -> None:
        """Prepare a manager without versions; `max_bad_outputs` bad outputs quarantine a version."""
        self._active: Mapping[str, ServedVersion] = {}
        self._metrics = metrics
        self._max_bad_outputs = max_bad_outputs
        self._bad_outputs: dict[tuple[str, int], int] = {}
        self._lock = threading.Lock()
        self._quarantined: frozenset[tuple[str, int]] = frozenset()

    def get(self, lineage: str) -> ServedVersion | None:
        """Return the active version of a lineage."""
        return self._active.get(lineage)

    def select(self, lineage: str | None) -> tuple[ServedVersion | None, str | None]:
        """Return the version that scores a request of `lineage`, or the reason why there is none."""
        if lineage is None:
            return None, None
        version = self._active.get(lineage)
        if version is None:
            return None, QUARANTINED if self.is_quarantined(lineage) else NO_VERSION
        return version, None

    def numbers(self) -> dict[str, str]:
        """Return the number of the active version of each lineage."""
        return {lineage: str(version.number) for lineage, version in self._active.items()}

    def is_quarantined(self, lineage: str, number: int | None = None) -> bool:
        """Return whether this process refuses a version, or any version of the lineage."""
        return any(name == lineage and number in {None, bad} for name, bad in self._quarantined)

    def activate(self, version: ServedVersion) -> None:
        """Make a version the active one of its lineage, and keep the previous one in memory."""
        with self._lock:
            previous = self._active.get(version.lineage)
            # Older versions than the previous one are dropped, so that their weights can be freed.
            kept = replace(previous, previous=None) if previous else None
            self._active = {**self._active, version.lineage: replace(version, previous=kept)}
        self._metrics.version.labels(version.lineage).set(version.number)
        self._metrics.version_changes.labels(version.lineage).inc()
        _log.info("lineage %s: version %d is active", version.lineage, version.number)

    def report_bad_output(self, version: ServedVersion) -> None:
        """Count one bad output; at the limit, quarantine the version and return to the previous one."""
        key = (version.lineage, version.number)
        with self._lock:
            self._bad_outputs[key] = self._bad_outputs.get(key, 0) + 1
            if self._bad_outputs[key] < self._max_bad_outputs or key in self._quarantined:
                return
            self._quarantined |= {key}
            if self._active.get(version.lineage) is version:
                rest = {lineage: active for lineage, active in self._active.items() if lineage != version.lineage}
                previous = version.previous
                if previous is not None and (previous.lineage, previous.number) not in self._quarantined:
                    rest[version.lineage] = previous
                self._active = rest
        self._metrics.refused_versions.labels(version.lineage, "quarantined").inc()
        _log.error(
            "lineage %s: version %d is quarantined after %d bad outputs",
            version.lineage,
            version.number,
            self._max_bad_outputs,
        )


class Registry(Protocol):
    """The part of `trainer.versions.registry.Registry` that serving uses."""

    def live(self, lineage: str) -> Version | None:
        """Return the live version of a lineage."""
        ...


class VersionUpdater:
    """Poll of the registry that activates new live versions."""

    def __init__(
        self,
        registry: Registry | None,
        versions: VersionManager,
        load: Callable[[str], Scorer],
        metrics: Metrics,
        *,
        pointers: Path,
        clock: Callable[[], float],
    ) -> None:
        """Prepare the poll.

        Args:
            registry: The live versions in the database; None works from the local pointers alone.
            versions: The manager that activates versions.
            load: Return the verified and warm scorer of an artifact; raises ArtifactError.
            metrics: Metrics of the process.
            pointers: File that keeps the live versions for a start without the database.
            clock: Monotonic seconds.
        """
        self._registry = registry
        self._versions = versions
        self._load = load
        self._metrics = metrics
        self._pointers = pointers
        self._clock = clock
        self._retry_at_s: dict[tuple[str, int], float] = {}
        self._known: dict[str, tuple[int, str]] = _read_pointers(pointers)
        self._is_unavailable = False

    def poll(self, lineages: Iterable[str]) -> None:
        """Read the live version of each lineage once; a lineage that fails keeps its active version."""
        for lineage in lineages:
            live = self._live(lineage)
            if live is not None:
                self._activate(lineage, *live)

    def _live(self, lineage: str) -> tuple[int, str] | None:
        if self._registry is None:
            return self._known.get(lineage)
        try:
            version = self._registry.live(lineage)
        except StoreError as error:
            if not self._is_unavailable:
                _log.warning("the registry is unavailable, active versions stay: %s", error)
            self._is_unavailable = True
            return self._known.get(lineage)
        self._is_unavailable = False
        return None if version is None else (version.version, version.artifact)

    def _activate(self, lineage: str, number: int, artifact: str) -> None:
        current = self._versions.get(lineage)
        if current is not None and (current.number, current.artifact) == (number, artifact):
            return
        key = (lineage, number)
        if self._versions.is_quarantined(*key) or self._clock() < self._retry_at_s.get(key, -1.0):
            return
        try:
            scorer = self._load(artifact)
        except ArtifactError as error:
            if key not in self._retry_at_s:
                self._metrics.refused_versions.labels(lineage, "artifact").inc()
                _log.error("lineage %s: version %d is refused, the active one stays: %s", lineage, number, error)
            self._retry_at_s[key] = self._clock() + RETRY_REFUSED_S
            return
        self._retry_at_s.pop(key, None)
        self._versions.activate(ServedVersion(lineage=lineage, number=number, artifact=artifact, scorer=scorer))
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
