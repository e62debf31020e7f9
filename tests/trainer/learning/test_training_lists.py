"""The lists of a batch: which of them count as new, as fresh and as shuffled, and which sessions are refused."""

import numpy as np

from tests.trainer.session_log import make_session
from trainer.features import stream_labels
from trainer.learning.intake import PendingSession


def pending(number: int, *, revision: int = 0, orders: list[int] | None = None) -> PendingSession:
    rng = np.random.default_rng(number)
    session = make_session(number, rng, watermark_ts=number, revision=revision, orders=orders, changed=orders)
    return PendingSession(session, stream_labels(session))
