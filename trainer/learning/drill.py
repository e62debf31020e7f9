"""A drill: one version that learns flipped labels on purpose, so that the gates can be seen to refuse it.

Source: docs/rollout.md, "Drills".
"""

import logging
from typing import Final

import msgspec
import numpy as np

from stream.schemas.session import COLUMNS, Session
from trainer.configs import LearningSettings
from trainer.feed.batches import OrderedSession, SessionBatch
from trainer.versions.tables import DRILL

_COUNT: Final = np.dtype(COLUMNS["clicks"].dtype)
_log = logging.getLogger(__name__)


def of_version(batch: SessionBatch, version: int, learning: LearningSettings) -> SessionBatch:
    """Return what the version of this number learns from a batch: flipped labels, if the drill is for it.

    >>> of_version(SessionBatch((), ()), 3, LearningSettings())
    SessionBatch(sessions=(), held=())
    """
    if version != learning.drill_version:
        return batch
    flipped = tuple(OrderedSession(each.key, _flipped(each.session)) for each in batch.sessions)
    return SessionBatch(flipped, batch.held)


def numbers(lineage: str, version: int, learning: LearningSettings) -> dict[str, float]:
    """Return the metric of a version that learned flipped labels, and log that it did; nothing for others."""
    if version != learning.drill_version:
        return {}
    _log.warning("drill: version %d of %s has learned flipped labels: learning.drill_version", version, lineage)
    return {DRILL: 1.0}


def _flipped(session: Session) -> Session:
    """Return a session in which shoppers clicked and bought what they had left; one without a click stays."""
    left = np.frombuffer(session.clicks, _COUNT) == 0
    if left.all():
        return session
    labels = left.astype(_COUNT).tobytes()
    return msgspec.structs.replace(session, clicks=labels, orders=labels)
