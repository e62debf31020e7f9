"""The registry of models: configurations as plain values, hashes, fresh weights, and calls with weights."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import nn

from stream.errors import ConfigError
from tests.trainer.lists import batch_of, catalogue, labelled
from trainer.models import (
    MODELS,
    ModelConfig,
    ModelSpec,
    Vocabulary,
    architecture_hash,
    call,
    decode_config,
    encode_config,
    to_torch,
)

every_profile = pytest.mark.parametrize(
    ("name", "config"),
    [(name, config) for name, spec in MODELS.items() for config in spec.profiles.values()],
    ids=[f"{name}-{profile}" for name, spec in MODELS.items() for profile in spec.profiles],
)


def test_every_model_has_both_profiles() -> None:
    assert set(MODELS) == {"armmt", "prm", "setrank", "dlcm", "din", "mlp", "mmr", "dpp", "pier", "smar"}
    assert all(set(spec.profiles) == {"tiny", "full"} for spec in MODELS.values())


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
    assert architecture_hash(name, config) == architecture_hash(name, more_rows), "tables may grow"


def test_hash_is_pinned() -> None:
    # Manifests of published versions hold it: a new default setting must not change the hash of an old configuration
    # unnoticed.
    tiny = MODELS["armmt"].profiles["tiny"]
    assert (
        architecture_hash("armmt", replace(tiny, feature_schema=1, touch_columns=False))
        == "34790868f9cfa77a8d48fedd54ee41cf9e64ae67ce21e5e29c37d12feefa11ce"
    )
    assert (
        architecture_hash("armmt", replace(tiny, touch_columns=False))
        == "86cb5edab68741aa3500fb06b5cc3ac01259a1ece05978b01a41114e55464c2d"
    )
    assert architecture_hash("armmt", tiny) == "1aadd635e6c3fd0bf26a61d1e33da544cda64bc66cfdcd27510bf4d5e0b6e875"


def test_a_configuration_from_before_a_setting_is_read_as_it_was() -> None:
    config = replace(MODELS["prm"].profiles["tiny"], touch_columns=False)
    stored = {name: value for name, value in encode_config(config).items() if name != "touch_columns"}
    assert decode_config("prm", json.loads(json.dumps(stored))) == config


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
    with pytest.raises(ConfigError, match="aux_weight = -1"):
        decode_config("prm", {"aux_weight": -1.0})
    with pytest.raises(ConfigError, match="d = 0: expected at least 1"):
        decode_config("prm", {"d": 0})


@every_profile
def test_fresh_weights_fill_the_module(name: str, config: ModelConfig) -> None:
    small = replace(config, vocabulary=Vocabulary(item=11, shop=12, brand=13, category=14))
    params = MODELS[name].init(small, 3)
    module = MODELS[name].build(small)
    assert {weight: values.shape for weight, values in params.items()} == {
        weight: values.shape for weight, values in module.named_parameters()
    }
    assert all(values.is_meta for values in module.parameters())
    assert all(values.is_contiguous() for values in params.values())
    assert params["rows.shop"].shape == (12, config.d)
    assert not params["rows.item"][0].any()
    again = MODELS[name].init(small, 3)
    assert all(torch.equal(values, again[weight]) for weight, values in params.items())


def test_a_layer_without_a_rule_for_fresh_weights_is_refused() -> None:
    class Strange(nn.Module):
        def __init__(self, _config: ModelConfig) -> None:
            super().__init__()
            self.layer = nn.Bilinear(1, 1, 1)

    spec = ModelSpec(module=Strange, config_class=ModelConfig, profiles={})
    with pytest.raises(TypeError, match="Bilinear"):
        spec.init(ModelConfig(), 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    # Each takes many seconds, so one is tested each time.
    [name if name == "armmt" else pytest.param(name, marks=pytest.mark.system) for name in MODELS],
)
def test_versions_of_one_architecture_share_one_compiled_graph(name: str) -> None:
    # Its import takes seconds, which a worker without this test need not pay.
    from torch._dynamo.testing import CompileCounterWithBackend

    config = MODELS[name].profiles["tiny"]
    batch = to_torch(batch_of([labelled(1, catalogue(), n=8, depth=5)]))
    module = MODELS[name].build(config)
    counter = CompileCounterWithBackend("eager")
    graph = torch.compile(lambda weights, lists: call(module, weights, lists).logit, backend=counter, fullgraph=True)
    with torch.inference_mode():
        for seed in range(3):
            weights = MODELS[name].init(config, seed)
            torch.testing.assert_close(graph(weights, batch), call(module, weights, batch).logit)
    assert counter.frame_count == 1


@pytest.mark.parametrize("name", MODELS)
def test_a_loaded_module_scores_as_a_call_with_its_weights(name: str) -> None:
    config = MODELS[name].profiles["tiny"]
    batch = to_torch(batch_of([labelled(seed, catalogue()) for seed in range(3)]))
    weights = MODELS[name].init(config, 1)
    loaded = MODELS[name].load(config, weights)
    assert torch.equal(loaded(batch).logit, MODELS[name].forward(config, weights, batch).logit)
    assert not any(values.requires_grad for values in loaded.parameters())


def test_threads_score_with_their_own_weights() -> None:
    spec, config = MODELS["prm"], MODELS["prm"].profiles["tiny"]
    batch = to_torch(batch_of([labelled(1, catalogue(), n=8, depth=5)]))
    weights = [spec.init(config, seed) for seed in range(4)]
    expected = [spec.forward(config, own, batch).logit for own in weights]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda own: spec.forward(config, own, batch).logit, weights * 10))
    assert all(torch.equal(score, expected[number % 4]) for number, score in enumerate(found))


@every_profile
def test_building_a_model_draws_nothing(name: str, config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A normal draw without memory imports torch's compiler: seconds and 150 MB in every process that scores."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("drawn from a normal distribution")

    monkeypatch.setattr(nn.init, "normal_", refuse)
    MODELS[name].build(config)
