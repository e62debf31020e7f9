"""Changes of a lineage that lives: adopted, refused by name, or none; whole runs are in `test_loop.py`."""

import re
from dataclasses import replace

import pytest

from stream.errors import ArtifactError, ConfigError
from tests.trainer.harness import LINEAGE
from trainer.configs import Vocabulary
from trainer.features import SCHEMAS
from trainer.feed.batches import Position
from trainer.lineage import Lineage, adoptions
from trainer.versions.checkpoint import Adoption, LearningState, Published, State


def state_of(lineage: Lineage, *, without: tuple[str, ...] = (), schema: str = SCHEMAS[2].sha256) -> State:
    """Return the state of a checkpoint after 7 batches, written before the settings `without` were there."""
    learning = LearningState(batch_number=7, num_steps=7, rejected_in_row=0, counters={}, prequential={})
    return State(
        lineage=lineage.name,
        term=1,
        model=lineage.model,
        feature_schema=schema,
        settings={key: value for key, value in lineage.settings().items() if key not in without},
        position=Position(cursors={}),
        boundary_number=1,
        published=Published(),
        learning=learning,
        image_space=None,
        text_space=None,
        environment={},
    )


def test_equal_settings_adopt_nothing() -> None:
    assert adoptions(LINEAGE, state_of(LINEAGE), adopt=True) == ()


def test_every_changed_setting_of_learning_is_named_and_adopted_on_demand_only() -> None:
    changed = replace(LINEAGE, learning=replace(LINEAGE.learning, lr=0.1, batch=8))
    with pytest.raises(ConfigError, match=r"learning\.batch was 16 and is 8, learning\.lr was 0\.0003 and is 0\.1"):
        adoptions(changed, state_of(LINEAGE), adopt=False)
    assert adoptions(changed, state_of(LINEAGE), adopt=True) == (
        Adoption(setting="learning.batch", old=16, new=8, batch_number=7),
        Adoption(setting="learning.lr", old=0.0003, new=0.1, batch_number=7),
    )


CHANGES: dict[str, object] = {
    "lr": 0.05,
    "rows_lr": 1.0,
    "clip_norm": 1e9,
    "optimizer": "adagrad",
    "batch": 32,
    "dropout": 0.5,
    "seed": 4,
    "checkpoint_s": 10,
    "min_sightings": 1,
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_setting_of_learning_is_refused_by_both_values(name: str) -> None:
    old, new = getattr(LINEAGE.learning, name), CHANGES[name]
    changed = replace(LINEAGE, learning=replace(LINEAGE.learning, **{name: new}))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=re.escape(f"learning.{name} was {old!r} and is {new!r}; --adopt")):
        adoptions(changed, state_of(LINEAGE), adopt=False)


def test_a_model_stays_what_it_was_but_for_tables_that_grow() -> None:
    wider = replace(LINEAGE, config=replace(LINEAGE.config, d=16))
    larger = replace(LINEAGE, config=replace(LINEAGE.config, vocabulary=Vocabulary(shop=20_000)))
    with pytest.raises(ConfigError, match=r"model\.d was 8 and is 16; another model"):
        adoptions(wider, state_of(LINEAGE), adopt=True)
    assert [one.new for one in adoptions(larger, state_of(LINEAGE), adopt=True)] == [20_000]
    with pytest.raises(ConfigError, match=r"model\.vocabulary\.shop was 20000 and is 10000: id tables only grow"):
        adoptions(LINEAGE, state_of(larger), adopt=True)


def test_a_checkpoint_from_before_a_setting_has_the_value_that_it_was_trained_with() -> None:
    old = replace(LINEAGE, config=replace(LINEAGE.config, touch_columns=False))
    assert adoptions(old, state_of(old, without=("model.touch_columns",)), adopt=False) == ()
    assert adoptions(LINEAGE, state_of(LINEAGE, without=("learning.compile",)), adopt=False) == ()
    with pytest.raises(ConfigError, match=r"model\.touch_columns was False and is True"):
        adoptions(LINEAGE, state_of(LINEAGE, without=("model.touch_columns",)), adopt=False)
    with pytest.raises(ArtifactError, match="lineage test"):
        adoptions(LINEAGE, state_of(LINEAGE, schema="0" * 64), adopt=False)
