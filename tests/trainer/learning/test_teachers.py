"""Teachers: each scores the items of its own type, as its version scores a list of these alone."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from stream.errors import ArtifactError, ConfigError
from tests.serving.world import publish
from tests.trainer.lists import batch_of, catalogue, labelled
from trainer.configs import MODEL_PROFILES, LearningSettings
from trainer.configs.smar import PROFILES
from trainer.features import Examples, collate
from trainer.features.item_types import ITEM_TYPES, item_types, only_type
from trainer.learning.learner import Learner
from trainer.learning.teachers import Teachers
from trainer.learning.training_lists import TrainingLists
from trainer.models import MODELS, to_torch
from trainer.versions import artifact
from trainer.versions.artifact import LoadedVersion

CPU = torch.device("cpu")
LISTS = Examples.of([labelled(seed, catalogue(), n=12) for seed in (1, 3, 5)])
SMAR = PROFILES["tiny"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("versions")


def teacher(folder: Path, item_type: str, seed: int) -> LoadedVersion:
    version = artifact.load(folder, publish(folder, "base", 1, model="din", seed=seed))
    return replace(version, manifest=msgspec.structs.replace(version.manifest, learning={"item_type": item_type}))


def test_each_item_has_the_score_of_the_teacher_of_its_type(folder: Path) -> None:
    known = [teacher(folder, "product", 1), teacher(folder, "sponsored", 2)]
    batch = batch_of(LISTS.split())
    found = Teachers(known, CPU).labels(LISTS, batch, 2)
    types = item_types(batch, 2)
    np.testing.assert_array_equal(found.type, types)
    assert np.isnan(found.grade).all()
    for version, name in zip(known, ("product", "sponsored"), strict=True):
        own = types == ITEM_TYPES.index(name)
        assert own.sum() >= 12
        alone = collate(LISTS, version.id_maps, width=version.config.vector_width, history=version.config.history)
        tensors = to_torch(only_type(alone, 2, name))
        logit = MODELS["din"].forward(version.config, version.params, tensors).logit.detach().numpy()
        np.testing.assert_array_equal(found.teacher[own], logit[own])


def test_a_type_without_a_teacher_has_no_scores(folder: Path) -> None:
    batch = batch_of(LISTS.split())
    found = Teachers([teacher(folder, "sponsored", 2)], CPU).labels(LISTS, batch, 2)
    np.testing.assert_array_equal(np.isnan(found.teacher), item_types(batch, 2) != 1)


def test_versions_of_whole_lists_and_two_of_one_type_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"learning\.item_type is 'all'"):
        Teachers([teacher(folder, "all", 1)], CPU)
    with pytest.raises(ConfigError, match="another teacher has the type video"):
        Teachers([teacher(folder, "video", 1), teacher(folder, "video", 2)], CPU)


def test_teachers_are_loaded_by_address(folder: Path) -> None:
    assert Teachers.load(folder, (), CPU) is None
    with pytest.raises(ArtifactError):
        Teachers.load(folder, ("a" * 64,), CPU)
    with pytest.raises(ConfigError, match=r"learning\.item_type is None"):
        Teachers.load(folder, (publish(folder, "base", 1, model="din", seed=1),), CPU)


@pytest.mark.no_cover
def test_a_page_ranker_learns_the_order_of_its_teachers_without_any_label(folder: Path) -> None:
    teachers = Teachers([teacher(folder, "product", 1), teacher(folder, "sponsored", 2)], CPU)
    learning = LearningSettings(batch=3, lr=0.01)
    unlabelled = replace(LISTS, click=np.zeros_like(LISTS.click), conv=np.zeros_like(LISTS.conv))
    lists = TrainingLists.without_sessions(unlabelled, fresh=False)
    taught, alone = (Learner("smar", SMAR, learning, device=CPU, teachers=given) for given in (teachers, None))
    losses = [taught.train(lists).losses["consistent"] for _ in range(60)]
    assert losses[-1] < 0.7 * losses[0]
    assert set(alone.train(lists).losses) == {"main"}
    batch = batch_of(LISTS.split())
    page = teachers.labels(LISTS, batch, 2)
    logit = MODELS["smar"].forward(SMAR, taught.params, to_torch(batch)).logit.detach().numpy()
    right = total = 0
    for row in range(3):
        for name in (0, 1):
            own = page.type[row] == name
            pairs = np.subtract.outer(page.teacher[row][own], page.teacher[row][own]) > 0
            right += int((np.subtract.outer(logit[row][own], logit[row][own])[pairs] > 0).sum())
            total += int(pairs.sum())
    assert right / total > 0.9


def test_learning_one_type_is_learning_lists_of_it_alone(folder: Path) -> None:
    found = []
    for item_type in ("all", "sponsored"):
        learning = LearningSettings(batch=3, lr=0.01, item_type=item_type)
        own = Learner("prm", MODEL_PROFILES["prm"]["tiny"], learning, device=CPU)
        own.train(TrainingLists.without_sessions(LISTS, fresh=True))
        assert own.golden is not None
        found.append(own.golden)
    np.testing.assert_array_equal(found[0].cand_mask & (item_types(found[0], 2) == 1), found[1].cand_mask)
    assert 0 < found[1].cand_mask.sum() < found[0].cand_mask.sum()


def test_a_resumed_page_ranker_learns_on_to_the_bit(folder: Path) -> None:
    teachers = Teachers([teacher(folder, "product", 1), teacher(folder, "sponsored", 2)], CPU)
    lists = TrainingLists.without_sessions(LISTS, fresh=True)
    whole, first, second = (
        Learner("smar", SMAR, LearningSettings(batch=3), device=CPU, teachers=teachers) for _ in "abc"
    )
    for own in (whole, first):
        own.train(lists)
        own.at_boundary(60_000, None)
    second.restore(first.to_files(), first.state(first.prequential), 60_000)
    for own in (whole, second):
        own.train(lists)
    assert all(torch.equal(values, second.params[name]) for name, values in whole.params.items())
