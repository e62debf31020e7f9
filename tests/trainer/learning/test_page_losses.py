"""Losses of pages: values by hand, and laws."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.trainer.lists import batch_of, catalogue, labelled
from trainer.configs.smar import PROFILES
from trainer.learning.losses import total_loss
from trainer.learning.page_losses import anchored, list_mle, page_losses, pairwise, squashed
from trainer.models import MODELS, to_torch
from trainer.models.batch import PageTargets

NAN = math.nan


def row(*values: float) -> Tensor:
    return torch.tensor([values])


def types(*values: int) -> Tensor:
    return torch.tensor([values])


def real(count: int, size: int) -> Tensor:
    return torch.arange(size)[None] < count


def log_sum(*values: float) -> float:
    return math.log(sum(math.exp(value) for value in values))


def test_list_mle_by_hand() -> None:
    found = list_mle(row(1.0, 2.0, 0.5), row(0.9, 0.1, 0.4), types(0, 0, 0), real(3, 3))
    # The order is item 0, item 2, item 1.
    expected = (log_sum(1, 0.5, 2) - 1 + log_sum(0.5, 2) - 0.5 + 0) / 3
    assert found.loss.item() == pytest.approx(expected, abs=1e-6)
    assert found.counts.tolist() == [True]


def test_equal_keys_stand_in_each_others_sum() -> None:
    found = list_mle(row(1.0, 2.0, 0.5), row(2.0, 2.0, 1.0), types(0, 0, 0), real(3, 3))
    expected = (2 * log_sum(1, 2, 0.5) - 1 - 2) / 3
    assert found.loss.item() == pytest.approx(expected, abs=1e-6)
    z = torch.zeros(1, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(list_mle(z, row(1, 1, 1), types(0, 0, 0), real(3, 3)).loss.sum(), z)
    # Equal grades teach nothing to equal scores.
    torch.testing.assert_close(gradient, torch.zeros(1, 3))


def test_groups_have_losses_of_their_own_over_their_lengths() -> None:
    z, key, group = row(1.0, 2.0, 0.5, -1.0, 3.0), row(5, 4, 3, 2, 9), types(0, 0, 1, 1, 1)
    both = list_mle(z, key, group, real(5, 5)).loss
    first = list_mle(z[:, :2], key[:, :2], group[:, :2], real(2, 2)).loss
    second = list_mle(z[:, 2:], key[:, 2:], group[:, 2:], real(3, 3)).loss
    torch.testing.assert_close(both, first + second)
    # Order of the second group: 3, .5, -1.
    assert second.item() == pytest.approx((log_sum(3, 0.5, -1) - 3 + log_sum(0.5, -1) - 0.5) / 3, abs=1e-6)


def test_pairwise_by_hand() -> None:
    found = pairwise(row(0.5, 1.0, -1.0), row(3, 2, 1), types(0, 0, 0), real(3, 3), margin=1.0)
    # 1 - (.5 - 1), 1 - (.5 + 1), 1 - (1 + 1), below 0 is 0.
    assert found.loss.item() == pytest.approx(1.5 / 3)
    wide = pairwise(row(0.5, 1.0, -1.0), row(3, 2, 1), types(0, 0, 0), real(3, 3), margin=3.0)
    assert wide.loss.item() == pytest.approx((3.5 + 1.5 + 1.0) / 3)
    assert not pairwise(row(1, 2), row(3, 3), types(0, 0), real(2, 2), margin=1.0).counts.any(), "equal keys, no pair"


def two_types(*grades: float) -> PageTargets:
    return PageTargets(teacher=row(3, 2, 1, 9, 8), grade=row(*grades), type=types(0, 0, 0, 1, 1))


def test_anchored_by_hand() -> None:
    z = row(0.5, 1.0, -1.0, 2.0, 0.0)
    # The grade of the second item bounds the first one from below and the third one from above, and that of the fifth
    # item bounds the fourth one from below.
    found = anchored(z, real(5, 5), two_types(NAN, 2, NAN, NAN, 1), margin=1.0)
    # The first and the second item stand above the fifth one: 1 - (.5 - 0), 1 - (1 - 0).
    assert found.loss.item() == pytest.approx(0.5 / 2)
    found = anchored(z, real(5, 5), two_types(NAN, 2, NAN, NAN, 3), margin=1.0)
    # The fourth and the fifth item stand above the second and the third one: only 1 - (0 - 1) and 1 - (0 + 1) count.
    assert found.loss.item() == pytest.approx((0 + 0 + 2 + 0) / 4)


def test_equal_grades_and_grades_of_one_type_imply_no_order_of_two() -> None:
    for grades in ((NAN, 2, NAN, NAN, 2), (4, 2, 1, NAN, NAN)):
        assert anchored(row(0, 0, 0, 0, 0), real(5, 5), two_types(*grades), margin=1.0).counts.tolist() == [False]


def test_items_whose_grades_contradict_the_teacher_are_in_no_pair() -> None:
    z = row(0.5, 1.0, -1.0, 2.0, 0.0)
    found = anchored(z, real(5, 5), two_types(1, 3, NAN, NAN, 2), margin=1.0)
    # Left are the third item, at most 1, and both of the other type, at least 2: 1 - (2 + 1), 1 - (0 + 1).
    assert found.loss.item() == 0
    assert found.counts.tolist() == [True]
    wide = anchored(z, real(5, 5), two_types(1, 3, NAN, NAN, 2), margin=4.0)
    assert wide.loss.item() == pytest.approx((1.0 + 3.0) / 2)


def test_without_a_teacher_a_grade_bounds_its_item_alone() -> None:
    page = two_types(NAN, 2, NAN, NAN, 1)
    alone = PageTargets(teacher=torch.full((1, 5), NAN), grade=page.grade, type=page.type)
    found = anchored(row(0.5, 1.0, -1.0, 2.0, 0.5), real(5, 5), alone, margin=1.0)
    assert found.loss.item() == pytest.approx(0.5)


def test_squash_by_hand() -> None:
    found = squashed(row(1.0, 3.0, 99.0), real(2, 3))
    torch.testing.assert_close(found, row(math.tanh(-2.0), 0.0, 0.0))


@pytest.mark.parametrize("form", ["listwise", "pairwise"])
@pytest.mark.parametrize("squash", [False, True])
def test_padding_unknown_keys_and_the_order_of_items_change_nothing(form: str, squash: bool) -> None:
    config = replace(SMALL, consistency_form=form, tanh_squash=squash, anchor_weight=1.0)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(2, 6, generator=generator, requires_grad=True)
    page = PageTargets(
        teacher=torch.tensor([[3.0, NAN, 1.0, 2.0, 5.0, 4.0], [1.0, 2.0, 3.0, 4.0, NAN, NAN]]),
        grade=torch.tensor([[1.0, 2.0, NAN, 2.0, 0.0, 4.0], [NAN] * 6]),
        type=torch.tensor([[0, 0, 1, 1, 0, 1], [0, 1, 0, 1, 0, 1]]),
    )
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    plain = page_losses(z, mask, page, config)
    poison = torch.full((2, 2), NAN)
    padded = page_losses(
        torch.cat([z, poison], dim=1),
        torch.cat([mask, torch.zeros(2, 2, dtype=torch.bool)], dim=1),
        PageTargets(torch.cat([page.teacher, poison + 1], 1), torch.cat([page.grade, poison], 1), _grown(page.type)),
        config,
    )
    turned = torch.tensor([5, 3, 1, 0, 2, 4])
    moved = page_losses(z[:, turned], mask[:, turned], PageTargets(*(each[:, turned] for each in page)), config)
    for name, own in plain.items():
        for other in (padded[name], moved[name]):
            torch.testing.assert_close(other.loss, own.loss)
            assert torch.equal(other.counts, own.counts)
    assert plain["graded"].counts.tolist() == [True, False]
    assert plain["consistent"].counts.tolist() == [True, True]
    assert plain["anchored"].counts.tolist() == [True, False]
    (gradient,) = torch.autograd.grad(sum(own.loss.sum() for own in plain.values()), z)  # type: ignore[arg-type]
    assert bool(torch.isfinite(gradient).all())
    assert not gradient[1, 4:].any()


def _grown(values: Tensor) -> Tensor:
    return torch.cat([values, torch.zeros(2, 2, dtype=values.dtype)], dim=1)


SMALL = PROFILES["tiny"]


def test_the_total_weighs_both_losses() -> None:
    known = catalogue()
    batch = to_torch(batch_of([labelled(seed, known, n=8) for seed in range(3)]))
    outputs = MODELS["smar"].forward(SMALL, MODELS["smar"].init(SMALL, 1), batch)
    generator = torch.Generator().manual_seed(2)
    shape = batch.cand_mask.shape
    page = PageTargets(
        teacher=torch.randn(shape, generator=generator),
        grade=torch.randint(0, 5, shape, generator=generator).float(),
        type=torch.zeros(shape, dtype=torch.int64),
    )
    page.grade[1:] = NAN
    plain, _ = total_loss(outputs, batch, SMALL)
    weights = replace(SMALL, consistency=0.5, grade_weight=2.0, anchor_weight=3.0)
    page.type[:, ::2] = 1
    # Grades that contradict no teacher.
    page.teacher[:1] = page.grade[:1] + 0.5 * torch.rand(page.grade[:1].shape, generator=generator)
    found, parts = total_loss(outputs, batch, weights, page_labels=page)
    assert parts["anchored"] > 0
    torch.testing.assert_close(
        found, plain + 0.5 * parts["consistent"] + 2.0 * parts["graded"] + 3.0 * parts["anchored"]
    )
    alone = page_losses(outputs.logit[:1], batch.cand_mask[:1], PageTargets(*(each[:1] for each in page)), SMALL)
    # Pages without grades do not count.
    torch.testing.assert_close(parts["graded"], alone["graded"].loss[0].detach())
