"""Models: pure functions of a flat dictionary of weights and a batch, one module per architecture.

`MODELS` names them all; tables of id embeddings lie in the weights under names that start with `rows.`.
"""

from trainer.models.batch import Outputs, TensorBatch, to_torch
from trainer.models.config import ModelConfig, Vocabulary, architecture_hash
from trainer.models.zoo import MODELS, ModelSpec, check_weights, decode_config, encode_config, weight_shapes

__all__ = [
    "MODELS",
    "ModelConfig",
    "ModelSpec",
    "Outputs",
    "TensorBatch",
    "Vocabulary",
    "architecture_hash",
    "check_weights",
    "decode_config",
    "encode_config",
    "to_torch",
    "weight_shapes",
]
