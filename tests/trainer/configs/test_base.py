"""Profiles of the models: weights of equal number, and the table of the documentation."""

from pathlib import Path

import pytest

from trainer.models import MODELS

ROOT = Path(__file__).parents[3]


def dense_weights(model: str, profile: str) -> int:
    spec = MODELS[model]
    module = spec.build(spec.profiles[profile])
    return sum(weight.numel() for name, weight in module.named_parameters() if not name.startswith("rows."))


@pytest.mark.parametrize("profile", ["tiny", "full"])
@pytest.mark.parametrize("model", ["prm", "setrank", "dlcm"])
def test_list_models_have_weights_within_a_tenth_of_armmt(model: str, profile: str) -> None:
    assert dense_weights(model, profile) == pytest.approx(dense_weights("armmt", profile), rel=0.1)


@pytest.mark.parametrize("model", MODELS)
def test_the_documentation_names_the_number_of_weights(model: str) -> None:
    row = f"| `{model}` | {dense_weights(model, 'tiny'):,} | {dense_weights(model, 'full'):,} |"
    assert row in (ROOT / "docs/training.md").read_text()
