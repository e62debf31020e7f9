"""The learner of one lineage: it scores a batch, then learns from it, and refuses losses that are not finite.

The same batches, boundaries and catalogue give the same weights, bit for bit on a CPU with the same number of threads:
the learner uses no clock and no global random state.

Source: docs/training.md.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from stream.errors import ShelfwiseError
from trainer.configs import LearningSettings
from trainer.evaluation.metrics import Floats
from trainer.evaluation.modalities import RunningWeights
from trainer.features import (
    N_MAX,
    SCHEMAS,
    Batch,
    CatalogueLike,
    ExampleBuilder,
    Examples,
    batch_from_columns,
    collate,
)
from trainer.features.hash_index import Hashes
from trainer.features.id_maps import FIRST_SLOT, IdMaps, count_candidates
from trainer.features.item_types import only_type
from trainer.feed.batches import SessionBatch
from trainer.learning.debias import EffectiveLabels, is_label, label_weights
from trainer.learning.former import FormerVersion, as_floats
from trainer.learning.intake import Intake, PendingSession
from trainer.learning.judged_lists import JudgedLists
from trainer.learning.page_labels import labels_of_pages
from trainer.learning.prequential import Prequential, served_scores
from trainer.learning.reservoir import Reservoir
from trainer.learning.shuffled_evidence import ShuffledEvidence
from trainer.learning.teachers import Teachers
from trainer.learning.training_lists import TrainingLists
from trainer.learning.warm_start import take_over
from trainer.learning.weights import Weights
from trainer.models import ModelConfig, Outputs
from trainer.models.batch import PageLabels
from trainer.versions.artifact import LoadedVersion
from trainer.versions.atomic_folder import Tensors
from trainer.versions.checkpoint import LearningState
from trainer.versions.delta import PLACES


class LearningHalted(ShelfwiseError):  # noqa: N818 - a state of learning, not a fault of the program
    """Too many refused batches in a row: the process stops and publishes nothing."""


@dataclass(frozen=True, slots=True)
class Step:
    """Result of a step, or of the steps of one call: sessions trained, the last loss by part, whether weights moved.

    Attributes:
        impressions_ts: Times of the impressions of the trained first revisions, where the step knows its sessions.
    """

    num_trained: int
    losses: Mapping[str, float]
    moved: bool
    impressions_ts: Sequence[int] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """The columns of a batch that are measured before it is learned.

    Attributes:
        lists: The lists.
        served: [B,n] scores when shown, NaN if none.
        former: [B,n] scores of the version before the newest one; None without such a version.
    """

    lists: TrainingLists
    served: Floats
    former: Floats | None


class Learner:
    """Weights, id maps and memory of one lineage.

    Attributes:
        weights: Weights and the state of their optimizers.
        params: All weights by name; tables are named `rows.*`.
        id_maps: Rows of the ids.
        behaviours: Behaviours in histories since the process began: kept for the query's category, or of another one.
        candidates: Candidates of trained lists since the process began, by id table and `own` or `cold` row.
        labels: Clicked and bought items trained since the process began, by their weights.
        counters: Records by outcome: trained, repeated, held, rejected_features, without_label, known,
            rolled_back, quarantined.
        batch_number: Batches seen, refused and held ones included.
        modalities: Weights of the fusion units on fresh lists since the newest version, by query category.
        shuffled: How the scores compare with the incoming order on lists that were shown in random order.
        golden: The newest trained batch, as the trainer saw it.
        lineage: Name of the lineage, by which lists are known that its versions ranked.
        former: The version before the newest one, where there is one.
        reservoir: Trained sessions that later batches learn from again; empty without `reservoir_share`.
        judged: The lists by which gates judge the next version; None in a lineage without gates.
    """

    def __init__(
        self,
        model: str,
        config: ModelConfig,
        learning: LearningSettings,
        *,
        device: torch.device,
        halt_after: int = 5,
        teachers: Teachers | None = None,
    ) -> None:
        self.model = model
        self.config = config
        self.learning = learning
        self.device = device
        self._halt_after = halt_after
        self._teachers = teachers
        self.weights = Weights(model, config, learning, device)
        self.params = self.weights.params
        self.id_maps = IdMaps.empty(
            self.weights.capacities, min_sightings=learning.min_sightings, half_life_s=learning.sighting_half_life_s
        )
        self._intake = Intake(learning)
        self.reservoir = Reservoir(learning.reservoir, learning.seed)
        self.behaviours: Counter[str] = Counter()
        self.candidates: Counter[tuple[str, str]] = Counter()
        self.labels = EffectiveLabels()
        self._builder: ExampleBuilder | None = None
        self.counters: Counter[str] = Counter()
        self.batch_number = 0
        self.rejected_in_row = 0
        self.prequential = Prequential()
        self.modalities = RunningWeights()
        self.shuffled = ShuffledEvidence()
        self.golden: Batch | None = None
        self.lineage: str | None = None
        self.former: FormerVersion | None = None
        self.judged: JudgedLists | None = None

    @property
    def learns_clicks(self) -> bool:
        """Return whether a list without an order trains the main loss by its clicks."""
        return self.config.clicked_weight > 0

    @property
    def pending(self) -> Sequence[PendingSession]:
        """Sessions that wait for their batch to fill."""
        return self._intake.pending

    def learn(self, batch: SessionBatch, catalogue: CatalogueLike) -> Step:
        """Take sessions in and train every batch that they fill; the rest waits for later sessions.

        Examples are built when their batch is full, with the ids and the catalogue of that moment.

        Raises:
            LearningHalted: After `halt_after` refused batches in a row.
        """
        self.counters.update(self._intake.take(batch))
        trained, moved = 0, False
        losses: Mapping[str, float] = {}
        impressions_ts: list[int] = []
        while (full := self._intake.next_full(self.learning.batch - self._num_replayed())) is not None:
            step = self.train(self._lists(full, catalogue))
            if step.moved and self.learning.reservoir_share:
                self.reservoir.add(full, self.batch_number)
            trained, losses, moved = trained + step.num_trained, step.losses or losses, moved or step.moved
            if step.moved:
                impressions_ts += [one.session.impression_ts for one in full if one.session.revision == 0]
        return Step(trained, losses, moved=moved, impressions_ts=impressions_ts)

    def train(self, lists: TrainingLists) -> Step:
        """Train one batch of lists; `fresh` ones are evaluated before, and their ids are counted.

        Raises:
            LearningHalted: After `halt_after` refused batches in a row.
        """
        examples = lists.examples
        self.batch_number += 1
        if not len(examples):
            return Step(0, {}, moved=False)
        # Lists of other data may be longer, and refused examples leave a smaller batch: those steps are not compiled.
        is_whole = len(examples) == self.learning.batch and examples.cand.place.max() < N_MAX
        arrays = collate(
            examples,
            self.id_maps,
            width=self.config.vector_width,
            history=self.config.history,
            pages=self.config.num_pages,
            schema=self.config.feature_schema,
            fixed=is_whole and self.weights.can_compile,
        )
        arrays = only_type(arrays, self.config.feature_schema, self.learning.item_type)
        page = labels_of_pages(lists, arrays, self.config.feature_schema, self._teachers)
        self.candidates.update(count_candidates(arrays))
        served = served_scores(examples, arrays.cand_mask.shape, self.lineage)
        shown = lists.fresh & ~np.isnan(served).all(axis=1)
        former = None if self.former is None else self.former.scores(examples, shown, served.shape)
        measured = _Measured(lists=lists, served=served, former=former)
        losses, moved = self._step(arrays, page, measured, is_whole=is_whole)
        if moved:
            self.rejected_in_row = 0
            self.counters["trained"] += lists.num_new
            # A few graded lists say less about a version than a batch of the log.
            self.golden = arrays if lists.grade is None else self.golden
        else:
            self.rejected_in_row += 1
            self.counters["quarantined"] += lists.num_new
            if self.rejected_in_row >= self._halt_after:
                raise LearningHalted(f"{self.rejected_in_row} batches in a row had no finite loss or gradient")
        self.observe(examples.take(lists.fresh))
        return Step(lists.num_new if moved else 0, losses, moved=moved)

    def _num_replayed(self) -> int:
        """Return the lists of the next batch that come from the reservoir: none while it holds too few."""
        wanted = self.learning.num_replayed
        return wanted if len(self.reservoir.sessions) >= wanted else 0

    def _lists(self, pending: Sequence[PendingSession], catalogue: CatalogueLike) -> TrainingLists:
        """Return the lists to train; sessions whose features are refused are counted and left out."""
        if self._builder is None or self._builder.catalogue is not catalogue:
            self._builder = ExampleBuilder(catalogue)
        replayed = self.reservoir.draw(self._num_replayed(), self.batch_number)
        lists = TrainingLists.of(self._builder, pending, replayed)
        if lists.num_refused:
            self.counters["rejected_features"] += lists.num_refused
        num_behaviours, num_matching = sum(lists.examples.num_behaviours), sum(lists.examples.num_matching)
        self.behaviours["kept"] += num_matching
        self.behaviours["other_category"] += num_behaviours - num_matching
        return lists

    def _step(
        self, arrays: Batch, page: PageLabels | None, measured: _Measured, *, is_whole: bool
    ) -> tuple[Mapping[str, float], bool]:
        """Measure a batch and take its step; return the losses, and whether they and the gradients were finite."""
        by_label = label_weights(arrays.position, self.learning)
        found = self.weights.gradients(
            arrays, page, by_label, measured.lists.replayed, number=self.batch_number, is_whole=is_whole
        )
        if not found.is_finite:
            return found.losses, False
        self._measure(found.outputs, arrays, measured, by_label)
        labelled = is_label(arrays)
        self.labels.add(np.ones(np.count_nonzero(labelled)) if by_label is None else by_label[labelled])
        self.weights.step(found)
        return found.losses, True

    def _measure(
        self, outputs: Outputs, arrays: Batch, measured: _Measured, by_label: NDArray[np.float32] | None
    ) -> None:
        """Add the lists of a batch, scored and not yet learned, to what is measured."""
        lists = measured.lists
        self.prequential.update(outputs, arrays, lists.fresh, measured.served, measured.former)
        self.modalities.add(outputs, arrays, lists.examples.category, lists.fresh)
        if lists.shuffled.any():
            self.shuffled.update(as_floats(outputs.logit), arrays, lists.shuffled)
        if self.judged is not None and lists.sessions:
            self.judged.update(
                (as_floats(outputs.logit), None if outputs.click_logit is None else as_floats(outputs.click_logit)),
                arrays,
                lists.sessions,
                lists.fresh,
                served=measured.served,
                shuffled=lists.shuffled,
                weight=by_label,
                learns_clicks=self.learns_clicks,
            )

    def observe(self, examples: Examples) -> None:
        """Count the ids of examples; ids that were seen often enough get rows at the next boundary."""
        entity = np.concatenate([examples.entity, examples.hist_entity])
        reads_path = SCHEMAS[self.config.feature_schema].reads_query
        queries = examples.query_entity()[:, : None if reads_path else 1].reshape(-1, 2)
        for kind, (table, id_map) in enumerate(self.id_maps.by_name().items()):
            own = entity[:, kind]
            id_map.observe(Hashes.of(np.concatenate([own, queries]) if table == "category" else own))

    def at_boundary(self, boundary_ts: int, previous_ts: int | None) -> None:
        """Apply the changes of a boundary: admit and evict ids, decay the accumulators, remove old keys."""
        admitted = {table: own.at_boundary(boundary_ts).admitted for table, own in self.id_maps.by_name().items()}
        self.weights.at_boundary(boundary_ts, previous_ts, admitted)
        self._intake.forget(boundary_ts)

    def slots(self, since_s: int | None = None) -> dict[str, NDArray[np.int64]]:
        """Return the slots in use by table, padding and cold row included.

        With `since_s`, a boundary in seconds of watermark time: those whose row or id changed since then.
        """
        found: dict[str, NDArray[np.int64]] = {}
        for table, id_map in self.id_maps.by_name().items():
            used = np.arange(FIRST_SLOT + len(id_map))
            if since_s is not None:
                changed = self.weights.is_changed(table, len(used), since_s)
                changed[id_map.slots_in_use(since_s)] = True
                used = used[changed]
            found[table] = used
        return found

    def changed_since(self, boundary_ts: int) -> dict[str, NDArray[np.int64]]:
        """Return the slots by table whose row or id may have changed since a boundary, in ms of watermark time."""
        since_s = boundary_ts // 1000
        return {
            table: np.flatnonzero(self.weights.is_changed(table, FIRST_SLOT + len(id_map), since_s))
            for table, id_map in self.id_maps.by_name().items()
        }

    def to_files(self, since_s: int | None = None) -> dict[str, Tensors]:
        """Return the tensors of a checkpoint; with `since_s`, of a delta since that boundary."""
        slots = self.slots(since_s)
        files = self.weights.to_files(slots)
        ids = self.id_maps.to_arrays(slots={table: own[own >= FIRST_SLOT] for table, own in slots.items()})
        if since_s is not None:
            files["rows"] = {**files["rows"], **{f"{table}.{PLACES}": own for table, own in slots.items()}}
            ids |= {f"{table}.{PLACES}": own[own >= FIRST_SLOT] - FIRST_SLOT for table, own in slots.items()}
        return {
            **files,
            "ids": ids,
            "golden": {} if self.golden is None else self.golden._asdict(),
            **self._intake.to_files(),
            **(self.reservoir.to_files() if self.learning.reservoir_share else {}),
            **({} if self.judged is None else self.judged.to_files()),
        }

    def state(self, prequential: Prequential) -> LearningState:
        """Return the counters that a checkpoint keeps, with these sums of the prequential evaluation."""
        return LearningState(
            batch_number=self.batch_number,
            num_steps=self.weights.num_steps,
            rejected_in_row=self.rejected_in_row,
            counters=dict(self.counters),
            prequential=dict(prequential.sums),
            shuffled=self.shuffled.sums(),
        )

    def restart_prequential(self) -> None:
        """Reset what is measured between two versions."""
        self.prequential = Prequential()
        self.modalities.restart()

    def warm_start(self, version: LoadedVersion) -> None:
        """Take over the weights and ids of a version of the same model, and pass over the sessions that it knows."""
        self.id_maps = take_over(version, self.params, self.weights.capacities, self.learning)
        self.pass_over(version.manifest.boundary_ts)

    def pass_over(self, until_ts: int) -> None:
        """Train no session with a watermark before this time: the weights that learning started from know it."""
        self._intake.known_until_ts = until_ts

    def leave_out(self, until_ts: int) -> None:
        """Train no session with a watermark before this time: a rollback said that its range is bad."""
        self._intake.skipped_until_ts = until_ts

    def restore(self, files: Mapping[str, Tensors], state: LearningState, boundary_ts: int) -> None:
        """Continue from the files and the state of a checkpoint of this boundary.

        Raises:
            ArtifactError: If weights are missing, surplus, or of another shape or type.
        """
        self.weights.restore(files, state.num_steps, boundary_ts)
        self.id_maps = IdMaps.from_arrays(
            files["ids"],
            self.weights.capacities,
            min_sightings=self.learning.min_sightings,
            half_life_s=self.learning.sighting_half_life_s,
        )
        self._intake.restore(files)
        if self.learning.reservoir_share:
            self.reservoir.restore(files)
        self.counters = Counter(state.counters)
        self.batch_number = state.batch_number
        self.rejected_in_row = state.rejected_in_row
        self.prequential = Prequential(state.prequential)
        self.shuffled = ShuffledEvidence.of(state.shuffled)
        if files["golden"]:
            self.golden = batch_from_columns(files["golden"])
