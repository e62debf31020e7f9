"""The desk of annotators: candidate pages out of a file, and judgements on them to the topic `annotations`.

What is judged is looked up in the file, so that a caller states page, item and grade and nothing else about them.

Source: docs/annotation.md.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from serving.schemas import (
    GradeAnswer,
    GradeRequest,
    Grading,
    OfferedItem,
    OfferedPage,
    OfferedPages,
    RequestError,
    RetryLaterError,
)
from stream.errors import ConfigError, ShelfwiseError
from stream.schemas import topics
from stream.schemas.annotation import Annotation, Judgement, annotation_of, encode
from stream.schemas.problems import Problem
from stream.schemas.records import ProducerRecord
from trainer.annotation.files import PageRow, read_pages

MAX_AHEAD_MS: Final = 86_400_000
"""Time by which the clock of a browser may be ahead, as that of other events."""
_log = logging.getLogger(__name__)
_Rows = Mapping[tuple[str, str], PageRow]


class NotOfferedError(ShelfwiseError):
    """A service without candidate pages."""


class UnreadableError(RetryLaterError):
    """A file of candidate pages that cannot be read now."""


class AnnotationDesk:
    """Candidate pages of one file, which is read again when it has changed, and the judgements on them."""

    def __init__(
        self,
        path: Path | None,
        deliver: Callable[[Sequence[ProducerRecord]], Awaitable[None]],
        *,
        now_ms: Callable[[], int],
    ) -> None:
        """Prepare the desk; nothing is read.

        Args:
            path: File of exported pages; None = none.
            deliver: Return after the broker has acknowledged the records.
            now_ms: Return epoch milliseconds.
        """
        self._path = path
        self._deliver = deliver
        self._now_ms = now_ms
        self._read: tuple[object, _Rows] = (None, {})

    async def offered(self) -> OfferedPages:
        """Return the candidate pages.

        Raises:
            NotOfferedError: If there are none.
            UnreadableError: If the file cannot be read.
        """
        pages: dict[str, OfferedPage] = {}
        for row in (await self._rows()).values():
            page = OfferedPage(page=row.page, query=row.query, category=row.category, items=[])
            item = OfferedItem(item_id=row.item_id, type=row.type, title=row.title, price=row.price)
            pages.setdefault(row.page, page).items.append(item)
        return OfferedPages(pages=list(pages.values()))

    async def grade(self, request: GradeRequest) -> GradeAnswer:
        """Return after the broker has acknowledged the judgements; a repeated request makes copies of them.

        Raises:
            NotOfferedError: If there are no candidate pages.
            RequestError: If an item is on no such page, or a time lies in the future. Nothing is then sent.
            UnreadableError: If the file cannot be read.
            BusyError: If too many events wait for the broker.
            UnacknowledgedError: If the broker is unavailable or did not answer in time.
        """
        rows, now_ms = await self._rows(), self._now_ms()
        found = [
            self._annotation(rows, index, each, request.annotator, now_ms)
            for index, each in enumerate(request.judgements)
        ]
        await self._deliver(
            [ProducerRecord(topic=topics.ANNOTATIONS, key=each.key, value=encode(each)) for each in found]
        )
        return GradeAnswer(accepted=len(found))

    def _annotation(self, rows: _Rows, index: int, given: Grading, annotator: str, now_ms: int) -> Annotation:
        row = rows.get((given.page, given.item_id))
        if row is None:
            raise RequestError(
                Problem(
                    error=f"page {given.page} has no such item",
                    field=f"judgements[{index}].item_id",
                    value=f'"{given.item_id}"',
                )
            )
        if given.event_ts > now_ms + MAX_AHEAD_MS:
            field = f"judgements[{index}].event_ts"
            raise RequestError(Problem(error="more than a day ahead", field=field, value=str(given.event_ts)))
        return annotation_of(
            Judgement(
                query_id=row.query_id,
                item_id=row.item_id,
                grade=given.grade,
                annotator=annotator,
                seconds=given.seconds,
                page=row.page,
                budget=row.budget,
                num_items=row.num_items,
                event_ts=given.event_ts,
                session_partition=row.session_partition,
                session_offset=row.session_offset,
            ),
            now_ms,
        )

    async def _rows(self) -> _Rows:
        if self._path is None:
            raise NotOfferedError("the service has no candidate pages: serving.annotation_pages is empty")
        try:
            return await asyncio.to_thread(self._rows_of, self._path)
        except (ConfigError, OSError) as error:
            # The message names a file of this machine, which is nothing for a caller.
            _log.warning("serving.annotation_pages cannot be read: %s", error)
            raise UnreadableError("the candidate pages cannot be read; see the log of the service") from error

    def _rows_of(self, path: Path) -> _Rows:
        stat = path.stat()
        state = (stat.st_mtime_ns, stat.st_size)
        seen, rows = self._read
        if seen != state:
            rows = {(row.page, row.item_id): row for row in read_pages(path)}
            self._read = (state, rows)
        return rows
