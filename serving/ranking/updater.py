"""The version updater: the poll of the map, and the loading of versions beside the requests.

The map in SQL is polled; the announcements on `model_versions` are not needed. What is in memory takes its role at
once; what is missing is loaded, and takes its role then. So a promotion, a rollback and a kill load nothing. Each
lineage loads in a thread of its own, so that a large or damaged artifact of one lineage does not delay another. If the
live version is damaged, the newest intact former version answers.

Source: docs/serving.md, docs/rollout.md.
"""

import hashlib
import logging
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import msgspec
from msgspec import Struct

from serving.metrics import Metrics
from serving.ranking.scorer import Scorer
from serving.ranking.versions import NO_VERSION, WITHDRAWN, LineageVersions, ServedVersion, VersionManager
from stream.errors import ArtifactError, StoreError
from stream.files import PRIVATE_FILE, replace_file
from trainer.rollout.reports import OK
from trainer.rollout.served_map import LineageMap, Pointer

RETRY_REFUSED_S = 60.0
NUM_FORMER = 3
"""Former versions that are tried in place of a damaged live one."""
LONGEST_LOAD_S = 60.0
"""A load that takes longer holds back neither a new experiment nor the readiness of the process."""

NO_MAP: Final = "none"
FROM_COPY: Final = "copy"
FROM_DATABASE: Final = "database"

_log = logging.getLogger(__name__)

Load = Callable[[str, Pointer], Scorer]
Check = Callable[[Scorer], None]


class MapReader(Protocol):
    """The part of `trainer.rollout.served_map.MapReader` that serving uses."""

    def read(self, names: Collection[str]) -> Mapping[str, LineageMap]:
        """Return the map of each named lineage that exists."""
        ...


@dataclass(frozen=True, slots=True)
class _Loading:
    thread: threading.Thread
    started_s: float


@dataclass(frozen=True, slots=True)
class _Refusal:
    reason: str
    retry_at_s: float


