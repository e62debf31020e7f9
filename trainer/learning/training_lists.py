"""The lists of one batch: their examples, and the facts that decide what each list is measured for.

Source: docs/training.md, "From sessions to batches".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream.schemas.session import Session
from trainer.evaluation.lists import was_shuffled
from trainer.features import ExampleBuilder, Examples
from trainer.learning.intake import PendingSession
from trainer.models.batch import PageLabels


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingLists:
    """The lists of one batch.

    Attributes:
        examples: B lists with their labels.
        fresh: [B] first revisions: they are evaluated before they are learned, and their ids are counted.
        shuffled: [B] first revisions that were shown in random order.
        replayed: [B] lists from the reservoir, which were learned before.
        sessions: Session of each list; empty where the caller has none.
        num_refused: Sessions whose features were refused, which have no list here.
        page: Labels of the whole pages, where the caller has them.
        grade: Grades by people of all candidates, list by list, NaN where there is none; None if no list is graded.
    """

    examples: Examples
    fresh: NDArray[np.bool_]
    shuffled: NDArray[np.bool_]
    replayed: NDArray[np.bool_]
    sessions: Sequence[Session] = ()
    num_refused: int = 0
    page: PageLabels | None = None
    grade: NDArray[np.float32] | None = None

    @property
    def num_new(self) -> int:
        """Return the number of lists that are learned for the first time; graded ones were or will be in the log."""
        return 0 if self.grade is not None else int(np.count_nonzero(~self.replayed))

    @classmethod
    def without_sessions(
        cls,
        examples: Examples,
        *,
        fresh: bool,
        page: PageLabels | None = None,
        grade: NDArray[np.float32] | None = None,
    ) -> "TrainingLists":
        """Return lists of other data than a log of sessions, all of them `fresh` or none."""
        none = np.zeros(len(examples), np.bool_)
        return cls(examples=examples, fresh=none | fresh, shuffled=none, replayed=none, page=page, grade=grade)

    @classmethod
    def of(
        cls, builder: ExampleBuilder, pending: Sequence[PendingSession], replayed: Sequence[PendingSession] = ()
    ) -> "TrainingLists":
        """Return the lists of waiting sessions, and behind them those of sessions from the reservoir."""
        both = [*pending, *replayed]
        examples, refused = builder.from_sessions([one.session for one in both], [one.labels for one in both])
        kept = [number for number in range(len(both)) if number not in refused]
        old = np.array([number >= len(pending) for number in kept], np.bool_)
        sessions = [both[number].session for number in kept]
        fresh = ~old & np.array([one.revision == 0 for one in sessions], np.bool_)
        return cls(
            examples=examples,
            fresh=fresh,
            shuffled=fresh & np.array([was_shuffled(one) for one in sessions], np.bool_),
            replayed=old,
            sessions=sessions,
            num_refused=sum(number < len(pending) for number in refused),
        )
