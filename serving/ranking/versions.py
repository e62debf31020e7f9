"""The version manager: the active version of each lineage in memory.

A request reads one reference. The reference is replaced when a version was loaded, reproduced its golden scores and ran
once (`serving.ranking.updater`).

Source: docs/serving.md, docs/training.md.
"""

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from serving.metrics import Metrics
from serving.ranking.scorer import Scorer

NO_VERSION: Final = "no_version"
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