class VersionUpdater:
    """Poll of the map that gives versions their roles."""

    def __init__(
        self,
        reader: MapReader | None,
        versions: VersionManager,
        load: Load,
        metrics: Metrics,
        *,
        copy_path: Path,
        clock: Callable[[], float],
        check: Check = lambda _scorer: None,
    ) -> None:
        """Prepare the poll.

        Args:
            reader: The map in the database; None works from the local copy alone.
            versions: The manager that gives requests their versions.
            load: Return the verified and warm scorer of a lineage's version; raises ArtifactError.
            metrics: Metrics of the process.
            copy_path: File that keeps the map for a start without the database.
            clock: Monotonic seconds.
            check: Called for each version when it was loaded, and at each poll; raises ArtifactError if the version
                does not fit what else is in memory.
        """
        self._reader = reader
        self._check = check
        self._versions = versions
        self._load = load
        self._metrics = metrics
        self._copy_path = copy_path
        self._clock = clock
        self._kept = _read_copy(copy_path)
        self._map: Mapping[str, LineageMap] = self._kept or {}
        self._source = NO_MAP if self._kept is None else FROM_COPY
        self._held: dict[str, dict[Pointer, ServedVersion]] = {}
        self._refused: dict[tuple[str, Pointer], _Refusal] = {}
        self._loading: dict[str, _Loading] = {}
        # Guards what loads and polls share.
        self._lock = threading.RLock()
        self._is_unavailable = self._is_copy_refused = False

    def poll(self, lineages: Collection[str], *, from_copy: bool = False, wait_s: float | None = None) -> bool:
        """Read the map of the lineages once, apply what is in memory, and load what is not.

        Args:
            lineages: Names of lineages.
            from_copy: Whether the map stays as it is, or as the local copy has it.
            wait_s: Longest wait for loads, which then go on beside the next polls; None waits until they have ended.

        Returns:
            Whether the database answered.
        """
        is_read = not from_copy and self._read(lineages)
        for lineage in lineages:
            self._refuse_unfit(lineage)
            self._apply(lineage)
            if lineage not in self._loading and self._missing(lineage) is not None:
                # A daemon: a read that a file system never ends must not keep the process.
                thread = threading.Thread(
                    target=self._load_missing, args=(lineage,), name=f"load-{lineage}", daemon=True
                )
                self._loading[lineage] = _Loading(thread, self._clock())
                thread.start()
        until_s = None if wait_s is None else self._clock() + wait_s
        for each in self._loading.values():
            each.thread.join(None if until_s is None else max(0.0, until_s - self._clock()))
        self._loading = {lineage: each for lineage, each in self._loading.items() if each.thread.is_alive()}
        self._forget_all_but(lineages)
        return is_read

    def is_settled(self, lineages: Collection[str]) -> bool:
        """Return whether no version that answers is being loaded, apart from loads of more than a minute."""
        now_s = self._clock()
        return not any(
            lineage in lineages
            and now_s - each.started_s < LONGEST_LOAD_S
            and self._missing_answer(lineage) is not None
            for lineage, each in self._loading.items()
        )

    def refused(self) -> dict[str, str]:
        """Return why the live version of a lineage does not answer, by lineage; empty if all do."""
        with self._lock:
            lives = {lineage: found.live for lineage, found in self._map.items() if found.live is not None}
            refusals = {lineage: self._refused.get((lineage, pointer)) for lineage, pointer in lives.items()}
            found = {
                lineage: f"version {lives[lineage].number}: {refusal.reason}"
                for lineage, refusal in refusals.items()
                if refusal is not None
            }
        now_s = self._clock()
        for lineage, each in self._loading.copy().items():
            if now_s - each.started_s >= LONGEST_LOAD_S:
                found[lineage] = f"a version has been loading for {now_s - each.started_s:.0f} s"
        return found

    def retry_refused(self) -> None:
        """Load refused versions again at the next poll, because the keys of signatures are others now."""
        with self._lock:
            now_s = self._clock()
            self._refused = {key: _Refusal(each.reason, now_s) for key, each in self._refused.items()}

    def withdrawn(self) -> dict[str, str]:
        """Return why no version of a lineage may answer any more, by lineage."""
        with self._lock:
            return {lineage: why for lineage, found in self._map.items() if (why := found.withdrawn) is not None}

    @property
    def map_source(self) -> str:
        """Return where the map in use is from: `FROM_DATABASE`, `FROM_COPY`, or `NO_MAP` before there is one."""
        return self._source

    @property
    def map_sha256(self) -> str | None:
        """Return the SHA-256 of the map in use, None before there is one."""
        with self._lock:
            return sha256_of(self._map) if self._map else None

    def states(self, lineages: Collection[str]) -> dict[str, dict[str, str]]:
        """Return lineage to number of a version to `ok` if it is in memory, or to the reason why it is refused."""
        found: dict[str, dict[str, str]] = {lineage: {} for lineage in lineages}
        with self._lock:
            for (lineage, pointer), refusal in self._refused.items():
                found.setdefault(lineage, {})[str(pointer.number)] = refusal.reason
            for lineage, held in self._held.items():
                for pointer in held:
                    is_bad = self._versions.is_quarantined(lineage, pointer.number)
                    state = "quarantined after bad outputs" if is_bad else OK
                    found.setdefault(lineage, {})[str(pointer.number)] = state
        return found

    def judged(self) -> set[tuple[str, int]]:
        """Return lineage and number of the versions whose answers are compared: live, former and canary."""
        with self._lock:
            return {
                (lineage, pointer.number)
                for lineage, found in self._map.items()
                for pointer in (*found.answering[: 1 + NUM_FORMER], found.canary)
                if pointer is not None
            }

    def _read(self, lineages: Collection[str]) -> bool:
        """Read the map, and return whether the database answered."""
        if self._reader is None:
            return False
        try:
            found = dict(self._reader.read(lineages))
        except StoreError as error:
            if not self._is_unavailable:
                _log.warning("the map is unavailable, versions keep their roles: %s", error)
            self._is_unavailable = True
            return False
        self._is_unavailable = False
        with self._lock:
            self._map, self._source = found, FROM_DATABASE
            known = {(lineage, pointer) for lineage, each in found.items() for pointer in _named(each)}
            self._refused = {key: refusal for key, refusal in self._refused.items() if key in known}
        if found != self._kept:
            try:
                copy = msgspec.json.encode(_Copy(lineages=found, sha256=sha256_of(found)))
                replace_file(self._copy_path, copy, mode=PRIVATE_FILE)
                self._kept, self._is_copy_refused = found, False
            except OSError as error:
                if not self._is_copy_refused:
                    _log.warning("a start without the database would use an older map: %s: %s", self._copy_path, error)
                self._is_copy_refused = True
        return True

    def _missing(self, lineage: str) -> Pointer | None:
        """Return the version to load next, or None if all that have a role are in memory or refused."""
        answer = self._missing_answer(lineage)
        if answer is not None:
            return answer
        with self._lock:
            found, held = self._map.get(lineage, LineageMap()), self._held.get(lineage, {})
            others = (found.canary, found.candidate, self._standby(lineage))
            return next((each for each in others if each and each not in held and self._may_load(lineage, each)), None)

    def _missing_answer(self, lineage: str) -> Pointer | None:
        with self._lock:
            best = next(iter(self._usable(lineage)), None)
            return best if best not in self._held.get(lineage, {}) else None

    def _usable(self, lineage: str) -> list[Pointer]:
        """Return the versions that may answer and are not refused, best first."""
        found = self._map.get(lineage, LineageMap())
        return [each for each in found.answering[: 1 + NUM_FORMER] if self._may_load(lineage, each)]

    def _standby(self, lineage: str) -> Pointer | None:
        """Return the version that a rollback would make live."""
        return next(iter(self._usable(lineage)[1:]), None)

    def _may_load(self, lineage: str, pointer: Pointer) -> bool:
        refusal = self._refused.get((lineage, pointer))
        is_refused = refusal is not None and self._clock() < refusal.retry_at_s
        return not is_refused and not self._versions.is_quarantined(lineage, pointer.number)

    def _load_missing(self, lineage: str) -> None:
        while (pointer := self._missing(lineage)) is not None:
            try:
                scorer = self._load(lineage, pointer)
                self._check(scorer)
            except Exception as error:  # noqa: BLE001 - an artifact is foreign input, and no fault of it may end the poll
                self._refuse(lineage, pointer, error)
            else:
                version = ServedVersion(
                    lineage=lineage, number=pointer.number, artifact=pointer.artifact, scorer=scorer
                )
                with self._lock:
                    self._held.setdefault(lineage, {})[pointer] = version
                    self._refused.pop((lineage, pointer), None)
            self._apply(lineage)

    def _apply(self, lineage: str) -> None:
        """Give the versions in memory their roles, and let go of those without one."""
        with self._lock:
            found, held = self._map.get(lineage, LineageMap()), self._held.get(lineage, {})
            if lineage not in self._map and not held:
                return
            if found.killed is not None:
                versions = LineageVersions(lineage=lineage, missing=WITHDRAWN)
            else:
                versions = LineageVersions(
                    lineage=lineage,
                    ranked=tuple(held[each] for each in found.answering if each in held),
                    canary=held.get(found.canary) if found.canary else None,
                    share=found.canary_share,
                    missing=WITHDRAWN if found.live is None and found.rolled_back is not None else NO_VERSION,
                )
            self._versions.use(versions)
            active = self._versions.get(lineage)
            kept = {found.live, found.canary, found.candidate, self._standby(lineage)}
            kept |= set() if active is None else {Pointer(active.number, active.artifact)}
            self._held[lineage] = {each: version for each, version in held.items() if each in kept}
            is_refused = found.live is not None and (lineage, found.live) in self._refused
        self._metrics.former_version.labels(lineage).set(is_refused)

    def _refuse_unfit(self, lineage: str) -> None:
        with self._lock:
            held = self._held.get(lineage, {})
            for pointer, version in held.copy().items():
                try:
                    self._check(version.scorer)
                except ArtifactError as error:
                    del held[pointer]
                    self._refuse(lineage, pointer, error)

    def _refuse(self, lineage: str, pointer: Pointer, error: Exception) -> None:
        key = (lineage, pointer)
        # The address is that of the version, which the reason goes with.
        reason = str(error).removeprefix(f"{pointer.artifact}: ")
        with self._lock:
            is_known = key in self._refused
            self._refused[key] = _Refusal(reason, self._clock() + RETRY_REFUSED_S)
        if not is_known:
            self._metrics.refused_versions.labels(lineage, "artifact").inc()
            is_foreseen = isinstance(error, ArtifactError)
            _log.error(
                "lineage %s: version %d is refused: %s", lineage, pointer.number, error, exc_info=not is_foreseen
            )

    def _forget_all_but(self, lineages: Collection[str]) -> None:
        with self._lock:
            for lineage in [each for each in self._held if each not in lineages and each not in self._loading]:
                del self._held[lineage]
                self._versions.drop(lineage)


def _named(found: LineageMap) -> set[Pointer]:
    return {each for each in (*found.answering, found.canary, found.candidate) if each is not None}


def sha256_of(found: Mapping[str, LineageMap]) -> str:
    """Return the SHA-256 of a map."""
    return hashlib.sha256(msgspec.json.encode(found, order="deterministic")).hexdigest()


class _Copy(Struct, frozen=True, kw_only=True):
    lineages: dict[str, LineageMap]
    sha256: str


def _read_copy(path: Path) -> dict[str, LineageMap] | None:
    """Return the map of a local copy, None if it is missing or damaged."""
    try:
        copy = msgspec.json.decode(path.read_bytes(), type=_Copy)
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, UnicodeDecodeError, OSError) as error:
        _log.warning("%s is damaged and ignored: %s", path.name, error)
        return None
    if sha256_of(copy.lineages) != copy.sha256:
        _log.warning("%s is damaged and ignored: it does not have its sha256", path.name)
        return None
    return copy.lineages
