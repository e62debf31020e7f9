"""Models: torch modules whose weights are arguments of the forward pass, one module per architecture.

`MODELS` names them all. Tables of id embeddings are weights whose names start with `rows.`.
"""

from trainer.configs import ModelConfig, Vocabulary, architecture_hash
from trainer.models.batch import Outputs, TensorBatch, golden_scores, to_device, to_torch
from trainer.models.zoo import MODELS, ModelSpec, call, decode_config, encode_config, shown_pages

__all__ = [
    "MODELS",
    "ModelConfig",
    "ModelSpec",
    "Outputs",
    "TensorBatch",
    "Vocabulary",
    "architecture_hash",
    "call",
    "decode_config",
    "encode_config",
    "golden_scores",
    "shown_pages",
    "to_device",
    "to_torch",
]
