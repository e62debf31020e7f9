"""DLCM: a recurrent network reads the list from its end, and its final state weighs each item's output.

Source: Ai et al., Learning a Deep Listwise Context Model for Ranking Refinement, SIGIR 2018, arXiv 1804.05936. It is
trained by the list softmax, which is the term of the positive items in the paper's attention loss. Inputs are those of
the other models.
"""

import torch
from torch import Tensor, nn

from trainer.configs.dlcm import DlcmConfig
from trainer.models.batch import Outputs, TensorBatch
from trainer.models.blocks import Dropout, dropper, item_scores, zero_unless
from trainer.models.inputs import InputLayer, Interest, VectorReader, base_features, base_width


class Gru(nn.Module):
    """Gated recurrent unit over the rows of a list, from the last to the first.

    `torch.nn.GRU` keeps its weights in a flat buffer, which `functional_call` does not replace.

    Shapes: values (B, n, v), mask (B, n); results (B, n, w) and (B, w).
    Guarantees: padded rows leave the state as it is and come out as 0.
    Source: Cho et al. 2014, in the form of `torch.nn.GRU`.
    """

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.of_input = nn.Linear(width_in, 3 * width)
        self.of_state = nn.Linear(width, 3 * width)
        self._width = width

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output at each row, and the final state."""
        of_input = self.of_input(values)
        state = of_input.new_zeros(values.shape[0], self._width)
        outputs: list[Tensor] = []
        for row in reversed(range(values.shape[1])):
            reset_in, update_in, new_in = of_input[:, row].chunk(3, dim=-1)
            reset_state, update_state, new_state = self.of_state(state).chunk(3, dim=-1)
            update = torch.sigmoid(update_in + update_state)
            new = torch.tanh(new_in + torch.sigmoid(reset_in + reset_state) * new_state)
            state = torch.where(mask[:, row, None], (1 - update) * new + update * state, state)
            outputs.append(state)
        return zero_unless(mask, torch.stack(outputs[::-1], dim=1)), state


class LocalContext(nn.Module):
    """The scoring function: V . (o_i tanh(W s_n + b)) with a tensor W of alpha x k x alpha.

    Shapes: outputs (B, n, w), state (B, w); result (B, n, k) before V.
    """

    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        self.tensor = nn.Linear(width, width * units)
        self._units = units

    def forward(self, outputs: Tensor, state: Tensor) -> Tensor:
        """Return the hidden units of each item."""
        matrices = torch.tanh(self.tensor(state)).view(state.shape[0], -1, self._units)
        return torch.matmul(outputs, matrices)


class Dlcm(InputLayer):
    """DLCM: the items are read in the order of `rank_in`, not in that of the arrays."""

    def __init__(self, config: DlcmConfig) -> None:
        super().__init__(config)
        self.vectors = nn.ModuleDict({modality: VectorReader(config, modality) for modality in config.modalities})
        self.attention = Interest(config, 3 * config.d)
        width_in = base_width(config, interest=True, modalities=config.modalities) + config.context
        self.abstract_in = nn.Linear(width_in, config.width)
        self.abstract_out = nn.Linear(config.width, config.width)
        self.gru = Gru(width_in + config.width, config.width)
        self.local = LocalContext(config.width, config.units)
        self.logit = nn.Linear(config.units, 1)
        self.pcvr = nn.Linear(config.units, 1) if config.pcvr else None

    def forward(self, batch: TensorBatch, dropout: Dropout | None = None) -> Outputs:
        """Score a batch, with dropout if it is given."""
        drop = dropper(dropout)
        inputs = self.read(batch)
        vectors = [reader(batch).cand for reader in self.vectors.values()]
        context = inputs.context[:, None, :].expand(-1, inputs.mask.shape[1], -1)
        features = torch.cat([base_features(inputs, self.attention.of_ids(inputs), vectors), context], dim=-1)
        abstract = drop(nn.functional.elu(self.abstract_out(nn.functional.elu(self.abstract_in(features)))))
        values = torch.cat([features, abstract], dim=-1)
        last = torch.iinfo(torch.int64).max
        order = torch.where(inputs.mask, batch.cand_rank.long(), last).argsort(dim=1, stable=True)
        in_order, state = self.gru(_rows(values, order), inputs.mask.gather(1, order))
        hidden = self.local(drop(_rows(in_order, order.argsort(dim=1))), state)
        pcvr = None if self.pcvr is None else item_scores(self.pcvr(hidden), inputs.mask)
        return Outputs(item_scores(self.logit(hidden), inputs.mask), None, pcvr, {})


def _rows(values: Tensor, order: Tensor) -> Tensor:
    """Return the rows of each list in another order."""
    return values.gather(1, order.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
