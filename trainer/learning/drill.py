"""A drill: one version that learns flipped labels on purpose, so that the gates can be seen to refuse it.

Source: docs/rollout.md, "Drills".
"""

import logging
from typing import Final

import msgspec
import numpy as np

from stream.schemas.session import COLUMNS, Session
from trainer.feed.batches import OrderedSession, SessionBatch
from trainer.versions.tables import DRILL

_COUNT: Final = np.dtype(COLUMNS["clicks"].dtype)
_log = logging.getLogger(__name__)


def flipped(batch: SessionBatch) -> SessionBatch:
    """Return a batch in which shoppers clicked and bought what they had left; lists without a click stay."""
    return SessionBatch(tuple(OrderedSession(each.key, _flipped(each.session)) for each in batch.sessions), batch.held)


def numbers(lineage: str, version: int) -> dict[str, float]:
    """Return the metric of a version that has learned flipped labels, and log that it has."""
    _log.warning("drill: version %d of %s has learned flipped labels", version, lineage)
    return {DRILL: 1.0}


def _flipped(session: Session) -> Session:
    left = np.frombuffer(session.clicks, _COUNT) == 0
    if left.all():
        return session
    labels = left.astype(_COUNT).tobytes()
    return msgspec.structs.replace(session, clicks=labels, orders=labels)
