"""Inputs that compare each candidate with the items of its list that the client has touched.

They are a pure function of the batch: of the candidates' numbers, the ages of the behaviours, and `rank_in`.

Source: docs/training.md.
"""

from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from trainer.configs.base import ModelConfig
from trainer.features.schema import HISTORY_NUM_COLUMNS, NUM_COLUMNS, NUMERIC_COLUMNS
from trainer.models.batch import TensorBatch
from trainer.models.blocks import Embedding

_COUNT: Final = NUM_COLUMNS.index("touch_count")
_RECENCY: Final = NUM_COLUMNS.index("touch_recency")
_LAST: Final = NUM_COLUMNS.index("touch_last")
_NUMERIC: Final = [NUM_COLUMNS.index(name) for name in NUMERIC_COLUMNS]
_LOG_AGE: Final = HISTORY_NUM_COLUMNS.index("log_age_h")
# Half a second at an age of two days, and above the rounding of both ages.
_SAME_AGE: Final = 3e-6
_FAR: Final = 12
"""Distances in ranks beyond it share one embedding."""


class Touched(NamedTuple):
    """The candidates that the client has touched, and when.

    Attributes:
        mask: [B,n] touched at all.
        last: [B,n] touched last.
        steps: [B,n] behaviours since the touch, 0 where there is none.
    """

    mask: Tensor
    last: Tensor
    steps: Tensor


def touched(batch: TensorBatch) -> Touched:
    """Return the touches of a batch.

    The steps are counted by ages, which both sides carry for every item, while items without a row of their own share
    the cold row. Behaviours of one second count as one step.
    """
    recency = torch.where(batch.cand_mask, batch.cand_num[..., _RECENCY], 0.0)
    mask = recency > 0
    age = -torch.log(torch.where(mask, recency, 1.0))
    log_age = torch.where(batch.hist_mask, batch.hist_num[..., _LOG_AGE], torch.inf)
    steps = (log_age[:, None, :] < age[:, :, None] - _SAME_AGE).sum(dim=2).to(recency.dtype)
    last = batch.cand_mask & (batch.cand_num[..., _LAST] > 0)
    return Touched(mask=mask, last=last, steps=torch.where(mask, steps, 0.0))


def distances(last: Tensor, rank: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ranks between each candidate and the one touched last, and whether there is such a one.

    Shapes: last (B, n), rank (B, n); results (B, n) and (B, 1).
    """
    exists = last.any(dim=1, keepdim=True)
    own = torch.where(last, rank, 0).sum(dim=1, keepdim=True)
    return torch.where(exists, rank - own, 0), exists


def within_list(values: Tensor, mask: Tensor) -> Tensor:
    """Return min-max position, average rank / n and standard score of each column within its list; 0 at padding.

    Shapes: values (B, n, f), mask (B, n); result (B, n, 3f).
    Guarantees: a flat column has min-max 0 and standard score 0.
    """
    real, count = mask.unsqueeze(-1), _num_real(values, mask)
    low, high = _bounds(values, real)
    spread = torch.where(high > low, high - low, 1.0)
    scores = standard_scores(values, mask)
    values = torch.where(real, values, 0.0)
    other, others = values[:, None, :, :], real[:, None, :, :]
    smaller = (others & (other < values[:, :, None, :])).sum(dim=2)
    equal = (others & (other == values[:, :, None, :])).sum(dim=2)
    ranks = (smaller + (equal + 1) / 2) / count
    return torch.where(real, torch.cat([(values - low) / spread, ranks, scores], dim=-1), 0.0)


def standard_scores(values: Tensor, mask: Tensor) -> Tensor:
    """Return the standard score of each column within its list; 0 at padding and in a flat column.

    Shapes: values (B, n, f), mask (B, n); result (B, n, f).
    """
    real, count = mask.unsqueeze(-1), _num_real(values, mask)
    low, high = _bounds(values, real)
    values = torch.where(real, values, 0.0)
    centred = values - values.sum(dim=1, keepdim=True) / count
    variance = torch.where(real, centred**2, 0.0).sum(dim=1, keepdim=True) / count
    scale = torch.where(high > low, variance, 1.0).sqrt()
    return torch.where(real, torch.where(high > low, centred, 0.0) / scale, 0.0)


def _num_real(values: Tensor, mask: Tensor) -> Tensor:
    return mask.sum(dim=1).clamp_min(1)[:, None, None].to(values.dtype)


def _bounds(values: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest real value of each column."""
    low = torch.where(real, values, torch.inf).amin(dim=1, keepdim=True)
    return low, torch.where(real, values, -torch.inf).amax(dim=1, keepdim=True)


class TouchColumns(nn.Module):
    """Columns of the candidates by the touches of their list.

    In order: log steps since the touch and its inverse; the count, the recency and the inverse steps within the list;
    standard scores of the numbers; the difference of the numbers to those of the item touched last; the length of the
    list, of the history, and the share of touched items. With rank: the distance in ranks to the item touched last, as
    a number and by an embedding.

    Shapes: result (B, n, `width`), 0 at padding.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.distance = Embedding(2 * _FAR + 2, config.d, padding_idx=0) if config.uses_rank else None

    @staticmethod
    def width(config: ModelConfig) -> int:
        """Return the number of columns."""
        return 2 + 9 + 2 * len(NUMERIC_COLUMNS) + 3 + config.uses_rank * (3 + config.d)

    def forward(self, batch: TensorBatch) -> Tensor:
        """Return the columns."""
        mask = batch.cand_mask
        found = touched(batch)
        num = torch.where(mask.unsqueeze(-1), batch.cand_num, 0.0)
        inverse = torch.where(found.mask, 1 / (1 + found.steps), 0.0)
        numbers = num[..., _NUMERIC]
        touches = torch.stack([num[..., _COUNT], num[..., _RECENCY], inverse], dim=-1)
        exists = found.last.any(dim=1, keepdim=True)
        of_last = torch.where(found.last.unsqueeze(-1), numbers, 0.0).sum(dim=1, keepdim=True)
        n = mask.sum(dim=1, keepdim=True).clamp_min(1).to(num.dtype)
        whole = [
            n / 30,
            torch.log1p(batch.hist_mask.sum(dim=1, keepdim=True).to(num.dtype)),
            found.mask.sum(dim=1, keepdim=True) / n,
        ]
        parts = [
            torch.log1p(found.steps).unsqueeze(-1),
            inverse.unsqueeze(-1),
            within_list(touches, mask),
            standard_scores(numbers, mask),
            torch.where(exists.unsqueeze(-1), numbers - of_last, 0.0),
            torch.cat(whole, dim=1)[:, None, :].expand(-1, mask.shape[1], -1),
        ]
        if self.distance is not None:
            distance, exists = distances(found.last, torch.where(mask, batch.cand_rank.long(), 0))
            near = torch.where(exists, distance.clamp(-_FAR, _FAR) + _FAR + 1, 0)
            scaled = (distance / 10).to(num.dtype)
            parts += [
                torch.stack([scaled, scaled.abs(), (distance > 0).to(num.dtype)], dim=-1),
                self.distance(torch.where(mask, near, 0)),
            ]
        return torch.where(mask.unsqueeze(-1), torch.cat(parts, dim=-1), 0.0)
