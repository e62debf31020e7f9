"""The reservoir: a sample of trained sessions that later batches learn from again.

A session enters when its batch was learned. In a full reservoir it takes the place of one drawn at random, so the age
of a kept session, counted in sessions, is geometric with the capacity as its mean: recent sessions are likelier than
old ones, and no time limit is needed. Draws follow from the seed and the number of the batch alone.

Source: Aggarwal 2006, On biased reservoir sampling in the presence of stream evolution (VLDB), algorithm 2.1 for an
exponential bias; docs/training.md, "Reservoir".
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from trainer.learning.intake import PendingSession, pack, unpack
from trainer.versions.atomic_folder import Tensors

_DRAWN, _REPLACED = range(2)
_NAME: Final = "reservoir"


class Reservoir:
    """Sessions that were trained, each with the labels that it trained.

    Attributes:
        sessions: The kept sessions, in no meaningful order.
    """

    def __init__(self, capacity: int, seed: int) -> None:
        self._capacity, self._seed = capacity, seed
        self.sessions: list[PendingSession] = []

    def draw(self, count: int, batch_number: int) -> list[PendingSession]:
        """Return `count` different sessions; none while fewer are kept."""
        if not count or len(self.sessions) < count:
            return []
        places = self._generator(batch_number, _DRAWN).choice(len(self.sessions), count, replace=False)
        return [self.sessions[place] for place in places]

    def add(self, sessions: Sequence[PendingSession], batch_number: int) -> None:
        """Keep the sessions of a batch that was learned."""
        generator = self._generator(batch_number, _REPLACED)
        for one in sessions:
            if len(self.sessions) < self._capacity:
                self.sessions.append(one)
            else:
                self.sessions[int(generator.integers(self._capacity))] = one

    def _generator(self, batch_number: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, batch_number, purpose])

    def to_files(self) -> dict[str, Tensors]:
        """Return the arrays of a checkpoint."""
        return {_NAME: pack(self.sessions)}

    def restore(self, files: Mapping[str, Tensors]) -> None:
        """Continue from the arrays of a checkpoint.

        Raises:
            ArtifactError: If a session does not decode.
        """
        self.sessions = unpack(files[_NAME])
