"""The evidence that a trainer has for the gates: judged lists while its versions need them, and the next one's numbers.

The mode and the live version are read when a lineage begins and at each version. What follows from them stands in the
checkpoint, so a resumed run judges the same lists. The number of a drill's version is read at each start, too.

Source: docs/rollout.md, "Gates".
"""

import logging
from collections.abc import Mapping

from stream.errors import StoreError
from trainer.features import CatalogueLike
from trainer.learning import judging
from trainer.learning.judged_lists import JudgedLists
from trainer.learning.learner import Learner
from trainer.settings import TrainerSettings
from trainer.versions.atomic_folder import Tensors
from trainer.versions.publisher import Gating, Publisher

_log = logging.getLogger(__name__)


class GateEvidence:
    """The judged lists of a lineage, kept while its versions go live by gates.

    Args:
        publisher: Tells the mode and the live version.
        learner: Fills the lists.
        settings: How many lists stay.

    Attributes:
        drill_version: Number of the version that learns flipped labels; 0 for none.
    """

    def __init__(self, publisher: Publisher, learner: Learner, settings: TrainerSettings) -> None:
        self._publisher = publisher
        self._learner = learner
        self._sizes = settings.gate_lists, settings.gate_sessions
        self._live: int | None = None
        self.drill_version = 0

    def begin(self) -> None:
        """Read the mode, for a lineage without a checkpoint."""
        self._read()

    def restore(self, files: Mapping[str, Tensors]) -> None:
        """Continue from the files of a checkpoint.

        Raises:
            ArtifactError: If a session of the judged lists does not decode.
        """
        self._learner.judged = JudgedLists.from_files(files, *self._sizes)
        self._read_gating()

    def numbers(self, catalogue: CatalogueLike) -> dict[str, float]:
        """Return the numbers of gates 3 to 5 on the present weights; none in a lineage without gates.

        Args:
            catalogue: Items as of the boundary.
        """
        self._read()
        judged = self._learner.judged
        return {} if judged is None else judging.numbers(self._learner, judged, catalogue, self._live)

    def _read(self) -> None:
        """Read the mode and the live version; while the database does not answer, those of before hold."""
        found = self._read_gating()
        if found is None:
            return
        self._live = found.live
        if not found.is_gated:
            self._learner.judged = None
        elif self._learner.judged is None:
            self._learner.judged = JudgedLists(*self._sizes, takes_shuffled=found.live is None)
        else:
            self._learner.judged.takes_shuffled = found.live is None

    def _read_gating(self) -> Gating | None:
        try:
            found = self._publisher.gating()
        except StoreError as error:
            _log.warning("mode, live version and drill are those of before: %s", error)
            return None
        if found.drill_version != self.drill_version and found.drill_version:
            _log.warning("drill: version %d of %s learns flipped labels", found.drill_version, self._publisher.lineage)
        self.drill_version = found.drill_version
        return found
