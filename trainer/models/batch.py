"""The batch as tensors, and what a forward pass returns."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.features.collate import Batch

_ALIGNMENT: Final = 16


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
    page_id: Tensor
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


class Page(NamedTuple):
    """Scores of the pages that were shown, of a model that sees whole pages.

    Attributes:
        item: [B,s] item of each place.
        logit: [B,s] before the sigmoid of a click, 0 at places without an item.
        contrast: [B] how much better the model finds pages like those that the client clicked, or None.
    """

    item: Tensor
    logit: Tensor
    contrast: Tensor | None


class PageLabels(NamedTuple):
    """Labels of whole pages, for models that learn from teachers or from people's grades.

    Attributes:
        teacher: [B,n] scores of the teachers, NaN where there is none; they compare inside of one type alone.
        grade: [B,n] grades by people, who saw the whole page; NaN where there is none.
        type: [B,n] place of the item's type in `ITEM_TYPES`.
    """

    teacher: NDArray[np.float32]
    grade: NDArray[np.float32]
    type: NDArray[np.int64]

    @classmethod
    def none(cls, types: NDArray[np.int64]) -> "PageLabels":
        """Return the labels of pages without any; types (B, n)."""
        return cls(np.full(types.shape, np.nan, np.float32), np.full(types.shape, np.nan, np.float32), types)


class PageTargets(NamedTuple):
    """The fields of `PageLabels` as tensors of the same types and shapes."""

    teacher: Tensor
    grade: Tensor
    type: Tensor


class Outputs(NamedTuple):
    """Scores of a batch, 0 at padded candidates.

    Attributes:
        logit: [B,n] before the softmax over the list (13); sort by it.
        click_logit: [B,n] before the sigmoid of (14), where the model has the head.
        pcvr_logit: [B,n] before the sigmoid of the head for probabilities.
        aux: Further tensors for inspection and extra losses.
        relevance: [B,n] what the main loss trains, where it is not `logit`.
        page: Scores of the pages that were shown, where the model has them and the caller names the pages.
        golden: [B,n] what golden sets compare, where `logit` jumps between orders of nearly equal value.
    """

    logit: Tensor
    click_logit: Tensor | None
    pcvr_logit: Tensor | None
    aux: dict[str, Tensor]
    relevance: Tensor | None = None
    page: Page | None = None
    golden: Tensor | None = None


def golden_scores(outputs: Outputs) -> Tensor:
    """Return the scores [B,n] that a golden set keeps: small differences of arithmetic change them little."""
    return outputs.logit if outputs.golden is None else outputs.golden


def shown_items(position: Tensor, mask: Tensor, places: int) -> Tensor:
    """Return the items at the first places of the page, padding last; items without a position come after the others.

    Shapes: position (B, n), from 1, 0 = unknown; mask (B, n); result (B, at most places), int64.
    """
    last = torch.iinfo(torch.int32).max
    shown = torch.where(mask, torch.where(position > 0, position, last - 1), last)
    return shown.argsort(dim=1, stable=True)[:, :places]


def to_torch(batch: Batch, device: torch.device | str = "cpu") -> TensorBatch:
    """Return the batch as tensors on a device, as `to_device`."""
    return TensorBatch(*to_device(batch, device))


def tensors_of(weights: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    """Return weights as tensors that share memory with the arrays."""
    return {name: torch.from_numpy(array) for name, array in weights.items()}


def to_device(arrays: Sequence[NDArray[Any]], device: torch.device | str = "cpu") -> list[Tensor]:
    """Return arrays as tensors on a device.

    On the CPU they share memory with the arrays. Another device gets one buffer in one copy, which a GPU reads from
    pinned memory while the host goes on.
    """
    target = torch.device(device)
    if target.type == "cpu":
        return [torch.from_numpy(array) for array in arrays]
    packed = pack(arrays, pinned=target.type == "cuda")
    return unpack(packed.to(target, non_blocking=True), arrays)


def pack(arrays: Sequence[NDArray[Any]], *, pinned: bool = False) -> Tensor:
    """Return the bytes of arrays in one buffer, each from a multiple of 16 on."""
    starts = _starts(arrays)
    buffer = torch.empty(starts[-1], dtype=torch.uint8, pin_memory=pinned)
    content = buffer.numpy()
    for start, array in zip(starts, arrays, strict=False):
        content[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return buffer


def unpack(buffer: Tensor, arrays: Sequence[NDArray[Any]]) -> list[Tensor]:
    """Return the tensors of a packed buffer, which share its memory, with types and shapes of the arrays."""
    found = []
    for start, array in zip(_starts(arrays), arrays, strict=False):
        dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
        found.append(buffer[start : start + array.nbytes].view(dtype).view(array.shape))
    return found


def _starts(arrays: Sequence[NDArray[Any]]) -> list[int]:
    """Return where each array starts, then the size of the buffer."""
    return [0, *accumulate(-(-array.nbytes // _ALIGNMENT) * _ALIGNMENT for array in arrays)]
