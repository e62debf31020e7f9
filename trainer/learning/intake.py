"""The intake of a learner: sessions wait until their batch is full, and each session and purchase is trained once.

Source: docs/training.md, "From sessions to batches".
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream.schemas.session import Session
from trainer.configs import LearningSettings
from trainer.features import Labels, stream_labels
from trainer.feed.batches import SessionBatch
from trainer.feed.seen import SeenSet
from trainer.learning import session_records
from trainer.versions.atomic_folder import Tensors


@dataclass(frozen=True, slots=True)
class PendingSession:
    """A session that waits for its batch to fill, and the labels that it will train."""

    session: Session
    labels: Labels


class Intake:
    """Sessions that wait, and the memory of the sessions and purchases that came before.

    Attributes:
        pending: Sessions that wait for their batch to fill.
        known_until_ts: Sessions with an earlier watermark were learned by the version that the lineage started from;
            None if it started from fresh weights.
        skipped_until_ts: Sessions with an earlier watermark are left out after a rollback; None if none are.
    """

    def __init__(self, learning: LearningSettings) -> None:
        self._learning = learning
        self._seen = SeenSet()
        self._converted = SeenSet()
        self.pending: list[PendingSession] = []
        self.known_until_ts: int | None = None
        self.skipped_until_ts: int | None = None

    def take(self, batch: SessionBatch) -> Counter[str]:
        """Append the sessions that have something to train; return the number of the others by outcome."""
        left_out: Counter[str] = Counter()
        for placed, held in zip(batch.sessions, batch.held, strict=True):
            session = placed.session
            key = session.query_id.encode() + b"\0" + session.label_key
            if held:
                left_out["held"] += 1
                continue
            if not self._seen.add(key, placed.key.watermark_ts):
                left_out["repeated"] += 1
                continue
            labels = self._new_labels(session, placed.key.watermark_ts)
            if self.known_until_ts is not None and placed.key.watermark_ts < self.known_until_ts:
                left_out["known"] += 1
                continue
            if self.skipped_until_ts is not None and placed.key.watermark_ts < self.skipped_until_ts:
                left_out["rolled_back"] += 1
                continue
            if session.revision > 0 and not labels.conv.size:
                left_out["without_label"] += 1
                continue
            self.pending.append(PendingSession(session, labels))
        return left_out

    def next_full(self, size: int) -> list[PendingSession] | None:
        """Remove and return the oldest `size` sessions; None if there are fewer."""
        if len(self.pending) < size:
            return None
        full, self.pending = self.pending[:size], self.pending[size:]
        return full

    def forget(self, boundary_ts: int) -> None:
        """Remove the keys that are older than `learning.seen_s` and `learning.converted_s` at a boundary."""
        self._seen.forget(boundary_ts - self._learning.seen_s * 1000)
        self._converted.forget(boundary_ts - self._learning.converted_s * 1000)

    def _new_labels(self, session: Session, watermark_ts: int) -> Labels:
        """Return the labels of this revision without the purchases that were trained before."""
        labels = stream_labels(session)
        if not labels.conv.size:
            return labels
        conv = labels.conv.copy()
        for row in np.flatnonzero(conv):
            item_key = f"{session.query_id}\0{session.item_id[row]}".encode()
            conv[row] = self._converted.add(item_key, watermark_ts)
        return labels.only(conv)

    def to_files(self) -> dict[str, Tensors]:
        """Return the arrays of a checkpoint."""
        return {
            "seen": self._seen.to_arrays(),
            "converted": self._converted.to_arrays(),
            "pending": pack(self.pending),
        }

    def restore(self, files: Mapping[str, Tensors]) -> None:
        """Continue from the arrays of a checkpoint.

        Raises:
            ArtifactError: If a waiting session does not decode.
        """
        self._seen = SeenSet.from_arrays(files["seen"])
        self._converted = SeenSet.from_arrays(files["converted"])
        self.pending = unpack(files["pending"])


def pack(pending: Sequence[PendingSession]) -> Tensors:
    """Return sessions as arrays: their records, and the purchases that each trains."""
    conv = np.concatenate([np.zeros(0, np.float32), *map(_flags, pending)])
    return {**session_records.pack(one.session for one in pending), "conv": conv}


def _flags(one: PendingSession) -> NDArray[np.float32]:
    return one.labels.conv.astype(np.float32) if one.labels.conv.size else np.zeros(one.session.n, np.float32)


def unpack(arrays: Tensors) -> list[PendingSession]:
    """Return the sessions that `pack` wrote.

    Raises:
        ArtifactError: If they do not decode.
    """
    conv = arrays["conv"].astype(np.bool_)
    found: list[PendingSession] = []
    row = 0
    for session in session_records.unpack(arrays):
        found.append(PendingSession(session, stream_labels(session).only(conv[row : row + session.n])))
        row += session.n
    return found
