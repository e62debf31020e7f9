"""The registry of models: every law test runs over it, and lineages name their model by it."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Protocol, TypeVar

import msgspec
import torch
from torch import Generator, Tensor

from stream.errors import ArtifactError, ConfigError
from trainer.models import armmt, din, mlp, prm
from trainer.models.batch import Outputs, TensorBatch
from trainer.models.blocks import Params
from trainer.models.config import ModelConfig, Vocabulary

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


def weight_shapes(name: str, config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every weight, without making the id tables."""
    small = replace(config, vocabulary=Vocabulary(item=1, shop=1, brand=1, category=1))
    shapes = {weight: tuple(values.shape) for weight, values in MODELS[name].init(small, 0).items()}
    for table, rows in asdict(config.vocabulary).items():
        shapes[f"rows.{table}"] = (rows, config.d)
    return shapes


def check_weights(name: str, config: ModelConfig, params: Params) -> None:
    """Refuse weights that are not exactly those of the model: names, shapes, float32, finite.

    Raises:
        ArtifactError: At the first difference, naming the weight.
    """
    expected = weight_shapes(name, config)
    if expected.keys() != params.keys():
        missing, foreign = sorted(expected.keys() - params.keys()), sorted(params.keys() - expected.keys())
        raise ArtifactError(f"model {name}: missing weights {missing}, foreign weights {foreign}")
    for weight, shape in expected.items():
        values = params[weight]
        if tuple(values.shape) != shape or values.dtype != torch.float32:
            raise ArtifactError(
                f"model {name}: weight {weight}: expected float32 {shape}, got {values.dtype} {tuple(values.shape)}"
            )
        if not bool(torch.isfinite(values).all()):
            raise ArtifactError(f"model {name}: weight {weight} is not finite")


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
