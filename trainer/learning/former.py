"""The version before the newest one, which scores the lists that the lineage served beside the scores as served.

Neither version has learned these lists: both were written before the lists were read.

Source: docs/training.md, "Evaluation while learning".
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from stream.errors import ArtifactError
from trainer.evaluation.metrics import Floats
from trainer.features import Batch, Examples, collate
from trainer.features.id_maps import IdMaps
from trainer.features.item_types import only_type
from trainer.models import MODELS, ModelConfig, Outputs, to_torch
from trainer.versions import artifact
from trainer.versions.artifact import LoadedVersion

_log = logging.getLogger(__name__)


class FormerVersion:
    """The weights and ids of a version, on the device of the learner.

    Attributes:
        version: The version in the memory of the host.
    """

    def __init__(self, version: LoadedVersion, device: torch.device) -> None:
        self.version = version
        self._model = version.model_name
        self._config = version.config
        self._params = {name: weight.to(device) for name, weight in version.params.items()}
        self._id_maps = version.id_maps
        self._device = device

    @classmethod
    def before(cls, newest: str, folder: Path, held: Sequence[LoadedVersion], device: torch.device) -> Self | None:
        """Return the parent of the newest version; it only measures, so a damaged one is left out with a warning.

        Args:
            newest: Address of the newest version.
            folder: Folder of the versions.
            held: Versions in memory, whose rows need not be read again.
            device: Device of the learner.
        """
        try:
            parent = artifact.read_manifest(folder, newest).parent
            return None if parent is None else cls(artifact.load(folder, parent, held), device)
        except ArtifactError as error:
            _log.warning("no series of the former version: %s", error)
            return None

    def scores(
        self, examples: Examples, rows: NDArray[np.bool_], shape: tuple[int, ...], item_type: str = "all"
    ) -> Floats:
        """Return the scores [B,n] of the examples in `rows` [B], NaN for the others, 0 at padding.

        With an `item_type` the lists are scored as if they held items of this type alone.
        """
        found = np.full(shape, np.nan)
        if not rows.any():
            return found
        _, outputs = score(
            self._model,
            self._config,
            self._params,
            self._id_maps,
            examples=examples.take(rows),
            device=self._device,
            item_type=item_type,
        )
        logit = outputs.logit
        own = np.zeros((len(logit), shape[1]))
        own[:, : logit.shape[1]] = logit.float().cpu().numpy()
        found[rows] = own
        return found


def score(
    model: str,
    config: ModelConfig,
    params: Mapping[str, torch.Tensor],
    id_maps: IdMaps,
    *,
    examples: Examples,
    device: torch.device,
    item_type: str = "all",
) -> tuple[Batch, Outputs]:
    """Return the batch of examples and a model's outputs for it; nothing is learned."""
    batch = collate(
        examples,
        id_maps,
        width=config.vector_width,
        history=config.history,
        pages=config.num_pages,
        schema=config.feature_schema,
    )
    batch = only_type(batch, config.feature_schema, item_type)
    with torch.no_grad():
        return batch, MODELS[model].forward(config, params, to_torch(batch, device))


def as_floats(logit: torch.Tensor) -> Floats:
    """Return scores on the host, in double precision."""
    return logit.detach().float().cpu().numpy().astype(np.float64)
