import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.lists import catalogue, served
from tests.trainer.models.test_unique_rows import make_batch
from trainer.features import Examples, example_from_session
from trainer.learning.prequential import Prequential, served_scores
from trainer.models import MODELS, Outputs


def by_hand(logit: list[float], clicked: list[bool]) -> tuple[float, float, float]:
    """AUC by counting pairs, the reciprocal average rank of the best clicked item, and the cross-entropy."""
    pairs = [
        (a, b)
        for a, ca in zip(logit, clicked, strict=True)
        if ca
        for b, cb in zip(logit, clicked, strict=True)
        if not cb
    ]
    auc = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs)
    ranks = [1 + sum(b > a for b in logit) + (sum(b == a for b in logit) - 1) / 2 for a in logit]
    best = min(rank for rank, c in zip(ranks, clicked, strict=True) if c)
    share = np.exp(np.array(logit)) / np.exp(np.array(logit)).sum()
    log_loss = -float(np.mean(np.log(share[np.array(clicked)])))
    return auc, 1 / best, log_loss


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 30), st.booleans())
def test_means_equal_counting_by_hand(seed: int, rounded: bool) -> None:
    batch = make_batch(MODELS["prm"].profiles["tiny"], seed)
    rng = np.random.default_rng(seed)
    logit = rng.normal(size=batch.cand_mask.shape).astype(np.float32)
    logit = np.round(logit) if rounded else logit
    fresh = rng.uniform(size=len(logit)) < 0.7
    prequential = Prequential()
    prequential.update(Outputs(torch.from_numpy(logit), None, None, {}), batch, fresh)
    expected = []
    for row in np.flatnonzero(fresh):
        real = batch.cand_mask[row]
        clicked = (batch.click[row][real] > 0).tolist()
        if any(clicked) and not all(clicked):
            expected.append(by_hand(logit[row][real].tolist(), clicked))
    means = prequential.means()
    assert means.get("arrival.click.lists", 0) == len(expected)
    if expected:
        columns = np.array(expected).mean(axis=0)
        assert [means[f"arrival.click.{name}"] for name in ("auc", "mrr", "log_loss")] == pytest.approx(
            columns.tolist(), rel=1e-5
        )


def test_orders_and_served_scores_are_series_of_their_own() -> None:
    config = MODELS["prm"].profiles["tiny"]
    batch = make_batch(config, 3)
    rng = np.random.default_rng(3)
    shape = batch.cand_mask.shape
    conv = np.zeros(shape, np.float32)
    conv[:, 0] = 1
    batch = batch._replace(conv=conv)
    logit, served = rng.normal(size=shape), rng.normal(size=shape)
    shown = np.arange(len(served)) % 2 == 0
    served[~shown] = np.nan
    served = np.where(batch.cand_mask, served, np.nan)
    prequential = Prequential()
    fresh = np.ones(len(served), dtype=np.bool_)
    former = np.where(shown[:, None], rng.normal(size=shape), np.nan)
    prequential.update(Outputs(torch.from_numpy(logit), None, None, {}), batch, fresh, served, former)
    means = prequential.means()
    for series, score, rows in (
        ("arrival", logit, fresh),
        ("served", served, shown),
        ("former", former, shown),
        ("incoming", -batch.cand_rank.astype(np.float64), shown),
    ):
        expected = []
        for row in np.flatnonzero(rows):
            real = batch.cand_mask[row]
            if real.sum() > 1:
                expected.append(by_hand(score[row][real].tolist(), (conv[row][real] > 0).tolist()))
        assert means[f"{series}.order.lists"] == len(expected) > 0
        auc, mrr, _ = np.array(expected).mean(axis=0)
        assert [means[f"{series}.order.auc"], means[f"{series}.order.mrr"]] == pytest.approx([auc, mrr])
    assert "incoming.order.log_loss" not in means
    assert "served.order.log_loss" in means


def test_sums_continue_from_a_checkpoint() -> None:
    batch = make_batch(MODELS["prm"].profiles["tiny"], 1)
    outputs = Outputs(torch.zeros(batch.cand_mask.shape), None, None, {})
    fresh = np.ones(len(batch.cand_mask), dtype=np.bool_)
    once, twice = Prequential(), Prequential()
    once.update(outputs, batch, fresh)
    for _ in range(2):
        twice.update(outputs, batch, fresh)
    resumed = Prequential(once.sums)
    resumed.update(outputs, batch, fresh)
    assert resumed.sums == twice.sums != once.sums
    assert Prequential().means() == {}


def test_scores_as_served_come_from_lists_that_the_lineage_ranked() -> None:
    known = catalogue()
    request = served(1, known, n=4)
    session = request.session([2, 0, 3, 1], clicks=[0])
    session.score = np.array([9.0, 7.0, 5.0, 3.0], "<f4").tobytes()
    session.lineage, session.version = "own", "4"
    ranked = example_from_session(session, known)
    # Rows of an example stand in incoming order.
    assert ranked.served_score is not None
    assert ranked.served_score.tolist() == [7.0, 3.0, 9.0, 5.0]
    session.version = None
    fallback = example_from_session(session, known)
    assert (fallback.served_by, fallback.served_score) == (None, None)
    scores = served_scores(Examples.of([ranked, fallback]), (2, 5), "own")
    assert scores[0, :4].tolist() == [7.0, 3.0, 9.0, 5.0]
    assert np.isnan(scores[0, 4])
    assert np.isnan(scores[1]).all()
    assert np.isnan(served_scores(Examples.of([ranked]), (1, 5), "other")).all()
