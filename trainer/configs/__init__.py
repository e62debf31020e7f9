"""Configurations of models and of learning, with their profiles, without torch: every command reads its settings.

`MODEL_PROFILES` and `LEARNING_PROFILES` name them all, `ABLATIONS` the switched-off parts that tables compare.
"""

from collections.abc import Mapping
from typing import Literal

from trainer.configs import armmt, din, diversity, dlcm, mlp, pier, prm, setrank, smar
from trainer.configs.base import LATER, ModelConfig, Vocabulary, architecture_hash
from trainer.configs.learning import LATER as LATER_LEARNING
from trainer.configs.learning import PROFILES as LEARNING_PROFILES
from trainer.configs.learning import LearningSettings

ModelName = Literal["armmt", "prm", "setrank", "dlcm", "din", "mlp", "mmr", "dpp", "pier", "smar"]
Profile = Literal["tiny", "full"]

MODEL_PROFILES: Mapping[str, Mapping[str, ModelConfig]] = {
    "armmt": armmt.PROFILES,
    "prm": prm.PROFILES,
    "setrank": setrank.PROFILES,
    "dlcm": dlcm.PROFILES,
    "din": din.PROFILES,
    "mlp": mlp.PROFILES,
    "mmr": diversity.MMR_PROFILES,
    "dpp": diversity.DPP_PROFILES,
    "pier": pier.PROFILES,
    "smar": smar.PROFILES,
}

ABLATIONS: Mapping[str, Mapping[str, Mapping[str, object]]] = {"armmt": armmt.ABLATIONS}
"""Model to the names of its ablations, with the settings that each changes."""

__all__ = [
    "ABLATIONS",
    "LATER",
    "LATER_LEARNING",
    "LEARNING_PROFILES",
    "MODEL_PROFILES",
    "LearningSettings",
    "ModelConfig",
    "ModelName",
    "Profile",
    "Vocabulary",
    "architecture_hash",
]
