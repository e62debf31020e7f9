"""Evidence from shuffled lists, against pairs of items counted by hand."""

import numpy as np
import pytest

from tests.trainer.models.test_unique_rows import make_batch
from trainer.learning.shuffled_evidence import ShuffledEvidence
from trainer.models import MODELS


def auc_by_hand(score: list[float], clicked: list[bool]) -> float:
    pairs = [
        (a, b)
        for a, ca in zip(score, clicked, strict=True)
        if ca
        for b, cb in zip(score, clicked, strict=True)
        if not cb
    ]
    return sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs)


def test_the_lead_is_the_mean_difference_of_auc_over_clicked_lists() -> None:
    batch = make_batch(MODELS["prm"].profiles["tiny"], 5)
    rng = np.random.default_rng(5)
    logit = rng.normal(size=batch.cand_mask.shape)
    rows = np.arange(len(logit)) % 3 > 0
    expected = []
    for row in np.flatnonzero(rows):
        real = batch.cand_mask[row]
        clicked = (batch.click[row][real] > 0).tolist()
        if any(clicked) and not all(clicked):
            incoming = (-batch.cand_rank[row][real].astype(float)).tolist()
            expected.append(auc_by_hand(logit[row][real].tolist(), clicked) - auc_by_hand(incoming, clicked))
    assert len(expected) > 1
    found = ShuffledEvidence()
    found.update(logit, batch, rows)
    assert found.means() == {"shuffled_lists": len(expected), "shuffled_lead": pytest.approx(float(np.mean(expected)))}
    assert ShuffledEvidence.of(found.sums()) == found


def test_lists_of_the_past_count_less() -> None:
    found = ShuffledEvidence(lists=40, lead=-4.0)
    found.age(40)
    found.lists += 10
    found.lead += 3.0
    assert found.means() == {"shuffled_lists": 30, "shuffled_lead": pytest.approx(1 / 30)}


@pytest.mark.parametrize(("lists", "lead", "was_ahead"), [(40, 0.1, True), (39, 0.1, False), (40, 0.0, False)])
def test_ageing_notes_whether_the_scores_were_ahead(lists: float, lead: float, was_ahead: bool) -> None:
    found = ShuffledEvidence(lists=lists, lead=lead, was_ahead=not was_ahead)
    found.age(40)
    assert found.was_ahead is was_ahead
    assert ShuffledEvidence.of(found.sums()) == found


@pytest.mark.parametrize(
    ("lists", "lead", "is_ahead"), [(20, 0.5, True), (19.5, 0.5, False), (20, 0.0, False), (200, -0.1, False)]
)
def test_enough_lists_must_say_it(lists: float, lead: float, is_ahead: bool) -> None:
    assert ShuffledEvidence(lists=lists, lead=lead).is_ahead(20) is is_ahead


def test_no_list_is_no_evidence() -> None:
    batch = make_batch(MODELS["prm"].profiles["tiny"], 5)
    found = ShuffledEvidence()
    found.update(np.zeros(batch.cand_mask.shape), batch, np.zeros(len(batch.cand_mask), dtype=np.bool_))
    assert found.means() == {}
    assert not found.is_ahead(1)
