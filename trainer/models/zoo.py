"""The registry of models: law tests run over it, and lineages name their model by it."""

import math
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import msgspec
import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call

from stream.errors import ConfigError
from trainer.configs import MODEL_PROFILES, ModelConfig
from trainer.configs.pier import PierConfig
from trainer.models.armmt import Armmt
from trainer.models.batch import Outputs, TensorBatch, shown_items
from trainer.models.blocks import Dropout
from trainer.models.din import Din
from trainer.models.dlcm import Dlcm
from trainer.models.dpp import Dpp
from trainer.models.inputs import IdTables
from trainer.models.mlp import MlpModel
from trainer.models.mmr import Mmr
from trainer.models.pier import Pier
from trainer.models.prm import Prm
from trainer.models.setrank import InducingPoints, SetRank
from trainer.models.smar import Smar

Weights = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One model: its module, the class of its configuration, and its profiles.

    A configuration of another model is a `TypeError`.
    """

    module: type[nn.Module]
    config_class: type[ModelConfig]
    profiles: Mapping[str, ModelConfig]

    @property
    def chooses_pages(self) -> bool:
        """Return whether the scores are the order of a chosen page, so that they jump between pages of equal value."""
        return issubclass(self.config_class, PierConfig)

    def build(self, config: ModelConfig) -> nn.Module:
        """Return the module without memory for weights, for `functional_call`."""
        if not isinstance(config, self.config_class):
            raise TypeError(f"expected {self.config_class.__name__}, got {type(config).__name__}")
        with torch.device("meta"):
            return self.module(config)

    def load(self, config: ModelConfig, weights: Weights) -> nn.Module:
        """Return the module with these weights in it, for many calls with the same weights.

        Raises:
            RuntimeError: If the names or shapes of the weights are not those of the model.
        """
        module = self.build(config)
        module.load_state_dict(dict(weights), assign=True)
        return module.requires_grad_(requires_grad=False)

    def init(self, config: ModelConfig, seed: int) -> dict[str, Tensor]:
        """Return fresh weights by name; tables of id embeddings have names that start with `rows.`."""
        return _fresh_weights(self.build(config), seed)

    def forward(
        self,
        config: ModelConfig,
        weights: Weights,
        batch: TensorBatch,
        dropout: Dropout | None = None,
        shown: Tensor | None = None,
    ) -> Outputs:
        """Score a batch, with dropout if it is given; `shown` as in `call`.

        Raises:
            RuntimeError: If the names or shapes of the weights are not those of the model.
        """
        key = (self.module, config)
        if key not in _modules.built:
            _modules.built[key] = self.build(config)
        return call(_modules.built[key], weights, batch, dropout, shown)


_MODULES: Mapping[str, type[nn.Module]] = {
    "armmt": Armmt,
    "prm": Prm,
    "setrank": SetRank,
    "dlcm": Dlcm,
    "din": Din,
    "mlp": MlpModel,
    "mmr": Mmr,
    "dpp": Dpp,
    "pier": Pier,
    "smar": Smar,
}

MODELS: Mapping[str, ModelSpec] = {
    name: ModelSpec(module=_MODULES[name], config_class=type(profiles["full"]), profiles=profiles)
    for name, profiles in MODEL_PROFILES.items()
}


def call(
    module: nn.Module,
    weights: Weights,
    batch: TensorBatch,
    dropout: Dropout | None = None,
    shown: Tensor | None = None,
) -> Outputs:
    """Run a module with these weights; only one thread at a time may run one module.

    Args:
        module: The module of a model.
        weights: All of its weights.
        batch: The lists.
        dropout: Dropout of the step.
        shown: [B,s] items that the pages showed, for a model that learns from whole pages (`shown_pages`).

    Raises:
        RuntimeError: If the names or shapes of the weights are not those of the module.
    """
    args = (batch, dropout) if shown is None else (batch, dropout, shown)
    # No weight stands in two places, so the search for tied weights is spared.
    outputs: Outputs = functional_call(module, dict(weights), args, tie_weights=False, strict=True)
    return outputs


def shown_pages(config: ModelConfig, batch: TensorBatch) -> Tensor | None:
    """Return the items [B,s] that the pages showed, for a model that learns from whole pages; None for the others."""
    return shown_items(batch.position, batch.cand_mask, config.places) if isinstance(config, PierConfig) else None


class _Modules(threading.local):
    """Modules of one thread: `functional_call` puts weights into a module for the time of the call."""

    def __init__(self) -> None:
        self.built: dict[tuple[type[nn.Module], ModelConfig], nn.Module] = {}


_modules = _Modules()


def _fresh_weights(module: nn.Module, seed: int) -> dict[str, Tensor]:
    """Return weights for all layers of a module, drawn from one generator in the order of registration."""
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}
    for prefix, layer in module.named_modules():
        for name, parameter in layer.named_parameters(recurse=False):
            weights[f"{prefix}.{name}"] = _fresh_weight(layer, name, parameter.shape, generator)
    return weights


def _fresh_weight(layer: nn.Module, name: str, shape: torch.Size, generator: Generator) -> Tensor:
    if isinstance(layer, nn.PReLU):
        return torch.full(shape, 0.25)
    if name == "bias":
        return torch.zeros(shape)
    if isinstance(layer, nn.LayerNorm):
        return torch.ones(shape)
    if isinstance(layer, nn.Embedding | IdTables):
        table = torch.empty(shape).normal_(0, 0.05, generator=generator)
        table[0] = 0
        return table
    if isinstance(layer, nn.Linear | InducingPoints):
        # Glorot and Bengio 2010, equation 16.
        limit = math.sqrt(6 / (shape[0] + shape[1]))
        return torch.empty(shape).uniform_(-limit, limit, generator=generator)
    raise TypeError(f"no rule for fresh weights of {type(layer).__name__}")


def encode_config(config: ModelConfig) -> dict[str, object]:
    """Return a configuration as plain values, for a manifest."""
    return asdict(config)


def decode_config(name: str, values: Mapping[str, object]) -> ModelConfig:
    """Return the configuration of model `name` from plain values.

    Raises:
        ConfigError: If the model is unknown, or a value does not fit.
    """
    if name not in MODELS:
        raise ConfigError(f"model {name!r} is unknown; known: {', '.join(MODELS)}")
    config_class = MODELS[name].config_class
    unknown = set(values) - set(config_class.__dataclass_fields__)
    if unknown:
        raise ConfigError(f"model {name}: unknown settings {sorted(unknown)}")
    try:
        return msgspec.convert(dict(values), config_class)
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError(f"model {name}: {error}") from error
