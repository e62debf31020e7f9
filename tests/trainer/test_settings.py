"""Settings of the trainer: intervals in milliseconds, and values that are refused."""

import pytest

from stream.errors import ConfigError
from trainer.configs import LearningSettings
from trainer.settings import TrainerSettings


def test_boundaries_are_the_intervals_in_milliseconds() -> None:
    boundaries = TrainerSettings(publish_s=20).boundaries(LearningSettings(checkpoint_s=10))
    assert (boundaries.checkpoint_ms, boundaries.publish_ms) == (10_000, 20_000)


def test_versions_fall_on_boundaries() -> None:
    with pytest.raises(ConfigError, match=r"publish_s = 90: expected a multiple of learning\.checkpoint_s = 60"):
        TrainerSettings(publish_s=90).boundaries(LearningSettings())


def test_int8_graphs_have_limits_if_they_are_asked_for() -> None:
    assert TrainerSettings(onnx_graph=True).int8 is None
    assert TrainerSettings(onnx_graph=True, onnx_int8=True, int8_max_churn=0.1).int8 == (0.98, 0.1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"publish_s": 0}, "publish_s = 0: expected at least 1"),
        ({"gate_lists": 0}, "gate_lists = 0: expected at least 1"),
        ({"gate_lists": 5, "gate_sessions": 6}, "gate_sessions = 6: expected at most gate_lists = 5"),
        ({"breaker_lists": 0}, "breaker_lists = 0: expected at least 1"),
        ({"breaker_ratio": 1.0}, "breaker_ratio = 1.0: expected more than 1"),
        ({"breaker_sigma": float("inf")}, "breaker_sigma = inf: expected more than 0"),
        ({"threads": 0}, "threads = 0: expected at least 1"),
        ({"keep_versions": 2}, "keep_versions = 2: expected at least 3"),
        ({"version_delta_share": 1.5}, "version_delta_share = 1.5: expected 0 to 1"),
        ({"version_delta_share": -0.1}, "version_delta_share = -0.1: expected 0 to 1"),
        ({"onnx_int8": True}, "onnx_int8 = true, onnx_graph = false: int8 graphs are made from graphs"),
        ({"int8_min_correlation": 1.01}, r"int8_min_correlation = 1\.01: expected 0 to 1"),
        ({"int8_max_churn": -0.1}, r"int8_max_churn = -0\.1: expected 0 to 1"),
        ({"keep_checkpoints": 1, "keep_versions": 1}, "keep_versions = 1: expected at least 2"),
    ],
)
def test_values_that_make_no_sense_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainerSettings(**values)  # type: ignore[arg-type] # each case has the type of its field
