"""PIER: a first pass proposes orders of the page, and an evaluator that sees whole pages chooses among them.

Source: Shi et al., KDD 2023, PIER: Permutation-Level Interest-Based End-to-End Re-ranking Framework in E-commerce,
arXiv 2302.03487; departures are in docs/training.md, "PIER".
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trainer.configs.pier import PierConfig
from trainer.features.collate import MODEL_INPUTS, TABLES
from trainer.models.armmt import Armmt
from trainer.models.batch import Outputs, Page, TensorBatch
from trainer.models.blocks import (
    Drop,
    Dropout,
    Embedding,
    Mlp,
    dropper,
    item_scores,
    keep,
    masked_softmax,
    wide,
    zero_unless,
)
from trainer.models.din import Tower
from trainer.models.diversity import by_place
from trainer.models.inputs import IdTables, InputLayer, Inputs, VectorReader, num_width
from trainer.models.orders import all_orders, candidate_orders, first_pass, places_of
from trainer.models.pages import distances, hyperplanes

_READ = frozenset(MODEL_INPUTS)
_ITEM_WIDTHS = (60, 32, 20)
_PAGE_WIDTHS = (128, 32)


class Context(NamedTuple):
    """Inputs of the evaluator for a list, beside the order of its items.

    Attributes:
        fields: [B,n,F,d] features of each item.
        vector: [B,n,3d] vectors of the items, of which pages are means.
        context: [B,c].
        pages: [B,P,3d] clicked pages of the client.
        is_page: [B,P].
        mask: [B,n].
        batch: The lists themselves.
    """

    fields: Tensor
    vector: Tensor
    context: Tensor
    pages: Tensor
    is_page: Tensor
    mask: Tensor
    batch: TensorBatch

    def detached(self) -> "Context":
        """Return the same without gradients."""
        found: dict[str, Any] = {
            name: part.detach() for name, part in self._asdict().items() if isinstance(part, Tensor)
        }
        return self._replace(**found)


class SelfAttention(nn.Module):
    """Scaled dot-product attention of one head, without a bias.

    Shapes: values (..., m, d), mask (..., m); result (..., m, d).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self._scale = 1 / math.sqrt(width)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the mixed values."""
        query, key, value = self.qkv(values).chunk(3, dim=-1)
        scores = torch.matmul(query * self._scale, key.transpose(-1, -2))
        weights = torch.softmax(scores, dim=-1) if mask is None else masked_softmax(scores, mask[..., None, :])
        return torch.matmul(weights.to(value.dtype), value)


class Evaluator(nn.Module):
    """OCPM: one logit for each place of a page, by attention in all directions and by the client's past pages.

    Items attend to each other in each feature, features to each other over the page, and features to each other in each
    item. The page attends to the past pages.

    Source: Shi et al. 2023, section 3.4.
    """

    def __init__(self, config: PierConfig) -> None:
        super().__init__()
        num_fields = 7 + len(config.modalities) + config.uses_rank
        self.place = Embedding(config.places + 1, config.d, padding_idx=0)
        self.over_items = SelfAttention(config.d)
        self.over_fields = SelfAttention(config.d)
        self.in_item = SelfAttention(config.d)
        self.item = Mlp((2 * num_fields * config.d, *_ITEM_WIDTHS))
        page = num_fields * config.d + 3 * config.d + config.context
        self.page = Mlp((_ITEM_WIDTHS[-1] + page, *_PAGE_WIDTHS))
        self.logit = nn.Linear(_PAGE_WIDTHS[-1], 1)

    def forward(self, known: Context, orders: Tensor, drop: Drop) -> Tensor:
        """Return the logits of the places of pages, 0 at places without an item.

        Args:
            known: Features of the lists.
            orders: [B,K,s] items that each page shows.
            drop: Dropout.

        Shapes: result (B, K, s).
        """
        lists, num, places = orders.shape
        real = gathered(known.mask[..., None], orders).squeeze(-1)
        numbers = torch.arange(1, places + 1, device=orders.device)
        place = self.place(numbers)[None, None, :, None, :].expand(lists, num, -1, -1, -1)
        # [B,K,s,F,d]
        fields = torch.cat([gathered(known.fields, orders), place.to(known.fields.dtype)], dim=3)
        fields = zero_unless(real[..., None], fields)
        over_items = self.over_items(fields.transpose(2, 3), real[:, :, None, :]).transpose(2, 3)
        items = torch.cat([over_items.flatten(3), self.in_item(fields).flatten(3)], dim=-1)
        of_page = self.over_fields(mean_of_real(fields, real)).flatten(2)
        past = self._past(mean_of_real(gathered(known.vector, orders), real), known)
        about = torch.cat([of_page, past, known.context[:, None, :].expand(-1, num, -1)], dim=-1)
        hidden = torch.cat([self.item(items, drop), about[:, :, None, :].expand(-1, -1, places, -1)], dim=-1)
        return torch.where(real, self.logit(self.page(hidden, drop)).squeeze(-1), 0.0)

    @staticmethod
    def _past(page: Tensor, known: Context) -> Tensor:
        """Return the past pages [B,K,v], weighed by their likeness to each page; 0 without any."""
        scores = torch.matmul(page, known.pages.transpose(1, 2)) / math.sqrt(page.shape[-1])
        weights = masked_softmax(scores, known.is_page[:, None, :].expand_as(scores))
        return torch.matmul(weights.to(known.pages.dtype), known.pages)


class ArmmtEvaluator(nn.Module):
    """ARMMT as the evaluator: one logit for each place, from ARMMT's score of the item among those of the page.

    The place stands where ARMMT has the rank of the incoming order. Id tables are those of the whole model.

    Source: ARMMT (arXiv 2408.05751), section 5.2.1: ARMMT builds on PIER. That it evaluates is our reading.
    """

    def __init__(self, config: PierConfig, rows: IdTables) -> None:
        super().__init__()
        self.model = Armmt(config.armmt())
        # Tables that are registered twice would be two sets of weights.
        del self.model.rows
        object.__setattr__(self.model, "rows", rows)

    def forward(self, known: Context, orders: Tensor, drop: Drop) -> Tensor:  # noqa: ARG002 - pages need no dropout of ARMMT's
        """Return the logits of the places of pages, 0 at places without an item, as `Evaluator`."""
        lists, num, places = orders.shape
        columns = {}
        for name, column in zip(TensorBatch._fields, known.batch, strict=True):
            if name.startswith("cand_"):
                columns[name] = gathered(column, orders).flatten(0, 1)
            elif name in _READ:
                columns[name] = column.repeat_interleave(num, dim=0)
        rank = torch.arange(1, places + 1, device=orders.device, dtype=known.batch.cand_rank.dtype)
        columns["cand_rank"] = rank.expand(lists * num, -1)
        pages = known.batch._replace(**columns)
        return torch.as_tensor(self.model(pages).logit).view(lists, num, places)


class Pier(InputLayer):
    """PIER: DIN's tower as the first pass, and the evaluator.

    `logit` sorts the list into the order of the candidate with the most expected clicks, and `relevance` holds the
    scores of the first pass, which the main loss trains.
    """

    def __init__(self, config: PierConfig) -> None:
        super().__init__(config)
        self.vectors = nn.ModuleDict({modality: VectorReader(config, modality) for modality in config.modalities})
        self.tower = Tower(config, config.tower)
        self.numbers = nn.Linear(num_width(config), config.d)
        self.hidden = nn.Linear(config.tower[-1], config.d)
        self.evaluator = Evaluator(config) if config.evaluator == "ocpm" else ArmmtEvaluator(config, self.rows)
        self.pcvr = nn.Linear(config.tower[-1], 1) if config.pcvr else None
        # Constants by number of places, since lists may be shorter than the page. Functions that cache do not compile.
        self._orders = [all_orders(min(config.permuted, each), each) for each in range(1, config.places + 1)]
        self._planes = hyperplanes(3 * config.d, config.hash_bits)
        self._config = config

    def forward(self, batch: TensorBatch, dropout: Dropout | None = None, shown: Tensor | None = None) -> Outputs:
        """Score a batch, with dropout if it is given.

        Args:
            batch: The lists.
            dropout: Dropout of the step.
            shown: [B,s] items that the page showed, where they are known: the evaluator's logits for them, and the
                contrast of the candidates, are `page` then.
        """
        drop = dropper(dropout)
        first, hidden, known = self.first(batch, drop)
        mask = known.mask
        with torch.no_grad():
            order = first_pass(wide(first), mask)
            near, far = self._candidates(wide(first), order, known)
            incoming = batch.cand_rank.to(torch.int64).masked_fill(~mask, torch.iinfo(torch.int16).max)
            checked = incoming.argsort(dim=1, stable=True)[:, : near.shape[2]]
            logits = self.evaluator(known, torch.cat([checked[:, None], near], dim=1), drop)
            value = torch.where(self._real(mask, near), torch.sigmoid(wide(logits[:, 1:])), 0.0).sum(dim=2)
            best = near.gather(1, value.argmax(dim=1)[:, None, None].expand(-1, -1, near.shape[2])).squeeze(1)
            place = places_of(order, _places(order, best))
            logit = by_place(wide(first), place, mask)
            golden = first.float().scatter_add(1, checked, logits[:, 0].float())
        pcvr = None if self.pcvr is None else item_scores(self.pcvr(hidden), mask)
        page = None if shown is None else self._page(known, shown, near, far, drop)
        return Outputs(logit, None, pcvr, {}, first, page=page, golden=torch.where(mask, golden, 0.0))

    def first(self, batch: TensorBatch, drop: Drop = keep) -> tuple[Tensor, Tensor, Context]:
        """Return the scores [B,n] and the last layer [B,n,w] of the first pass, and the inputs of the evaluator."""
        inputs = self.read(batch)
        vectors = [reader(batch).cand for reader in self.vectors.values()]
        hidden = self.tower(inputs, vectors, drop)
        scores = item_scores(self.tower.logit(hidden), inputs.mask)
        return scores, hidden, self._context(inputs, hidden, vectors, batch)

    def _context(self, inputs: Inputs, hidden: Tensor, vectors: list[Tensor], batch: TensorBatch) -> Context:
        d = self._config.d
        fields = [
            *torch.split(inputs.entity, d, dim=-1),
            inputs.category,
            self.numbers(inputs.num),
            self.hidden(hidden),
        ]
        fields += vectors + ([] if inputs.rank is None else [inputs.rank])
        pages, is_page = self._past_pages(batch)
        return Context(
            fields=torch.stack([field.to(fields[0].dtype) for field in fields], dim=2),
            vector=inputs.entity,
            context=inputs.context,
            pages=pages,
            is_page=is_page,
            mask=inputs.mask,
            batch=batch,
        )

    def _past_pages(self, batch: TensorBatch) -> tuple[Tensor, Tensor]:
        """Return the mean item vector [B,P,3d] of each clicked page, newest first, and which pages there are."""
        slots = batch.page_id[:, : self._config.pages]
        real = slots[..., 0] > 0
        items = [self.rows(table, slots[..., kind]) for kind, table in enumerate(TABLES[:3])]
        return mean_of_real(torch.cat(items, dim=-1), real), real.any(dim=2)

    def _candidates(self, first: Tensor, order: Tensor, known: Context) -> tuple[Tensor, Tensor]:
        """Return the items [B,K,s] of the K orders nearest to the past pages, and of the K farthest ones.

        The first pass's own order is always among the nearest, so a page is changed only for a higher value.
        """
        config = self._config
        places = min(config.places, order.shape[1])
        found, counts = candidate_orders(
            first.gather(1, order),
            known.mask.gather(1, order),
            self._orders[places - 1],
            beams=config.beams,
            extensions=config.extensions,
        )
        items = order[:, None, :].expand(-1, found.shape[1], -1).gather(2, found)
        of_orders = mean_of_real(gathered(known.vector, items), self._real(known.mask, items))
        distance = distances(wide(of_orders), wide(known.pages), known.is_page, self._planes)
        distance[:, 0] = -1.0
        near = torch.where(counts, distance, torch.inf).argsort(dim=1, stable=True)[:, : config.orders]
        far = torch.where(counts, distance, -torch.inf).argsort(dim=1, descending=True, stable=True)[:, : config.orders]
        # Short lists have fewer than K orders; the first pass's own order stands for the missing ones.
        near, far = (torch.where(counts.gather(1, each), each, 0) for each in (near, far))
        return tuple(items.gather(1, each[..., None].expand(-1, -1, places)) for each in (near, far))  # type: ignore[return-value]

    @staticmethod
    def _real(mask: Tensor, items: Tensor) -> Tensor:
        return mask[:, None, :].expand(-1, items.shape[1], -1).gather(2, items)

    def _page(self, known: Context, shown: Tensor, near: Tensor, far: Tensor, drop: Drop) -> Page:
        logit = self.evaluator(known, shown[:, None], drop).squeeze(1)
        contrast = None
        if self._config.contrast and self._config.evaluator == "ocpm":
            both = torch.sigmoid(wide(self.evaluator(known.detached(), torch.cat([near, far], dim=1), drop)))
            scores = torch.where(self._real(known.mask, torch.cat([near, far], dim=1)), both, 0.0).mean(dim=2)
            of_near, of_far = torch.split(scores, [near.shape[1], far.shape[1]], dim=1)
            contrast = of_near.mean(dim=1) - of_far.mean(dim=1)
        return Page(item=shown, logit=logit, contrast=contrast)


def gathered(values: Tensor, items: Tensor) -> Tensor:
    """Return the values of the items of pages.

    Shapes: values (B, n, ...), items (B, K, s); result (B, K, s, ...).
    """
    lists = torch.arange(values.shape[0], device=values.device)[:, None, None]
    return values[lists, items]


def mean_of_real(values: Tensor, real: Tensor) -> Tensor:
    """Return the mean over the real items of pages.

    Shapes: values (B, K, s, ...), real (B, K, s); result (B, K, ...).
    """
    weight = real.to(values.dtype).reshape(*real.shape, *[1] * (values.dim() - 3))
    return (values * weight).sum(dim=2) / weight.sum(dim=2).clamp(min=1)


def _places(order: Tensor, items: Tensor) -> Tensor:
    """Return the places [B,s] in the first pass of items [B,s]."""
    return order.argsort(dim=1).gather(1, items)
