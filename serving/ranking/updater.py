"""The version updater: the poll of the registry, and the loading of versions beside the requests.

The registry in SQL is polled; the announcements on `model_versions` are not needed. Each lineage loads in a thread of
its own, so that a large or damaged artifact of one lineage does not delay another. If the live version is damaged, the
newest intact former version answers. A version that cannot be activated leaves the active one in place.

Source: docs/serving.md, docs/training.md.
"""

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from serving.metrics import Metrics
from serving.ranking.scorer import Scorer
from serving.ranking.versions import ServedVersion, VersionManager
from stream.errors import ArtifactError, StoreError
from stream.files import replace_file
from trainer.versions.registry import Version

RETRY_REFUSED_S = 60.0
NUM_FORMER = 3
"""Former versions that may answer in place of a damaged live one."""
LONGEST_LOAD_S = 60.0
"""A load that takes longer holds back neither a new experiment nor the readiness of the process."""

_log = logging.getLogger(__name__)


class Pointer(NamedTuple):
    """Number and address of a version."""

    number: int
    artifact: str


Load = Callable[[str, Pointer], Scorer]


class Registry(Protocol):
    """The part of `trainer.versions.registry.Registry` that serving uses."""

    def servable(self, lineages: Collection[str], num_former: int) -> Mapping[str, Sequence[Version]]:
        """Return the live version of each lineage, followed by former ones, newest first."""
        ...


@dataclass(frozen=True, slots=True)
class _Loading:
    thread: threading.Thread
    started_s: float


