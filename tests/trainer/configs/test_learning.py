"""Settings of learning: the paper's profile, and values that are refused."""

import pytest

from trainer.configs import LEARNING_PROFILES, LearningSettings


def test_the_full_profile_learns_as_the_paper() -> None:
    full = LEARNING_PROFILES["full"]
    assert (full.optimizer, full.lr, full.rows_lr) == ("adagrad", 0.07, 0.07)
    assert (full.batch, full.epochs) == (128, 20)
    assert full.accumulator_decay_per_day == 1
    assert full.dropout > 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"accumulator_decay_per_day": 0.0}, "accumulator_decay_per_day = 0.0"),
        ({"clip_norm": 0.0}, "clip_norm = 0.0: expected more than 0"),
        ({"weight_decay": -0.1}, "weight_decay = -0.1: expected 0 or more"),
        ({"warmup_steps": -1}, "warmup_steps = -1: expected 0 or more"),
        ({"seed": -1}, "seed = -1"),
        ({"lr": float("nan")}, "lr = nan: expected a finite number"),
        ({"debias": "curve"}, "examination is empty: debias = curve needs"),
        ({"examination": (1.0, 0.0)}, r"examination = \(1.0, 0.0\): expected numbers above 0"),
        ({"max_weight": 0.5}, "max_weight = 0.5: expected at least 1"),
    ],
)
def test_values_that_make_no_sense_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LearningSettings(**values)  # type: ignore[arg-type] # each case has the type of its field
