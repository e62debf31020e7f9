import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.learning.test_optimizer import make_batch
from trainer.learning.prequential import Prequential
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
    assert means["lists"] == len(expected)
    if expected:
        columns = np.array(expected).mean(axis=0)
        assert [means["auc"], means["mrr"], means["log_loss"]] == pytest.approx(columns.tolist(), rel=1e-5)