class VersionUpdater:
    """Poll of the registry that activates new live versions."""

    def __init__(
        self,
        registry: Registry | None,
        versions: VersionManager,
        load: Load,
        metrics: Metrics,
        *,
        pointers: Path,
        clock: Callable[[], float],
    ) -> None:
        """Prepare the poll.

        Args:
            registry: The versions in the database; None works from the local pointers alone.
            versions: The manager that activates versions.
            load: Return the verified and warm scorer of a lineage's version; raises ArtifactError.
            metrics: Metrics of the process.
            pointers: File that keeps the live and former versions for a start without the database.
            clock: Monotonic seconds.
        """
        self._registry = registry
        self._versions = versions
        self._load = load
        self._metrics = metrics
        self._pointers = pointers
        self._clock = clock
        self._retry_at_s: dict[tuple[str, Pointer], float] = {}
        self._known = _read_pointers(pointers)
        self._loading: dict[str, _Loading] = {}
        self._refused: dict[str, str] = {}
        self._lock = threading.Lock()
        self._is_unavailable = False

    def poll(self, lineages: Collection[str], *, from_copy: bool = False, wait_s: float | None = None) -> bool:
        """Read the versions of the lineages once, and load and activate what is new.

        Args:
            lineages: Names of lineages.
            from_copy: Whether the local pointers are read in place of the registry.
            wait_s: Longest wait for loads, which then go on beside the next polls; None waits until they have ended.

        Returns:
            Whether the registry answered.
        """
        wanted, is_read = self._wanted(lineages, None if from_copy else self._registry)
        for lineage, pointers in wanted.items():
            if lineage not in self._loading and self._next(lineage, pointers) is not None:
                # A daemon: a read that a file system never ends must not keep the process.
                thread = threading.Thread(
                    target=self._use_first_intact, args=(lineage, pointers), name=f"load-{lineage}", daemon=True
                )
                self._loading[lineage] = _Loading(thread, self._clock())
                thread.start()
        until_s = None if wait_s is None else self._clock() + wait_s
        for each in self._loading.values():
            each.thread.join(None if until_s is None else max(0.0, until_s - self._clock()))
        self._loading = {lineage: each for lineage, each in self._loading.items() if each.thread.is_alive()}
        return is_read

    def is_settled(self, lineages: Collection[str]) -> bool:
        """Return whether no version of these lineages is being loaded, apart from loads of more than a minute."""
        now_s = self._clock()
        return not any(
            lineage in lineages and now_s - each.started_s < LONGEST_LOAD_S for lineage, each in self._loading.items()
        )

    def refused(self) -> dict[str, str]:
        """Return why the live version of a lineage does not answer, by lineage; empty if all do."""
        with self._lock:
            found = dict(self._refused)
        now_s = self._clock()
        for lineage, each in self._loading.copy().items():
            if now_s - each.started_s >= LONGEST_LOAD_S:
                found[lineage] = f"a version has been loading for {now_s - each.started_s:.0f} s"
        return found

    def _wanted(
        self, lineages: Collection[str], registry: Registry | None
    ) -> tuple[Mapping[str, Sequence[Pointer]], bool]:
        """Return the versions that may answer for each lineage, best first, and whether the registry said so."""
        copied = {lineage: self._known[lineage] for lineage in lineages if lineage in self._known}
        if registry is None:
            return copied, False
        try:
            found = registry.servable(lineages, NUM_FORMER)
        except StoreError as error:
            if not self._is_unavailable:
                _log.warning("the registry is unavailable, active versions stay: %s", error)
            self._is_unavailable = True
            return copied, False
        self._is_unavailable = False
        return {name: [Pointer(each.version, each.artifact) for each in rows] for name, rows in found.items()}, True

    def _next(self, lineage: str, pointers: Sequence[Pointer]) -> Pointer | None:
        """Return the version to activate, or None if the active one is the best that is not refused."""
        for pointer in pointers:
            is_refused = self._clock() < self._retry_at_s.get((lineage, pointer), -1.0)
            if is_refused or self._versions.is_quarantined(lineage, pointer.number):
                continue
            current = self._versions.get(lineage)
            return None if current is not None and _pointer(current) == pointer else pointer
        return None

    def _use_first_intact(self, lineage: str, pointers: Sequence[Pointer]) -> None:
        while (pointer := self._next(lineage, pointers)) is not None:
            current = self._versions.get(lineage)
            kept = None if current is None else current.previous
            try:
                scorer = kept.scorer if kept and _pointer(kept) == pointer else self._load(lineage, pointer)
            except Exception as error:  # noqa: BLE001 - an artifact is foreign input, and no fault of it may end the poll
                self._refuse(lineage, pointer, error, is_live=pointer == pointers[0])
                continue
            self._versions.activate(
                ServedVersion(lineage=lineage, number=pointer.number, artifact=pointer.artifact, scorer=scorer)
            )
            break
        self._keep(lineage, pointers)

    def _refuse(self, lineage: str, pointer: Pointer, error: Exception, *, is_live: bool) -> None:
        key = (lineage, pointer)
        if key not in self._retry_at_s:
            self._metrics.refused_versions.labels(lineage, "artifact").inc()
            is_foreseen = isinstance(error, ArtifactError)
            _log.error(
                "lineage %s: version %d is refused: %s", lineage, pointer.number, error, exc_info=not is_foreseen
            )
        self._retry_at_s[key] = self._clock() + RETRY_REFUSED_S
        if is_live:
            with self._lock:
                self._refused[lineage] = f"version {pointer.number}: {error}"

    def _keep(self, lineage: str, pointers: Sequence[Pointer]) -> None:
        """Note whether the live version answers, and keep the versions for a start without the database."""
        active = self._versions.get(lineage)
        is_live = active is not None and _pointer(active) == pointers[0]
        self._metrics.former_version.labels(lineage).set(not is_live)
        with self._lock:
            if is_live:
                self._refused.pop(lineage, None)
                self._retry_at_s.pop((lineage, pointers[0]), None)
            if active is not None and self._known.get(lineage) != list(pointers):
                self._known[lineage] = list(pointers)
                replace_file(self._pointers, msgspec.json.encode(self._known))


def _pointer(version: ServedVersion) -> Pointer:
    return Pointer(version.number, version.artifact)


def _read_pointers(path: Path) -> dict[str, list[Pointer]]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, list[Pointer]])
    except FileNotFoundError:
        return {}
    except msgspec.MsgspecError as error:
        _log.warning("%s is damaged and ignored: %s", path.name, error)
        return {}
