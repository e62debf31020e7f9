"""The losses: list softmax over bought items, click task over clicked items, and the head for probabilities.

Every loss is a mean that padding cannot change, even with NaN in it, and no loss branches on values.

Source: ARMMT (arXiv 2408.05751), equations 15-17; docs/training.md.
"""

import torch
from torch import Tensor
from torch.nn import functional

from trainer.configs import ModelConfig
from trainer.configs.pier import PierConfig
from trainer.configs.smar import SmarConfig
from trainer.learning.delayed import Delayed, samples
from trainer.learning.page_losses import page_losses
from trainer.models.batch import Outputs, Page, PageTargets, TensorBatch
from trainer.models.blocks import MASKED, wide


def list_softmax(
    logit_BL: Tensor,
    target_BL: Tensor,
    mask_BL: Tensor,
    weight_B: Tensor | None = None,
    label_weight_BL: Tensor | None = None,
) -> Tensor:
    """Average the list softmax cross-entropy over the sessions that have a target.

    Targets are normalised to sum to 1 within their list; `label_weight_BL` weighs their terms after that. Without any
    target in the batch the loss is 0, and so is its gradient.

    Raises:
        ValueError: If shapes differ.

    Shapes: three times (B, L), weight (B,), weights of labels (B, L); result ().
    Units: logits before the softmax; targets 0 or more; result in nats.
    Guarantees: padding changes nothing, even NaN in it; nor does the order of items.
    Source: (16); the weights of labels are those of Joachims et al. 2017, equation 4.
    """
    _same_shape(logit_BL, target_BL, mask_BL, weight_B)
    target = torch.where(mask_BL, target_BL, 0.0)
    total = target.sum(dim=1)
    has_target = total > 0
    share = target / torch.where(has_target, total, 1.0).unsqueeze(1)
    log_p = torch.log_softmax(torch.where(mask_BL, wide(logit_BL), MASKED), dim=1)
    if label_weight_BL is not None:
        share = share * torch.where(mask_BL, label_weight_BL, 0.0)
    return _mean(-(share * log_p).sum(dim=1), has_target.to(log_p.dtype), weight_B)


def click_task(
    logit_BL: Tensor,
    click_BL: Tensor,
    mask_BL: Tensor,
    weight_B: Tensor | None = None,
    label_weight_BL: Tensor | None = None,
) -> Tensor:
    """Average the binary cross-entropy over the valid items of each session, then over the sessions.

    A sum, or a mean over padded slots as well, would change what lambda of (17) means. `label_weight_BL` weighs the
    terms of clicked items; the others keep weight 1, which for rare clicks estimates the chance of a click on an item
    that is looked at.

    Raises:
        ValueError: If shapes differ.

    Shapes: three times (B, L), weight (B,), weights of labels (B, L); result ().
    Units: logits before the sigmoid; labels 0 or 1; result in nats.
    Guarantees: as `list_softmax`; a session without items or of weight 0 plays no part.
    Source: (15).
    """
    _same_shape(logit_BL, click_BL, mask_BL, weight_B)
    valid = mask_BL.sum(dim=1)
    item_BL = _cross_entropy(logit_BL, click_BL, mask_BL)
    if label_weight_BL is not None:
        item_BL = item_BL * torch.where(mask_BL & (torch.where(mask_BL, click_BL, 0.0) > 0), label_weight_BL, 1.0)
    mean_B = item_BL.sum(dim=1) / torch.clamp_min(valid, 1)
    return _mean(mean_B, (valid > 0).to(mean_B.dtype), weight_B)


def clicked_orders(
    logit_BL: Tensor,
    conv_BL: Tensor,
    click_BL: Tensor,
    mask_BL: Tensor,
    *,
    first_B: Tensor | None = None,
    method: Delayed = "none",
) -> Tensor:
    """Average the binary cross-entropy of P(order given click) over the clicked items of the batch.

    The terms of an item have the weights of `trainer.learning.delayed`, which carry no gradient. Of a list that is no
    first revision only the bought items take part.

    Raises:
        ValueError: If shapes differ.

    Shapes: four times (B, L), first (B,), all first revisions if absent; result ().
    Source: docs/training.md, "Late orders".
    """
    _same_shape(logit_BL, conv_BL, mask_BL, first_B)
    _same_shape(logit_BL, click_BL, mask_BL, None)
    clicked = mask_BL & (torch.where(mask_BL, click_BL, 0.0) > 0)
    logit = torch.where(clicked, wide(logit_BL), 0.0)
    bought = torch.where(clicked, conv_BL, 0.0) > 0
    first = torch.ones_like(clicked[:, 0]) if first_B is None else first_B
    own = samples(torch.sigmoid(logit).detach(), clicked, bought, first, method)
    terms = -(own.positive * functional.logsigmoid(logit) + own.negative * functional.logsigmoid(-logit))
    counted = (own.positive > 0) | (own.negative > 0)
    return terms.sum() / torch.clamp_min(counted.sum(), 1)


def page_clicks(page: Page, click_BL: Tensor, mask_BL: Tensor, weight_B: Tensor | None = None) -> Tensor:
    """Average the binary cross-entropy of clicks over the places of each page that was shown, then over the pages.

    Shapes: page (B, s), click and mask (B, L), weight (B,); result ().
    Source: Shi et al. 2023 (PIER, arXiv 2302.03487), equation of the loss of OCPM.
    """
    return click_task(page.logit, click_BL.gather(1, page.item), mask_BL.gather(1, page.item), weight_B)


