"""Lists that a version ranks and shoppers answer, for tests of what a trainer publishes with the next version."""

from collections.abc import Iterator

import numpy as np
import torch

from stream.replicas.catalogue import Catalogue
from stream.schemas.session import Session, encode
from tests.trainer.session_log import START_TS, ListFeed, LogRecord, make_items, make_progress, make_session
from trainer.features import ExampleBuilder
from trainer.learning.former import FormerVersion
from trainer.versions.artifact import LoadedVersion

NUM_ITEMS = 40


class Shop:
    """A log of one partition, in which shoppers mostly click and buy items of the first category.

    Args:
        lineage: Lineage whose versions rank the lists.
        seed: Seed of lists and shoppers.
        first_query: Number of the first query.
    """

    def __init__(self, lineage: str, seed: int = 1, first_query: int = 0) -> None:
        self._lineage = lineage
        self._rng = np.random.default_rng(seed)
        self._catalogue = Catalogue()
        ListFeed(make_items(NUM_ITEMS)).advance(self._catalogue, START_TS)
        self._builder = ExampleBuilder(self._catalogue)
        self._number = first_query
        self._offset = 0

    def serve(self, count: int, version: LoadedVersion | None = None, *, flipped: bool = False) -> list[LogRecord]:
        """Return the records of sessions; those that no version ranks were shown in random order.

        Args:
            count: Number of sessions, one for each second.
            version: Version that ranks the lists and logs its scores.
            flipped: Whether the labels are those of the other items.
        """
        return list(self._records(count, version, flipped=flipped))

    def _records(self, count: int, version: LoadedVersion | None, *, flipped: bool) -> Iterator[LogRecord]:
        ranker = None if version is None else FormerVersion(version, torch.device("cpu"))
        for _ in range(count):
            watermark_ts = START_TS + self._number * 1_000
            session = make_session(self._number, self._rng, watermark_ts=watermark_ts)
            self._answer(session, flipped=flipped)
            if ranker is None:
                session.propensity = np.full(session.n, 1 / session.n, "<f4").tobytes()
            else:
                session.lineage, session.version = self._lineage, str(ranker.version.manifest.version)
                session.score = self._scores(ranker, session).tobytes()
            self._number += 1
            yield self._record(encode(session))
            if self._number % 5 == 0:
                yield self._record(encode(make_progress(0, watermark_ts + 600)))

    def _answer(self, session: Session, *, flipped: bool) -> None:
        items = np.array([int(item.removeprefix("i")) for item in session.item_id])
        is_liked = items % 4 == 0
        likes = self._rng.uniform(size=session.n) < np.where(is_liked, 0.8, 0.1)
        # A feature that says it, so that few lists teach it.
        features = np.frombuffer(session.item_f16, "<f2").reshape(session.n, -1).copy()
        features[:, :8] = 3 * is_liked[:, None]
        session.item_f16 = features.tobytes()
        labels = (~likes if flipped else likes).astype("<u2")
        session.clicks = session.orders = labels.tobytes()
        session.units = labels.astype("<u4").tobytes()
        session.gross_minor = (labels.astype("<i8") * 500).tobytes()

    def _scores(self, ranker: FormerVersion, session: Session) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
        examples, refused = self._builder.from_sessions([session])
        assert not refused
        scores = ranker.scores(examples, np.ones(1, np.bool_), (1, session.n))[0]
        shown = np.zeros(session.n, "<f4")
        shown[examples.index] = scores
        return shown

    def _record(self, value: bytes) -> LogRecord:
        record = LogRecord(0, self._offset, value)
        self._offset += 1
        return record
