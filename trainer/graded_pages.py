"""Pages that people graded: the trainer learns those of each window between two boundaries, by the append time.

What is learned at a boundary follows from the log up to it alone, so a resumed trainer learns the same pages, and a
grade that comes later changes nothing about the past.

Source: docs/annotation.md, "Training".
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np

from stream.errors import SchemaError
from stream.replicas.annotations import Annotations
from stream.schemas import session
from stream.schemas.annotation import Annotation
from stream.schemas.records import Record
from stream.schemas.session import Session
from trainer.features import N_MAX, CatalogueLike, ExampleBuilder, Labels
from trainer.feed.past_records import PastRecords, Place
from trainer.learning.training_lists import TrainingLists
from trainer.versions.checkpoint import Origin, SkippedRange

# The session trained its clicks and orders when it came in the log.
_SILENT = Labels(np.zeros(0, np.bool_), 0.0)
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Page:
    """The grades of one list by item, and the place of its session; None if no judgement names it."""

    grades: dict[str, list[int]] = field(default_factory=dict)
    session_at: Place | None = None


def passed_until(boundary_ts: int | None, origin: Origin | None, skipped: Iterable[SkippedRange]) -> int:
    """Return the time up to which grades are passed over.

    Args:
        boundary_ts: The boundary before, whose grades are learned; None if there is none.
        origin: Version that the lineage started from, which knows the grades up to its boundary.
        skipped: Ranges that are left out after a rollback, with the grades that came in them.
    """
    return max(boundary_ts or 0, origin.boundary_ts if origin else 0, *(each.until_ts for each in skipped))


class GradedPages:
    """The graded pages that one lineage has to learn.

    Args:
        read: Return the records of `annotations` that came since the last call.
        past: Source of the sessions that hold the lists.
        batch: Most lists of a step.
        passes: Times that the grades of a page are learned.

    Attributes:
        outcomes: Pages since the process began: `learned`, `lost` if the log does not hold their session, `unplaced`
            if their judgements do not name it, `refused` if it has no readable features.
    """

    def __init__(self, read: Callable[[], Iterable[Record]], past: PastRecords, *, batch: int, passes: int) -> None:
        self._read = read
        self._past = past
        self._batch = batch
        self._passes = passes
        self._known: list[tuple[int, Annotation]] = []
        self._has_read = False
        self.outcomes: Counter[str] = Counter()

    def lists(self, since_ts: int, until_ts: int, catalogue: CatalogueLike) -> Iterator[TrainingLists]:
        """Yield the lists of each step: pages with a grade that counts and was appended after one time, up to another.

        A page has all its grades up to the later time; of several annotators of an item the mean counts.

        Args:
            since_ts: Boundary before; grades up to it were learned, or are left out.
            until_ts: Boundary whose lists are wanted.
            catalogue: Items as of the boundary.

        Raises:
            BusError: If the broker does not bring the records.
        """
        self._take_in(since_ts)
        pages = self._due(since_ts, until_ts)
        if not pages:
            return
        steps = self._steps(pages, self._sessions(pages), ExampleBuilder(catalogue))
        _log.info("grades of %d pages: %s", len(pages), dict(self.outcomes))
        for _ in range(self._passes):
            yield from steps

    def _take_in(self, since_ts: int) -> None:
        num_late = 0
        for record in self._read():
            # What cannot be decoded is left out with a warning.
            decoded = Annotations()
            decoded.apply([record])
            self._known += [(record.timestamp, each) for each in decoded.by_id.values()]
            num_late += len(decoded.by_id) if record.timestamp <= since_ts else 0
        if num_late and self._has_read:
            _log.warning("%d judgements are not learned: the log of sessions is ahead of the broker's clock", num_late)
        self._has_read = True

    def _due(self, since_ts: int, until_ts: int) -> dict[str, _Page]:
        """Return the pages to learn by query, in the order of the log."""
        if not any(since_ts < timestamp <= until_ts for timestamp, _ in self._known):
            return {}
        before, counting = self._up_to(since_ts).by_id, self._up_to(until_ts).counting()
        changed = {each.query_id for each in counting if each.event_id not in before}
        pages: dict[str, _Page] = {}
        for each in counting:
            if each.query_id in changed:
                page = pages.setdefault(each.query_id, _Page())
                page.grades.setdefault(each.item_id, []).append(each.grade)
                page.session_at = each.session_at or page.session_at
        return pages

    def _up_to(self, until_ts: int) -> Annotations:
        found = Annotations()
        for timestamp, each in self._known:
            if timestamp <= until_ts:
                found.by_id.setdefault(each.event_id, each)
        return found

    def _sessions(self, pages: Mapping[str, _Page]) -> list[Session]:
        """Return the sessions of pages, in the order of the pages."""
        places = [page.session_at for page in pages.values() if page.session_at is not None]
        found: dict[str, Session] = {}
        for record in self._past.at(places):
            try:
                content = session.decode(record.value or b"")
            except SchemaError:
                continue
            # The topic may have been made anew, with other records at the places.
            if isinstance(content, Session) and content.query_id in pages:
                found[content.query_id] = content
        num_unplaced = len(pages) - len(places)
        num_lost = len(places) - len(found)
        for outcome, num, why in (
            ("unplaced", num_unplaced, "their judgements do not name a record of sessions"),
            ("lost", num_lost, "the log does not hold their sessions, or others are at their places"),
        ):
            self.outcomes[outcome] += num
            if num:
                _log.warning("%d graded pages are not learned: %s", num, why)
        return [found[query_id] for query_id in pages if query_id in found]

    def _steps(
        self, pages: Mapping[str, _Page], sessions: Sequence[Session], builder: ExampleBuilder
    ) -> list[TrainingLists]:
        steps = []
        num_behind = 0
        for first in range(0, len(sessions), self._batch):
            own = sessions[first : first + self._batch]
            examples, refused = builder.from_sessions(own, [_SILENT] * len(own))
            self.outcomes["refused"] += len(refused)
            self.outcomes["learned"] += len(examples)
            grades = [pages[query_id].grades for query_id in examples.query_id]
            rows = list(zip(examples.cand.of.tolist(), examples.item_ids, strict=True))
            num_behind += sum(map(len, grades)) - len({row for row in rows if row[1] in grades[row[0]]})
            grade = [fmean(grades[of][item_id]) if item_id in grades[of] else np.nan for of, item_id in rows]
            if len(examples):
                steps.append(TrainingLists.without_sessions(examples, fresh=False, grade=np.array(grade, np.float32)))
        if num_behind:
            _log.warning("%d graded items are not learned: models read the first %d of a list", num_behind, N_MAX)
        return steps
