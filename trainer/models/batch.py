"""The batch as tensors, and what a forward pass returns."""

from typing import NamedTuple

import torch
from torch import Tensor

from trainer.features.collate import Batch


class TensorBatch(NamedTuple):
    """The fields of `trainer.features.Batch` as tensors of the same types and shapes."""

    cand_id: Tensor
    cand_num: Tensor
    cand_rank: Tensor
    cand_img: Tensor
    cand_img_mask: Tensor
    cand_txt: Tensor
    cand_txt_mask: Tensor
    cand_mask: Tensor
    hist_id: Tensor
    hist_type: Tensor
    hist_num: Tensor
    hist_img: Tensor
    hist_img_mask: Tensor
    hist_txt: Tensor
    hist_txt_mask: Tensor
    hist_mask: Tensor
    query: Tensor
    query_category: Tensor
    client: Tensor
    query_token: Tensor
    query_path: Tensor
    query_vec: Tensor
    query_vec_mask: Tensor
    click: Tensor
    conv: Tensor
    money: Tensor
    click_weight: Tensor
    weight: Tensor
    position: Tensor
    latency_ms: Tensor


class Outputs(NamedTuple):
    """Scores of a batch, 0 at padded candidates.

    Attributes:
        logit: [B,n] before the softmax over the list (13); sort by it.
        click_logit: [B,n] before the sigmoid of (14), where the model has the head.
        pcvr_logit: [B,n] before the sigmoid of the head for probabilities.
        aux: Further tensors for inspection and extra losses.
        relevance: [B,n] what the main loss trains, where it is not `logit`.
    """

    logit: Tensor
    click_logit: Tensor | None
    pcvr_logit: Tensor | None
    aux: dict[str, Tensor]
    relevance: Tensor | None = None


def to_torch(batch: Batch, device: torch.device | str = "cpu") -> TensorBatch:
    """Return the batch as tensors on a device; on the CPU they share memory with the arrays where they can."""
    return TensorBatch(*(torch.from_numpy(array).to(device) for array in batch))
