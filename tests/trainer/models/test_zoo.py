"""The registry of models: configurations as plain values, hashes, and the shapes of weights."""

import json
from dataclasses import replace

import pytest

from stream.errors import ConfigError
from trainer.models import (
    MODELS,
    ModelConfig,
    Vocabulary,
    architecture_hash,
    decode_config,
    encode_config,
    weight_shapes,
)

every_profile = pytest.mark.parametrize(
    ("name", "config"),
    [(name, config) for name, spec in MODELS.items() for config in spec.profiles.values()],
    ids=[f"{name}-{profile}" for name, spec in MODELS.items() for profile in spec.profiles],
)


def test_every_model_has_both_profiles() -> None:
    assert set(MODELS) == {"armmt", "prm", "din", "mlp"}
    assert all(set(spec.profiles) == {"tiny", "paper"} for spec in MODELS.values())


@every_profile
def test_configurations_survive_json(name: str, config: ModelConfig) -> None:
    again = decode_config(name, json.loads(json.dumps(encode_config(config))))
    assert again == config
    assert architecture_hash(name, again) == architecture_hash(name, config)


@every_profile
def test_the_hash_tells_models_and_settings_apart(name: str, config: ModelConfig) -> None:
    assert architecture_hash(name, config) != architecture_hash("other", config)
    assert architecture_hash(name, config) != architecture_hash(name, replace(config, d=config.d + 1))
    more_rows = replace(config, vocabulary=Vocabulary(item=config.vocabulary.item + 1))
    assert architecture_hash(name, config) != architecture_hash(name, more_rows)


def test_hash_is_pinned() -> None:
    # Manifests of published versions hold it: a new default setting must not change the hash of an old configuration
    # unnoticed.
    assert (
        architecture_hash("armmt", MODELS["armmt"].profiles["tiny"])
        == "6453540e1408d8a4d1692d6b2c5998a71ae37a643efff97a5e51211c8f2e213b"
    )


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown; known: armmt"):
        decode_config("bert", {})
    with pytest.raises(ConfigError, match="widht"):
        decode_config("prm", {"widht": 64})
    with pytest.raises(ConfigError, match="width"):
        decode_config("prm", {"width": "64"})
    with pytest.raises(ConfigError, match="multiple of heads"):
        decode_config("prm", {"width": 64, "heads": 5})
    with pytest.raises(ConfigError, match="modalities"):
        decode_config("prm", {"modalities": ["text", "text"]})
    with pytest.raises(ConfigError, match="dropout"):
        decode_config("prm", {"dropout": 1.0})
    with pytest.raises(ConfigError, match="positive"):
        decode_config("prm", {"d": 0})


@every_profile
def test_shapes_are_those_of_fresh_weights(name: str, config: ModelConfig) -> None:
    vocabulary = Vocabulary(item=11, shop=12, brand=13, category=14)
    small = replace(config, vocabulary=vocabulary)
    params = MODELS[name].init(small, 3)
    assert weight_shapes(name, small) == {weight: tuple(values.shape) for weight, values in params.items()}
    assert all(values.is_contiguous() for values in params.values())
    assert params["rows.shop"].shape == (12, config.d)
    assert not params["rows.item"][0].any()
