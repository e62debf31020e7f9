import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.models.test_unique_rows import make_batch
from trainer.features import Batch
from trainer.learning.list_measures import click_sums, leads, losses, order_changes
from trainer.models import MODELS

CONFIG = MODELS["prm"].profiles["tiny"]


def batch_of(seed: int, *, bought: bool = True) -> Batch:
    batch = make_batch(CONFIG, seed)
    rng = np.random.default_rng(seed)
    conv = np.where(batch.cand_mask & (rng.uniform(size=batch.conv.shape) < 0.3), 1.0, 0.0)
    return batch._replace(conv=(conv * bought).astype(np.float32))


def scores(batch: Batch, seed: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return np.random.default_rng(seed).normal(size=batch.cand_mask.shape)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 20))
def test_losses_are_those_of_the_labels_that_the_main_loss_trains(seed: int) -> None:
    batch = batch_of(seed)
    score = scores(batch, seed)
    for learns_clicks in (False, True):
        found = losses(score, batch, None, learns_clicks=learns_clicks)
        for row, loss in enumerate(found):
            real = batch.cand_mask[row]
            label = batch.conv[row][real] > 0
            if learns_clicks and not label.any():
                label = batch.click[row][real] > 0
            if label.all() or not label.any():
                assert np.isnan(loss)
                continue
            share = np.exp(score[row][real]) / np.exp(score[row][real]).sum()
            assert loss == pytest.approx(-np.log(share[label]).mean())


def test_weights_of_labels_weigh_their_terms() -> None:
    batch = batch_of(1)
    score = scores(batch, 1)
    weight = np.full(batch.cand_mask.shape, 3.0, np.float32)
    plain = losses(score, batch, None, learns_clicks=False)
    np.testing.assert_allclose(losses(score, batch, weight, learns_clicks=False), 3 * plain)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 20))
def test_the_incoming_order_has_no_lead_and_its_opposite_mirrors_it(seed: int) -> None:
    batch = batch_of(seed)
    incoming = -batch.cand_rank.astype(np.float64)
    zero = leads(incoming, batch)
    assert np.nan_to_num(zero) == pytest.approx(0.0)
    score = scores(batch, seed)
    # AUC of the opposite order is 1 - AUC, so both leads add up to that of chance, twice.
    both = leads(score, batch) + leads(-score, batch)
    np.testing.assert_allclose(both, 2 * leads(np.zeros_like(score), batch), atol=1e-12)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 20), st.floats(1.0, 5.0))
def test_click_sums_agree_where_the_weighted_loss_of_one_logit_is_least(seed: int, factor: float) -> None:
    batch = batch_of(seed)
    clicked, mask = batch.cand_mask & (batch.click > 0), batch.cand_mask
    if not clicked.any() or (clicked == mask).all():
        return
    weight = np.full(mask.shape, factor, np.float32)
    # The least loss of one logit for all items: weighted clicks to the items without a click.
    best = np.log(factor * clicked.sum() / (mask & ~clicked).sum())
    predicted, observed = click_sums(np.full(mask.shape, best), batch, weight)
    assert predicted.sum() == pytest.approx(observed.sum())
    assert observed.sum() == pytest.approx(factor * clicked.sum())


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 20))
def test_orders_change_with_the_scores(seed: int) -> None:
    batch = batch_of(seed)
    mask, score = batch.cand_mask, scores(batch, seed)
    several = mask.sum(axis=1) > 1
    same, changes = order_changes(2 * score + 1, score, mask)
    assert same[several] == pytest.approx(1.0)
    assert not changes.any()
    opposite, changes = order_changes(-score, score, mask)
    assert opposite[several] == pytest.approx(-1.0)
    assert changes[several].all()
    constant, changes = order_changes(np.zeros_like(score), score, mask)
    assert (constant[several] == 0).all()
    assert changes[several].all()
    assert np.isnan(same[~several]).all()


def test_scores_that_are_no_numbers_have_no_order() -> None:
    batch = batch_of(2)
    score = scores(batch, 2)
    broken = np.full_like(score, np.nan)
    correlation, changes = order_changes(broken, score, batch.cand_mask)
    several = batch.cand_mask.sum(axis=1) > 1
    assert (correlation[several] == 0).all()
    assert changes[several].all()
    assert np.isfinite(leads(broken, batch)).any()
    assert np.isfinite(losses(broken, batch, None, learns_clicks=False)).any()
