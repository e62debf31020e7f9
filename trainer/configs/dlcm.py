"""Sizes of DLCM, and its profiles.

Source: Ai et al., SIGIR 2018, arXiv 1804.05936.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from trainer.configs.base import ModelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class DlcmConfig(ModelConfig):
    """Sizes of the recurrent network and of the scoring function.

    Attributes:
        width: alpha, width of the recurrent state.
        units: k, hidden units of the scoring function.
    """

    width: int = 420
    units: int = 16

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        if not self.uses_rank:
            raise ValueError("uses_rank = False: dlcm reads the list in the order of rank_in")


# The width gives DLCM about as many weights as ARMMT has in the same profile.
PROFILES: Mapping[str, DlcmConfig] = {
    "tiny": DlcmConfig(
        touch_columns=True, vector_width=16, d=8, context=16, history=10, attention_hidden=(16, 8), width=56, units=8
    ),
    "full": DlcmConfig(touch_columns=True),
}
