"""Export of PIER as two graphs: its first pass, and its evaluator for pages that a search proposes.

The search itself is `trainer.versions.page_search`, because its loops depend on the length of the list.

Source: docs/training.md, "Graphs".
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trainer.configs.pier import PierConfig
from trainer.models.blocks import keep
from trainer.models.pages import hyperplanes
from trainer.models.pier import Context, Evaluator, Pier
from trainer.versions.graph import StoredGraph
from trainer.versions.graph_forms import OneList
from trainer.versions.page_graph import FIRST_PASS, LOGITS, ORDERS, READ, StoredPages
from trainer.versions.page_search import SearchSizes
from trainer.versions.tracing import Axes, batch_of, traced

# Two orders of three places: these lengths are not 1, which a trace would take for a constant.
_NUM_ORDERS, _NUM_PLACES = 2, 3


def stored(module: nn.Module, config: PierConfig, inputs: Mapping[str, Tensor], axes: Axes) -> StoredGraph:
    """Return the graphs of a configuration whose evaluator is `ocpm`.

    Args:
        module: The module, as `trainer.versions.tracing.to_trace`.
        config: Its configuration.
        inputs: One list, by the names of its fields.
        axes: The axes of the list that have any length.
    """
    first_pass = _FirstPass(module)
    by_item = {name: {1: "candidates"} for name in FIRST_PASS if name not in {"context", "pages", "is_page"}}
    graph = traced(first_pass, inputs, FIRST_PASS, {**axes, **by_item})
    with torch.no_grad():
        known = dict(zip(FIRST_PASS, first_pass(*inputs.values()), strict=True))
    orders = torch.arange(_NUM_ORDERS * _NUM_PLACES).view(1, _NUM_ORDERS, _NUM_PLACES) % known["scores"].shape[1]
    pages = {1: "orders", 2: "places"}
    evaluator = traced(
        _Evaluator(module),
        {**{name: known[name] for name in READ}, ORDERS: orders},
        [LOGITS],
        {**{name: by_item[name] for name in READ if name in by_item}, ORDERS: pages, LOGITS: pages},
    )
    sizes = SearchSizes(config.places, config.permuted, config.beams, config.extensions, config.orders)
    planes = hyperplanes(3 * config.d, config.hash_bits)
    return StoredGraph(
        dense=graph.dense,
        model=graph.model,
        pages=StoredPages(
            dense=evaluator.dense,
            model=evaluator.model,
            sizes=sizes,
            planes=planes.numpy().astype("<f4").tobytes(),
        ),
    )


class _FirstPass(nn.Module):
    """The outputs `FIRST_PASS` of one list without padding, as a function of the fields that the model reads."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *fields: Tensor) -> tuple[Tensor, ...]:
        batch = batch_of(fields)
        assert isinstance(self.module, Pier), "the module is that of PIER"
        with OneList(batch.cand_mask):
            scores, _, known = self.module.first(batch)
        return scores, known.fields, known.vector, known.context, known.pages, known.is_page


class _Evaluator(nn.Module):
    """The logits of pages of one list, whose places all hold an item."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(
        self, fields: Tensor, vector: Tensor, context: Tensor, pages: Tensor, is_page: Tensor, orders: Tensor
    ) -> Tensor:
        assert isinstance(self.module, Pier), "the module is that of PIER"
        assert isinstance(self.module.evaluator, Evaluator), "the evaluator is PIER's own"
        mask = torch.ones_like(fields[:, :, 0, 0], dtype=torch.bool)
        known = Context(fields, vector, context, pages, is_page, mask, batch=batch_of([]))
        with OneList(mask):
            return torch.as_tensor(self.module.evaluator(known, orders, keep))
