from pathlib import Path

import numpy as np
import pytest
import torch

from serving.ranking import torch_runtime
from stream.errors import ArtifactError
from tests.serving.world import publish
from trainer.versions import artifact


def test_an_eager_forward_pass_gives_the_golden_scores(tmp_path: Path) -> None:
    version = artifact.load(tmp_path, publish(tmp_path, "base", 1))
    found = torch_runtime.eager(version)(version.golden)
    np.testing.assert_allclose(found, version.golden_scores, atol=1e-6)


def test_a_model_that_chooses_pages_is_checked_by_scores_that_do_not_jump(tmp_path: Path) -> None:
    version = artifact.load(tmp_path, publish(tmp_path, "base", 1, model="pier"))
    forward = torch_runtime.eager(version)
    golden = torch_runtime.golden(version, forward)
    np.testing.assert_allclose(golden(version.golden), version.golden_scores, atol=1e-6)
    assert np.abs(forward(version.golden) - version.golden_scores).max() > 1e-3
    assert artifact.check_golden(version, golden) < 1e-6


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    version = artifact.load(tmp_path, publish(tmp_path, "base", 1))
    version.weights["another.weight"] = np.zeros(3, np.float32)
    with pytest.raises(ArtifactError, match="the weights are not those of its model"):
        torch_runtime.eager(version)


def test_one_thread_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    torch_runtime.use_one_thread()
    assert chosen == [1]
