"""Settings of the trainer: intervals in milliseconds, and values that are refused."""

import pytest

from trainer.settings import TrainerSettings


def test_boundaries_are_the_intervals_in_milliseconds() -> None:
    boundaries = TrainerSettings(batch_sessions=7, batch_s=5, checkpoint_s=10, publish_s=20).boundaries()
    assert (boundaries.batch_sessions, boundaries.batch_ms) == (7, 5_000)
    assert (boundaries.checkpoint_ms, boundaries.publish_ms) == (10_000, 20_000)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"publish_s": 90}, "multiple of 60000"),
        ({"batch_sessions": 0}, "at least 1"),
        ({"accumulator_decay_per_day": 0.0}, "accumulator_decay_per_day"),
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"keep_versions": 2}, "keep_versions = 2: expected at least 3"),
        ({"keep_checkpoints": 1, "keep_versions": 1}, "keep_versions = 1: expected at least 2"),
    ],
)
def test_values_that_make_no_sense_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainerSettings(**values)  # type: ignore[arg-type] # each case has the type of its field
