"""Variants of models: names of ablations and keys of settings."""

import pytest

from deploy.commands.variants import variant
from stream.errors import ConfigError
from stream.setting_fields import keys
from trainer.configs import ABLATIONS, MODEL_PROFILES


def test_a_variant_is_a_model_with_some_other_settings() -> None:
    assert variant("prm", "--models") == ("prm", {})
    assert variant("armmt:no-aux", "--models") == ("armmt", {"model.aux": False})
    assert variant("armmt:no-aux;layers=2; heads =4", "--models") == (
        "armmt",
        {"model.aux": False, "model.layers": "2", "model.heads": "4"},
    )


def test_the_ablations_are_the_rows_of_the_papers_table() -> None:
    rows = [("text", False, False), (None, False, False), (None, None, False)]
    found = [variant(f"armmt:{name}", "--models")[1] for name in ("no-image", "no-cafu", "no-aux")]
    assert [tuple(each.get(f"model.{key}") for key in ("modalities", "cafu", "aux")) for each in found] == rows


def test_ablations_change_settings_that_their_models_have() -> None:
    for model, own in ABLATIONS.items():
        for changed in own.values():
            assert set(changed) <= set(keys(type(MODEL_PROFILES[model]["tiny"])))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("armmt:no-sound", "--models armmt:no-sound: 'no-sound': expected no-image, no-cafu, no-aux, KEY=VALUE"),
        ("prm:no-image", "--models prm:no-image: 'no-image': expected KEY=VALUE"),
        ("PRM", "--models PRM: 'PRM': expected armmt, prm, "),
        (":no-image", "--models :no-image: '': expected armmt, prm, "),
        ("armmt:", "--models armmt:: nothing behind the colon: expected armmt:no-image, "),
    ],
)
def test_an_unknown_ablation_is_refused_with_the_known_ones(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        variant(name, "--models")
