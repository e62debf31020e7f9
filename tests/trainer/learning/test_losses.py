"""Losses against values computed by hand, finite differences, and the mistakes that published code contains."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trainer.lists import batch_of, catalogue, labelled
from trainer.learning.losses import click_task, clicked_orders, list_softmax, total_loss
from trainer.models import MODELS, ModelConfig, Outputs, TensorBatch, to_torch

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
NAN = float("nan")

every_loss = pytest.mark.parametrize("loss", [list_softmax, click_task], ids=["list_softmax", "click_task"])


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def t(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_list_softmax_by_hand() -> None:
    # exp(logits) = 1, 2, 1: probabilities 1/4, 1/2, 1/4; targets 1/2, 1/2, 0.
    logit = t([[0, float(np.log(2)), 0]])
    value = list_softmax(logit, t([[1, 1, 0]]), torch.ones(1, 3, dtype=torch.bool))
    assert value.item() == pytest.approx(0.5 * np.log(4) + 0.5 * np.log(2))


def test_list_softmax_normalises_targets_and_averages_over_converted_lists_only() -> None:
    mask = torch.tensor([[True, True], [True, True], [True, False]])
    logit = t([[0, 0], [3, 1], [5, NAN]])
    target = t([[7, 0], [0, 0], [2, NAN]])
    # Lists: ln 2, none bought, and a list of one with certainty.
    assert list_softmax(logit, target, mask).item() == pytest.approx(np.log(2) / 2)
    weight = torch.tensor([3.0, 5.0, 1.0], dtype=torch.float64)
    assert list_softmax(logit, target, mask, weight).item() == pytest.approx(np.log(2) * 3 / 4)


def test_no_conversion_means_no_loss_and_no_gradient() -> None:
    logit = t([[1, 2], [3, 4]]).requires_grad_()
    value = list_softmax(logit, torch.zeros_like(logit), torch.ones(2, 2, dtype=torch.bool))
    torch.autograd.backward(value)
    assert value.item() == 0
    assert logit.grad is not None
    assert not logit.grad.any()


def test_click_task_is_a_mean_over_valid_items_then_over_lists() -> None:
    mask = torch.tensor([[True, True, True], [True, False, False]])
    logit = t([[0, 0, 0], [float(np.log(3)), NAN, 9]])
    click = t([[1, 0, 0], [1, NAN, 1]])
    # sigmoid(ln 3) = 3/4. A mean over slots or over all items would weigh the second list by a third or a quarter.
    assert click_task(logit, click, mask).item() == pytest.approx((np.log(2) + np.log(4 / 3)) / 2)


def test_click_task_leaves_out_empty_and_weightless_lists() -> None:
    mask = torch.tensor([[True, True], [False, False], [True, True]])
    logit = t([[0, 0], [9, 9], [9, 9]])
    click = torch.zeros_like(logit)
    weight = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    assert click_task(logit, click, mask, weight).item() == pytest.approx(np.log(2))


def test_clicked_orders_by_hand() -> None:
    mask = torch.tensor([[True, True, True, False]])
    logit = t([[0, float(np.log(3)), 50, NAN]])
    click, conv = t([[1, 1, 0, 1]]), t([[1, 0, 0, 1]])
    expected = (np.log(2) + np.log(4)) / 2
    assert clicked_orders(logit, conv, click, mask).item() == pytest.approx(expected)
    assert clicked_orders(logit, conv, torch.zeros_like(click), mask).item() == 0


def test_a_correction_teaches_its_new_orders_and_nothing_of_the_other_clicks() -> None:
    # The second item is bought; the third was bought earlier, and the first was not.
    logit = t([[2, float(np.log(3)), -1, NAN]])
    click, conv = t([[1, 1, 1, 1]]), t([[0, 1, 0, 1]])
    mask, correction = torch.tensor([[True, True, True, False]]), torch.tensor([False])
    assert clicked_orders(logit, conv, click, mask, first_B=correction).item() == pytest.approx(np.log(4 / 3))
    # sigmoid(ln 3) = 3/4, so the order weighs 7/4.
    weighted = clicked_orders(logit, conv, click, mask, first_B=correction, method="fnw")
    assert weighted.item() == pytest.approx(7 / 4 * np.log(4 / 3))


def example(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    logit = torch.from_numpy(rng.normal(size=(4, 5)))
    target = torch.from_numpy((rng.random((4, 5)) < 0.4).astype(np.float64))
    mask = torch.from_numpy(np.arange(5) < rng.integers(1, 6, size=(4, 1)))
    return logit, target, mask


@every_loss
@pytest.mark.parametrize("seed", range(5))
def test_gradient_equals_finite_differences(loss: Loss, seed: int) -> None:
    logit, target, mask = example(seed)
    logit.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logit, target, mask), [logit])
    numeric = torch.zeros_like(logit)
    with torch.no_grad():
        for row in range(4):
            for column in range(5):
                step = torch.zeros_like(logit)
                step[row, column] = 1e-6
                numeric[row, column] = (loss(logit + step, target, mask) - loss(logit - step, target, mask)) / 2e-6
    torch.testing.assert_close(gradient, numeric, rtol=1e-6, atol=1e-9)
    assert not gradient[~mask].any()


@every_loss
@pytest.mark.parametrize("seed", range(5))
def test_padding_with_nan_changes_neither_loss_nor_gradient(loss: Loss, seed: int) -> None:
    logit, target, mask = example(seed)
    poison = torch.full((4, 3), NAN, dtype=torch.float64)
    wide_logit = torch.cat([logit, poison], dim=1).requires_grad_()
    logit.requires_grad_()
    wide_mask = torch.cat([mask, torch.zeros(4, 3, dtype=torch.bool)], dim=1)
    wide = loss(wide_logit, torch.cat([target, poison], dim=1), wide_mask)
    plain = loss(logit, target, mask)
    assert wide.item() == pytest.approx(plain.item(), abs=1e-12)
    (gradient,) = torch.autograd.grad(plain, [logit])
    (wide_gradient,) = torch.autograd.grad(wide, [wide_logit])
    torch.testing.assert_close(wide_gradient[:, :5], gradient)
    assert not wide_gradient[:, 5:].any()


@every_loss
def test_order_of_items_changes_nothing(loss: Loss) -> None:
    logit, target, mask = example(1)
    rows = torch.tensor([3, 1, 4, 0, 2])
    shuffled = loss(logit[:, rows], target[:, rows], mask[:, rows])
    assert shuffled.item() == pytest.approx(loss(logit, target, mask).item(), abs=1e-12)


@every_loss
def test_wrong_shapes_are_refused(loss: Loss) -> None:
    logit, target, mask = example(1)
    with pytest.raises(ValueError, match="three equal"):
        loss(logit, target[:, :4], mask)
    with pytest.raises(ValueError, match="three equal"):
        loss(logit[0], target[0], mask[0])


@pytest.mark.parametrize("loss", [list_softmax, click_task])
def test_weights_of_another_length_are_refused(loss: Callable[..., Tensor]) -> None:
    logit, target, mask = example(1)
    with pytest.raises(ValueError, match="weight"):
        loss(logit, target, mask, torch.ones(3))


def outputs_and_batch() -> tuple[Outputs, TensorBatch, ModelConfig]:
    known = catalogue()
    batch = to_torch(batch_of([labelled(seed, known) for seed in range(6)]))
    config = replace(MODELS["armmt"].profiles["tiny"], aux_weight=0.3, pcvr=True, pcvr_weight=0.7)
    return MODELS["armmt"].forward(config, MODELS["armmt"].init(config, 0), batch), batch, config


def test_total_is_main_plus_lambda_aux() -> None:
    outputs, batch, config = outputs_and_batch()
    assert outputs.click_logit is not None
    assert outputs.pcvr_logit is not None
    main = list_softmax(outputs.logit, batch.conv, batch.cand_mask)
    aux = click_task(outputs.click_logit, batch.click, batch.cand_mask)
    pcvr = clicked_orders(outputs.pcvr_logit, batch.conv, batch.click, batch.cand_mask)
    loss, parts = total_loss(outputs, batch, config)
    torch.testing.assert_close(loss, main + 0.3 * aux + 0.7 * pcvr)
    assert parts.keys() == {"main", "aux", "pcvr"}
    assert parts["aux"].item() == pytest.approx(aux.item())
    assert not any(part.requires_grad for part in parts.values())


def test_corrections_train_no_clicks() -> None:
    outputs, batch, config = outputs_and_batch()
    _, parts = total_loss(outputs, batch._replace(click_weight=torch.zeros(6)), config)
    assert parts["aux"].item() == 0
    assert parts["main"].item() > 0


def test_cross_entropy_switch_reads_converted_lists_only() -> None:
    outputs, batch, config = outputs_and_batch()
    conv = batch.conv.clone()
    conv[0] = 0
    _, parts = total_loss(outputs, batch._replace(conv=conv), replace(config, main_loss="bce"))
    expected = click_task(outputs.logit[1:], batch.conv[1:], batch.cand_mask[1:])
    assert parts["main"].item() == pytest.approx(expected.item())


def test_heads_on_both_fused_vectors_join_the_auxiliary_loss() -> None:
    _, batch, _ = outputs_and_batch()
    profile = replace(MODELS["armmt"].profiles["tiny"], aux_weight=1.0)
    config = type(profile)(**{**{f: getattr(profile, f) for f in profile.__dataclass_fields__}, "aux_heads": "mm_e_p"})
    outputs = MODELS["armmt"].forward(config, MODELS["armmt"].init(config, 0), batch)
    assert outputs.click_logit is not None
    heads = [outputs.click_logit, outputs.aux["click_item_logit"], outputs.aux["click_personal_logit"]]
    _, parts = total_loss(outputs, batch, config)
    expected = sum(click_task(head, batch.click, batch.cand_mask).item() for head in heads)
    assert parts["aux"].item() == pytest.approx(expected, rel=1e-6)


def test_weights_of_labels_by_hand() -> None:
    # Probabilities 1/4, 1/2, 1/4, and a padded slot; targets are normalised before they are weighed.
    logit, mask = t([[0, float(np.log(2)), 0, NAN]]), torch.tensor([[True, True, True, False]])
    weight = t([[3, 1, 7, NAN]])
    value = list_softmax(logit, t([[1, 1, 0, NAN]]), mask, None, weight)
    assert value.item() == pytest.approx(3 * 0.5 * np.log(4) + 0.5 * np.log(2))
    # Chances 1/2: the clicked item counts three times, the others once.
    clicks = click_task(t([[0, 0, 0, NAN]]), t([[1, 0, 0, NAN]]), mask, None, weight)
    assert clicks.item() == pytest.approx(np.log(2) * (3 + 1 + 1) / 3)


def test_weights_by_inverse_examination_give_the_shares_of_a_shop_where_all_positions_are_seen() -> None:
    """One list for each item that alone is clicked, as often as position and item have it; the minimum is known."""
    examination, appeal = np.array([1.0, 0.4, 0.2]), np.array([0.1, 0.2, 0.3])
    often = torch.from_numpy(examination * appeal)
    clicked, mask = torch.eye(3, dtype=torch.float64), torch.ones(3, 3, dtype=torch.bool)

    def shares(weight: Tensor | None) -> Tensor:
        logit = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([logit], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = list_softmax(logit.expand(3, 3), clicked, mask, often, weight)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        return torch.softmax(logit.detach(), 0)

    weighed = shares(torch.from_numpy(1 / examination).expand(3, 3))
    np.testing.assert_allclose(weighed, appeal / appeal.sum(), atol=1e-5)
    np.testing.assert_allclose(shares(None), often / often.sum(), atol=1e-5)


def clicked_batch() -> tuple[TensorBatch, Outputs]:
    """Three lists of three: an order and a click, two clicks, and clicks that were trained before."""
    batch = to_torch(batch_of([labelled(number, catalogue(), n=3) for number in range(3)]))
    batch = batch._replace(
        conv=torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 0, 0]]),
        click=torch.tensor([[1.0, 1, 0], [0, 1, 1], [1, 0, 0]]),
        click_weight=torch.tensor([1.0, 1.0, 0.0]),
        weight=torch.ones(3),
    )
    logit = torch.tensor([[0.3, 0.1, -1.0], [0.2, 0.5, 0.4], [1.0, 0.0, 0.2]])
    return batch, Outputs(logit=logit, click_logit=None, pcvr_logit=None, aux={})


def test_lists_without_an_order_teach_their_clicks_where_a_weight_lets_them() -> None:
    batch, outputs = clicked_batch()
    config = MODELS["prm"].profiles["tiny"]
    mask = batch.cand_mask
    order = list_softmax(outputs.logit[:1], batch.conv[:1], mask[:1]).item()
    clicks = list_softmax(outputs.logit[1:2], batch.click[1:2], mask[1:2]).item()
    for weight, expected in ((0.0, order), (1.0, (order + clicks) / 2), (0.25, (order + 0.25 * clicks) / 1.25)):
        loss, _ = total_loss(outputs, batch, replace(config, clicked_weight=weight))
        assert loss.item() == pytest.approx(expected, rel=1e-6)
    by_item, _ = total_loss(outputs, batch, replace(config, clicked_weight=1.0, main_loss="bce"))
    targets = torch.stack([batch.conv[0], batch.click[1]])
    assert by_item.item() == pytest.approx(click_task(outputs.logit[:2], targets, mask[:2]).item(), rel=1e-6)


def test_weights_of_labels_reach_each_task_of_clicks_and_orders() -> None:
    batch, outputs = clicked_batch()
    config = replace(MODELS["prm"].profiles["tiny"], clicked_weight=1.0)
    click_logit = outputs.logit.flip(1)
    outputs = outputs._replace(click_logit=click_logit)
    weight = torch.tensor([[1.0, 2, 4], [1, 2, 4], [1, 2, 4]])
    _, parts = total_loss(outputs, batch, config, weight)
    targets = torch.stack([batch.conv[0], batch.click[1]])
    main = list_softmax(outputs.logit[:2], targets, batch.cand_mask[:2], None, weight[:2])
    aux = click_task(click_logit[:2], batch.click[:2], batch.cand_mask[:2], None, weight[:2])
    assert parts["main"].item() == pytest.approx(main.item(), rel=1e-6)
    assert parts["aux"].item() == pytest.approx(aux.item(), rel=1e-6)
    # A weight where no label is changes nothing.
    other = torch.where((batch.click > 0) | (batch.conv > 0), weight, 99.0)
    _, same = total_loss(outputs, batch, config, other)
    assert same["main"].item() == parts["main"].item()
    assert same["aux"].item() == parts["aux"].item()
