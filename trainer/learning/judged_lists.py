"""The judged lists: the newest lists on which the gates of a rollout compare a version, each scored before learning.

They are lists that a version of the lineage ranked, with the scores that it logged. As long as no version is live, they
are lists that were shown in random order, where clicks favour no ranker. Of each list its measures stay, of the newest
ones the session too, so that the weights of a version can score it again.

Source: docs/rollout.md, "Gates".
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stream.schemas.session import Session
from trainer.evaluation.metrics import Floats
from trainer.features import Batch
from trainer.learning import list_measures, session_records
from trainer.versions.atomic_folder import Tensors

NAME_BYTES: Final = 64
"""Bytes of a category's name that are kept; longer names are told apart by them."""
Measures: TypeAlias = NDArray[np.void]
"""One row per list, of the fields of `LIST`."""
LIST: Final = np.dtype(
    [
        ("version", "<i8"),
        ("client", "<u8"),
        ("category", f"S{NAME_BYTES}"),
        ("loss", "<f8"),
        ("served_loss", "<f8"),
        ("lead", "<f8"),
        ("predicted", "<f8"),
        ("observed", "<f8"),
    ]
)
"""Version that ranked the list, 0 if it was shuffled, and hash of the client; query category; log loss by the scores
before learning and as served; AUC ahead of the incoming order; predicted and observed clicks. NaN is undefined."""


class JudgedLists:
    """The newest judged lists, oldest first.

    Args:
        max_lists: Lists whose measures stay.
        max_sessions: Newest lists whose session stays.

    Attributes:
        lists: Measures of the lists.
        sessions: Sessions of the newest lists.
        takes_shuffled: Whether no version is live, so that lists in random order are judged.
    """

    def __init__(self, max_lists: int, max_sessions: int, *, takes_shuffled: bool) -> None:
        self._max_lists = max_lists
        self._max_sessions = max_sessions
        self.takes_shuffled = takes_shuffled
        self.lists: Measures = np.zeros(0, LIST)
        self.sessions: list[Session] = []

    def update(
        self,
        logits: tuple[Floats, Floats | None],
        batch: Batch,
        sessions: Sequence[Session],
        fresh: NDArray[np.bool_],
        *,
        served: Floats,
        shuffled: NDArray[np.bool_],
        weight: NDArray[np.float32] | None,
        learns_clicks: bool,
    ) -> None:
        """Add the lists of a batch that are `fresh` [B] and to be judged.

        Args:
            logits: Scores [B,n] of the present weights, which have not learned the batch, and those of the click head.
            batch: The lists with their labels.
            sessions: Session of each list.
            fresh: Which of them are first revisions.
            served: Scores [B,n] of a version of the lineage when shown, NaN if none.
            shuffled: Which lists were shown in random order.
            weight: Weights of labels [B,n]; None if all weigh the same.
            learns_clicks: Whether a list without an order trains by its clicks.
        """
        is_ranked = np.logical_not(np.isnan(served).all(axis=1))
        rows = np.flatnonzero(fresh & (is_ranked | (shuffled & self.takes_shuffled)))
        if not rows.size:
            return
        own = [sessions[row] for row in rows.tolist()]
        found = measured(*logits, batch, weight, learns_clicks=learns_clicks)[rows]
        found["version"] = np.where(is_ranked[rows], [_number(session) for session in own], 0)
        found["client"] = [_hash(session.client_id) for session in own]
        found["category"] = [(session.query_category or "").encode()[:NAME_BYTES] for session in own]
        as_served = list_measures.losses(served, batch, weight, learns_clicks=learns_clicks)
        found["served_loss"] = np.where(is_ranked, as_served, np.nan)[rows]
        self.lists = np.concatenate([self.lists, found])[-self._max_lists :]
        self.sessions = [*self.sessions, *own][-self._max_sessions :]

    def to_files(self) -> dict[str, Tensors]:
        """Return the arrays of a checkpoint."""
        return {
            "judged": {
                "lists": np.frombuffer(self.lists.tobytes(), np.uint8),
                "takes_shuffled": np.array([self.takes_shuffled]),
                **session_records.pack(self.sessions),
            }
        }

    @classmethod
    def from_files(cls, files: Mapping[str, Tensors], max_lists: int, max_sessions: int) -> "JudgedLists | None":
        """Return the lists of a checkpoint; None if it holds none, as that of a lineage without gates.

        Raises:
            ArtifactError: If a session does not decode.
        """
        arrays = files.get("judged")
        if arrays is None:
            return None
        found = cls(max_lists, max_sessions, takes_shuffled=bool(arrays["takes_shuffled"][0]))
        lists: NDArray[Any] = np.frombuffer(arrays["lists"].tobytes(), LIST)
        found.lists = lists[-max_lists:]
        found.sessions = session_records.unpack(arrays)[-max_sessions:]
        return found


def measured(
    logit: Floats,
    click_logit: Floats | None,
    batch: Batch,
    weight: NDArray[np.float32] | None,
    *,
    learns_clicks: bool,
) -> Measures:
    """Return the measures of lists that depend on scores alone; the other fields are 0.

    Args:
        logit: Scores [B,n].
        click_logit: Those of the click head; None without the head.
        batch: The lists with their labels.
        weight: Weights of labels [B,n]; None if all weigh the same.
        learns_clicks: Whether a list without an order trains by its clicks.
    """
    found = np.zeros(len(logit), LIST)
    found["loss"] = list_measures.losses(logit, batch, weight, learns_clicks=learns_clicks)
    found["lead"] = list_measures.leads(logit, batch)
    if click_logit is None:
        found["predicted"] = found["observed"] = np.nan
    else:
        found["predicted"], found["observed"] = list_measures.click_sums(click_logit, batch, weight)
    return found


def _number(session: Session) -> int:
    """Return the version that ranked a list, -1 for a name that is no number."""
    return int(session.version) if session.version is not None and session.version.isdecimal() else -1


def _hash(client_id: str) -> int:
    return int.from_bytes(blake2b(client_id.encode(), digest_size=8).digest(), "little")
