"""Settings of learning: everything beside the model, the log and the code that decides the weights.

Source: docs/training.md; the profile `full` follows ARMMT (arXiv 2408.05751), section 5.2.2.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningSettings:
    """Settings that decide what a lineage learns from its log.

    They belong to the identity of a lineage. All intervals are in watermark time.

    Attributes:
        seed: Seed of fresh weights and of dropout.
        item_type: Type of the items that are learned, as if lists held no others; `all` learns whole lists.
        batch: Sessions of a batch, however long they take to arrive: a step's size does not depend on the traffic.
        optimizer: Optimizer of the dense weights.
        lr: Learning rate of the dense weights.
        fused: Whether the optimizer of the dense weights is torch's fused form, which is faster.
        compile: Whether torch compiles forward pass, loss and gradient into one graph, which takes a minute or more at
            the start, needs a C++ compiler and does not go with dropout. Lists are then padded to one shape.
        precision: Number format of the forward pass. For `bfloat16`, torch's autocast chooses by operation; weights and
            losses stay float32.
        rows_lr: Learning rate of row-wise Adagrad on embedding rows.
        warmup_steps: Steps over which both learning rates rise linearly to their values; 0 turns the rise off.
        weight_decay: Decoupled decay of the dense matrices per step, in units of the learning rate; AdamW only.
        accumulator: Initial value and floor of Adagrad's accumulators.
        accumulator_decay_per_day: Factor that shrinks accumulators in a day, down to the floor.
        clip_norm: Largest norm of a step's gradient.
        dropout: Share of activations, and of ARMMT's whole modalities, dropped in a step.
        debias: Weights of labels: `curve` weighs a click or order by the inverse examination of its displayed position,
            `none` weighs all alike, `auto` is `curve` where `examination` is given.
        examination: Examination of positions 1, 2, and so on, as `shelfwise trainer examination` prints it; later
            positions have the last value.
        max_weight: Largest weight of a label.
        reservoir_share: Share of a batch that is drawn from the reservoir of trained sessions. Gradients of these lists
            reach the dense weights only. 0 keeps no reservoir.
        reservoir: Sessions that the reservoir keeps.
        epochs: Passes over the lists of an offline fit; a log is read once.
        checkpoint_s: Seconds between checkpoint boundaries: ids are admitted, items are applied, and a checkpoint may
            be written.
        catalogue_delay_s: Items take effect at the first boundary this long after their `updated_ts`.
        seen_s: Seconds that a trained session is remembered, so that a repeated record is not trained twice.
        converted_s: Seconds that a trained purchase is remembered: the longest attribution window.
        min_sightings: Sightings before an id gets a row of its own.
        sighting_half_life_s: Seconds after which a sighting weighs one half in the competition for the rows of a full
            table.
    """

    seed: int = 0
    item_type: Literal["all", "product", "sponsored", "video", "card", "other"] = "all"
    batch: int = 128
    optimizer: Literal["adamw", "adagrad"] = "adamw"
    lr: float = 3e-4
    fused: bool = False
    compile: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    rows_lr: float = 0.05
    warmup_steps: int = 0
    weight_decay: float = 0.0
    accumulator: float = 0.1
    accumulator_decay_per_day: float = 0.5
    clip_norm: float = 10.0
    dropout: float = 0.0
    debias: Literal["auto", "none", "curve"] = "auto"
    examination: tuple[float, ...] = ()
    max_weight: float = 10.0
    reservoir_share: float = 0.0
    reservoir: int = 4_096
    epochs: int = 20
    checkpoint_s: int = 60
    catalogue_delay_s: int = 120
    seen_s: int = 3_600
    converted_s: int = 86_400
    min_sightings: int = 2
    sighting_half_life_s: int = 14_400

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} = {value}: expected a finite number")
        for name in ("lr", "rows_lr", "accumulator", "clip_norm"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} = {getattr(self, name)}: expected more than 0")
        for name in ("batch", "reservoir", "epochs", "checkpoint_s", "min_sightings", "sighting_half_life_s"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: expected at least 1")
        for name in ("warmup_steps", "weight_decay", "catalogue_delay_s", "seen_s", "converted_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)}: expected 0 or more")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed = {self.seed}: expected 0 to {2**63 - 1}")
        if not 0 < self.accumulator_decay_per_day <= 1:
            raise ValueError(f"accumulator_decay_per_day = {self.accumulator_decay_per_day}: expected (0, 1]")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout = {self.dropout}: expected [0, 1)")
        if self.compile and self.dropout:
            raise ValueError(f"dropout = {self.dropout}: compile = True needs 0, a graph draws no numbers of its own")
        if not all(0 < value < math.inf for value in self.examination):
            raise ValueError(f"examination = {self.examination}: expected numbers above 0")
        if self.debias == "curve" and not self.examination:
            raise ValueError("examination is empty: debias = curve needs the examination of position 1 and others")
        if not self.max_weight >= 1:
            raise ValueError(f"max_weight = {self.max_weight}: expected at least 1")
        if not 0 <= self.reservoir_share < 1:
            raise ValueError(f"reservoir_share = {self.reservoir_share}: expected [0, 1)")
        if self.reservoir_share and not 0 < self.num_replayed < self.batch:
            raise ValueError(
                f"reservoir_share = {self.reservoir_share}: {self.num_replayed} of a batch of {self.batch} lists, "
                f"expected 1 to {self.batch - 1}"
            )
        if self.reservoir < self.num_replayed:
            raise ValueError(f"reservoir = {self.reservoir}: a batch draws {self.num_replayed} sessions from it")

    @property
    def num_replayed(self) -> int:
        """Return the lists of a batch that are drawn from the reservoir."""
        return round(self.reservoir_share * self.batch)


LATER: Mapping[str, object] = {"compile": False, "reservoir_share": 0.0, "reservoir": 4_096, "item_type": "all"}
"""Settings that came after lineages began, with the value that those lineages were trained with."""

PROFILES: Mapping[str, LearningSettings] = {
    "tiny": LearningSettings(),
    # The paper names no rate of dropout: Vaswani et al. 2017, section 5.4, has .1.
    "full": LearningSettings(optimizer="adagrad", lr=0.07, rows_lr=0.07, accumulator_decay_per_day=1.0, dropout=0.1),
}
