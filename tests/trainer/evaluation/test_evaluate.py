"""The table of an evaluation: figures by hand, paired differences, and rows for rankers that learn nothing."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from stream.errors import ConfigError
from tests.trainer.evaluation import logs
from trainer.configs import LearningSettings
from trainer.evaluation.evaluate import Evaluation, Progress, Request, evaluate, per_list
from trainer.evaluation.intervals import paired_bootstrap
from trainer.evaluation.lists import Columns, Dataset, from_sessions, split_by_share
from trainer.evaluation.neural import Patience
from trainer.evaluation.simple import scores
from trainer.learning.learner import Learner
from trainer.models import MODELS, Vocabulary

DATA = Dataset(name="generated", note="none", split=logs.split(300))
COLUMNS = Columns.of(DATA.split.test, "order", tie_seed=0)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def learner(model: str, seed: int) -> Learner:
    vocabulary = Vocabulary(item=200, shop=200, brand=200, category=200)
    config = replace(MODELS[model].profiles["tiny"], vocabulary=vocabulary)
    return Learner(model, config, LearningSettings(seed=seed, batch=32, lr=0.01), device=torch.device("cpu"))


def run(*models: str, data: Dataset = DATA, reference: str | None = None, label: str = "order") -> Evaluation:
    return evaluate(
        data,
        Request(
            models=models,
            learner=learner,
            seeds=2,
            limits=Patience(epochs=2, patience=1),
            reference=reference,
            resamples=200,
            label="click" if label == "click" else "order",
        ),
    )


def test_rows_of_rankers_that_learn_nothing_are_in_every_table() -> None:
    found = run()
    assert [row.name for row in found.rows] == [
        "displayed order",
        "random",
        "incoming order",
        "last touched",
        "cheapest",
    ]
    assert found.reference == "displayed order"
    cheapest = found.rows[-1].figures
    # The buyers of the generated sessions take the cheapest item.
    assert {name: figure.mean for name, figure in cheapest.items() if name not in {"gmv@5", "auc"}} == {
        "mrr": 1.0,
        "gauc": 1.0,
        "ndcg@5": 1.0,
        "ndcg@10": 1.0,
        "orders@5": 1.0,
    }
    # A pool of lists compares probabilities, which depend on the list.
    assert cheapest["auc"].mean is not None
    assert 0.9 < cheapest["auc"].mean < 1.0
    money = [float(each.example.money.sum()) for each in DATA.split.test]
    assert cheapest["gmv@5"].mean == pytest.approx(np.mean(money))
    assert found.num_lists == {"train": 180, "validation": 60, "test": 60}
    assert found.num_visits == 30


def test_figures_and_differences_are_those_of_the_scores() -> None:
    found = run("mlp", reference="random")
    rows = {row.name: row for row in found.rows}
    by_seed = [per_list(scores("random", DATA.split.test, seed), COLUMNS, 5)["mrr"] for seed in (0, 1)]
    random = rows["random"].figures["mrr"]
    assert random.mean == pytest.approx(np.mean(by_seed))
    assert random.deviation == pytest.approx(np.std([values.mean() for values in by_seed], ddof=1))
    cheapest = per_list(scores("cheapest", DATA.split.test, 0), COLUMNS, 5)["mrr"]
    expected = paired_bootstrap(cheapest, np.mean(by_seed, axis=0), COLUMNS.visit, resamples=200, seed=0)
    assert rows["cheapest"].differences["mrr"].difference == pytest.approx(expected.difference)
    assert rows["cheapest"].differences["mrr"].low == pytest.approx(expected.low)
    assert rows["random"].differences == {}
    model = rows["mlp"]
    assert (model.kind, model.num_seeds, len(model.epochs)) == ("model", 2, 2)
    assert model.calibration is not None
    # Probabilities of each list sum to 1, and so do its labels.
    assert model.calibration.ratio == pytest.approx(1)
    assert "log_loss" in model.figures
    assert "log_loss" not in rows["cheapest"].figures


def test_lightgbm_is_the_reference_where_it_is_asked_for() -> None:
    found = run("lightgbm")
    assert found.reference == "lightgbm"
    assert found.rows[-1].kind == "peer"
    assert len(found.rows[-1].best_epochs) == 2
    assert found.rows[0].differences["mrr"].num_visits == 30


def test_a_reference_that_is_no_row_is_refused_with_the_rows() -> None:
    with pytest.raises(ConfigError, match="reference 'prm': expected one of displayed order, random"):
        run(reference="prm")


def test_lists_without_a_positive_item_count_in_money_alone() -> None:
    half = [
        replace(each, example=replace(each.example, conv=np.zeros(8, np.float32))) if row % 2 else each
        for row, each in enumerate(DATA.split.test)
    ]
    found = run(data=replace(DATA, split=replace(DATA.split, test=half)))
    figures = found.rows[-1].figures
    assert found.excluded["no positive item"] == 30
    assert figures["mrr"].mean == 1.0
    assert figures["orders@5"].mean == 0.5


def test_clicks_as_the_label_train_and_judge_by_clicks() -> None:
    lists = logs.lists(300, share_bought=0.0)
    data = replace(DATA, split=split_by_share(lists))
    by_order, by_click = run("mlp", data=data), run("mlp", data=data, label="click")
    assert by_order.excluded["no positive item"] == 60
    assert by_order.rows[-1].figures["mrr"].mean is None
    click_mrr = by_click.rows[-1].figures["mrr"].mean
    assert click_mrr is not None
    assert click_mrr > 0.5
    assert by_click.rows[-1].figures["orders@5"].mean == 0.0


@pytest.mark.no_cover
def test_randomised_lists_give_figures_by_propensity() -> None:
    sessions = [logs.shuffled(each) for each in logs.sessions(1_500, share_bought=0.5)]
    data = replace(DATA, split=split_by_share(from_sessions(sessions, logs.KNOWN)[0]))
    found = run(data=data)
    rows = {row.name: row for row in found.rows}
    assert found.num_shuffled == 300
    # Without position effects each order has the clicks that its first ranks hold: all for the cheapest first.
    value = rows["cheapest"].policy_values["clicks"]
    assert value.low is not None
    assert value.high is not None
    assert value.low <= 1.0 <= value.high
    chance = rows["random"].policy_values["clicks"]
    assert chance.low is not None
    assert chance.high is not None
    # Five places of eight.
    assert chance.low <= 0.625 <= chance.high
    orders = rows["cheapest"].policy_values["orders"]
    assert orders.low is not None
    assert orders.high is not None
    assert orders.low <= 0.5 <= orders.high
    assert run().rows[0].policy_values == {}


def test_each_step_is_reported() -> None:
    steps: list[Progress] = []
    evaluate(
        DATA,
        Request(
            models=["mlp", "lightgbm"], learner=learner, seeds=1, limits=Patience(epochs=2, patience=2), resamples=100
        ),
        report=steps.append,
    )
    assert [(step.row, step.is_done) for step in steps] == [
        ("mlp", False),
        ("mlp", False),
        ("mlp", True),
        ("lightgbm", True),
    ]


def test_scores_that_are_not_finite_are_refused() -> None:
    score = scores("random", DATA.split.test, 0)
    score[3, 2] = np.nan
    with pytest.raises(ConfigError, match="not finite"):
        per_list(score, COLUMNS, 5)