def total_loss(
    outputs: Outputs,
    batch: TensorBatch,
    config: ModelConfig,
    label_weight_BL: Tensor | None = None,
    page_labels: PageTargets | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return L = L_main + lambda L_aux (17), and its parts, detached, by name.

    The main loss is the list softmax over bought items or, in lists without an order, over clicked ones, where
    `clicked_weight` lets these teach; with `main_loss = "bce"` the binary cross-entropy over the items of the same
    lists. Lists of `click_weight` 0 take no part in the loss of clicks: a correction trains its new items only.
    `label_weight_BL` weighs clicks and orders, the ones given a click left out: who clicked has looked. The loss of
    pages leaves them out too: the evaluator knows the place of each item. Labels of whole pages add the losses of
    `trainer.learning.page_losses`, each a mean over the lists that it counts.
    """
    mask = batch.cand_mask
    trained = outputs.logit if outputs.relevance is None else outputs.relevance
    target, weight = _main_target(batch, config)
    if config.main_loss == "softmax":
        main = list_softmax(trained, target, mask, weight, label_weight_BL)
    else:
        has_target = (torch.where(mask, target, 0.0).sum(dim=1) > 0).to(weight.dtype)
        main = click_task(trained, target, mask, weight * has_target, label_weight_BL)
    loss = main
    parts = {"main": main.detach()}
    click_weight = batch.weight * batch.click_weight
    click_logits = [outputs.click_logit] if outputs.click_logit is not None else []
    click_logits += [outputs.aux[name] for name in ("click_item_logit", "click_personal_logit") if name in outputs.aux]
    if click_logits:
        tasks = [click_task(logit, batch.click, mask, click_weight, label_weight_BL) for logit in click_logits]
        aux = torch.stack(tasks).sum()
        loss = loss + config.aux_weight * aux
        parts["aux"] = aux.detach()
    if outputs.page is not None:
        assert isinstance(config, PierConfig), "only PIER sees whole pages"
        page = page_clicks(outputs.page, batch.click, mask, click_weight)
        loss = loss + config.evaluator_weight * page
        parts["page"] = page.detach()
        if outputs.page.contrast is not None:
            loss = loss - config.contrast * _mean(outputs.page.contrast, mask.any(dim=1).to(loss.dtype), batch.weight)
    if page_labels is not None:
        assert isinstance(config, SmarConfig), "only SMAR learns from labels of whole pages"
        shares = {"graded": config.grade_weight, "consistent": config.consistency, "anchored": config.anchor_weight}
        for name, own in page_losses(outputs.logit, mask, page_labels, config).items():
            part = _mean(own.loss, own.counts.to(own.loss.dtype), batch.weight)
            loss = loss + shares[name] * part
            parts[name] = part.detach()
    if outputs.pcvr_logit is not None:
        first = batch.click_weight > 0
        pcvr = clicked_orders(
            outputs.pcvr_logit, batch.conv, batch.click, mask, first_B=first, method=config.pcvr_delayed
        )
        loss = loss + config.pcvr_weight * pcvr
        parts["pcvr"] = pcvr.detach()
    return loss, parts


def _main_target(batch: TensorBatch, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Return the targets [B,n] of the main loss, and the weights [B] of the lists."""
    if not config.clicked_weight:
        return batch.conv, batch.weight
    has_order = torch.where(batch.cand_mask, batch.conv, 0.0).sum(dim=1) > 0
    clicked = batch.click * (batch.click_weight > 0).to(batch.click.dtype).unsqueeze(1)
    target = torch.where(has_order.unsqueeze(1), batch.conv, clicked)
    return target, torch.where(has_order, batch.weight, config.clicked_weight * batch.weight)


def _cross_entropy(logit_BL: Tensor, label_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """Return the binary cross-entropy per item, 0 at padding."""
    logit = torch.where(mask_BL, wide(logit_BL), 0.0)
    label = torch.where(mask_BL, label_BL, 0.0)
    terms = functional.binary_cross_entropy_with_logits(logit, label, reduction="none")
    return torch.where(mask_BL, terms, 0.0)


def _mean(loss_B: Tensor, counts_B: Tensor, weight_B: Tensor | None) -> Tensor:
    """Return the mean over sessions by weight; 0 where no session counts."""
    weight = counts_B if weight_B is None else counts_B * weight_B
    total = weight.sum()
    return (loss_B * weight).sum() / torch.where(total > 0, total, 1.0)


def _same_shape(logit_BL: Tensor, label_BL: Tensor, mask_BL: Tensor, weight_B: Tensor | None) -> None:
    if logit_BL.ndim != 2 or logit_BL.shape != label_BL.shape or logit_BL.shape != mask_BL.shape:
        raise ValueError(
            f"expected three equal (B, L), got {tuple(logit_BL.shape)}, {tuple(label_BL.shape)}, {tuple(mask_BL.shape)}"
        )
    if weight_B is not None and weight_B.shape != logit_BL.shape[:1]:
        raise ValueError(f"expected weight ({logit_BL.shape[0]},), got {tuple(weight_B.shape)}")
