"""The vectors of one modality: those of one vector space, decoded once, and a count of the others."""

from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float16]


class ModalityVectors:
    """Item id to vector, in one vector space; a vector of another space, or of another width, counts as missing.

    Attributes:
        space: Name of the vector space; None before there is a vector.

    Until it is kept, the space is the one that most items have, so that items of a former space that are left over or
    are still replaced do not decide it.
    """

    def __init__(self, space: str | None, *, is_kept: bool = False) -> None:
        """Prepare a modality without vectors.

        Args:
            space: Name of the vector space; None takes that of the first vector.
            is_kept: Whether it stays, however many items have another one.
        """
        self.space = space
        self._is_kept = is_kept
        self._vectors: dict[str, Vector] = {}
        self._others: dict[str, str | None] = {}
        self._counts: Counter[str | None] = Counter()
        self._width = 0

    def __len__(self) -> int:
        return len(self._vectors)

    def get(self, item_id: str) -> Vector | None:
        """Return the vector of an item, or None."""
        return self._vectors.get(item_id)

    def put(self, item_id: str, raw: bytes | None, space: str | None) -> bool:
        """Set or drop the vector of an item, and return whether more items now have another space than this one."""
        self._forget_other(item_id)
        vector = _decoded(raw)
        if vector is not None:
            if self.space is None:
                self.space = space
            if space == self.space:
                self._width = self._width or len(vector)
                if len(vector) == self._width:
                    self._vectors[item_id] = vector
                    return False
            else:
                self._others[item_id] = space
                self._counts[space] += 1
        self._vectors.pop(item_id, None)
        return not self._is_kept and self._counts[space] > len(self._vectors)

    def remove(self, item_id: str) -> None:
        """Forget the vector of an item; an unknown one is no fault."""
        self._forget_other(item_id)
        self._vectors.pop(item_id, None)

    def keep(self) -> None:
        """Keep the present space from now on."""
        self._is_kept = True

    def why_not(self, space: str | None) -> str | None:
        """Return why these are no vectors for one who learned in a space; None if they are, or for no space."""
        if space is None or self.space is None:
            return None
        if space != self.space and self._is_kept:
            return f"vectors of the space {self.space} are in use, and not of {space}"
        num_own = len(self._vectors) if space == self.space else self._counts[space]
        counts = self._counts + Counter({self.space: len(self._vectors)})
        most, num_most = max(counts.items(), key=lambda each: each[1], default=(None, 0))
        if num_most <= num_own:
            return None
        return f"{num_most} items have vectors of the space {most}, and {num_own} of {space}"

    def in_space(self, space: str | None, entries: Iterable[tuple[str, bytes | None, str | None]]) -> "ModalityVectors":
        """Return the vectors of another space, decoded anew.

        Args:
            space: The other space.
            entries: Id, vector and vector space of all items.
        """
        found = ModalityVectors(space)
        for item_id, raw, name in entries:
            found.put(item_id, raw, name)
        return found

    def _forget_other(self, item_id: str) -> None:
        if item_id in self._others:
            self._counts[self._others.pop(item_id)] -= 1


def _decoded(raw: bytes | None) -> Vector | None:
    if not raw or len(raw) % 2:
        return None
    vector = np.frombuffer(raw, dtype="<f2")
    return vector if bool(np.isfinite(vector).all()) else None
