"""The registry of models: every law test runs over it, and lineages name their model by it."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Protocol, TypeVar

import msgspec
from torch import Generator, Tensor

from stream.errors import ConfigError
from trainer.models import armmt, din, mlp, prm
from trainer.models.batch import Outputs, TensorBatch
from trainer.models.blocks import Params
from trainer.models.config import ModelConfig

ConfigT = TypeVar("ConfigT", bound=ModelConfig)


class Forward(Protocol):
    """A forward pass: pure in weights and batch; a generator turns the configuration's dropout on."""

    def __call__(
        self, config: ModelConfig, params: Params, batch: TensorBatch, generator: Generator | None = None, /
    ) -> Outputs:
        """Score a batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One model: its configuration class, profiles, `init(config, seed)` and `forward(config, params, batch)`.

    A configuration of another model is a `TypeError`.
    """

    config_class: type[ModelConfig]
    profiles: Mapping[str, ModelConfig]
    init: Callable[[ModelConfig, int], dict[str, Tensor]]
    forward: Forward


def _spec(
    config_class: type[ConfigT],
    profiles: Mapping[str, ConfigT],
    init: Callable[[ConfigT, int], dict[str, Tensor]],
    forward: Callable[[ConfigT, Params, TensorBatch, Generator | None], Outputs],
) -> ModelSpec:
    def own(config: ModelConfig) -> ConfigT:
        if not isinstance(config, config_class):
            raise TypeError(f"expected {config_class.__name__}, got {type(config).__name__}")
        return config

    def any_init(config: ModelConfig, seed: int) -> dict[str, Tensor]:
        return init(own(config), seed)

    def any_forward(
        config: ModelConfig, params: Params, batch: TensorBatch, generator: Generator | None = None
    ) -> Outputs:
        return forward(own(config), params, batch, generator)

    return ModelSpec(config_class=config_class, profiles=profiles, init=any_init, forward=any_forward)


MODELS: Mapping[str, ModelSpec] = {
    "armmt": _spec(armmt.ArmmtConfig, armmt.PROFILES, armmt.init, armmt.forward),
    "prm": _spec(prm.PrmConfig, prm.PROFILES, prm.init, prm.forward),
    "din": _spec(din.DinConfig, din.PROFILES, din.init, din.forward),
    "mlp": _spec(mlp.MlpConfig, mlp.PROFILES, mlp.init, mlp.forward),
}


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
