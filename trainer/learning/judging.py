"""The judgement of the present weights on the judged lists, before they are published.

Source: docs/rollout.md, "Gates".
"""

from typing import Final

import numpy as np

from trainer.features import CatalogueLike, ExampleBuilder
from trainer.learning import gate_numbers, list_measures
from trainer.learning.debias import label_weights
from trainer.learning.former import as_floats, score
from trainer.learning.judged_lists import LIST, JudgedLists, measured
from trainer.learning.learner import Learner
from trainer.learning.prequential import served_scores

_AT_ONCE: Final = 128


def numbers(learner: Learner, judged: JudgedLists, catalogue: CatalogueLike, live: int | None) -> dict[str, float]:
    """Return the numbers of gates 3 to 5 on the present weights.

    Args:
        learner: The weights; scoring changes nothing about them.
        judged: The judged lists.
        catalogue: Items as of the boundary.
        live: Number of the live version, by whose lists the weights are judged; None if no version is live.
    """
    wanted = judged.lists["version"] == (0 if live is None else live)
    first = judged.lists.size - len(judged.sessions)
    newest = np.flatnonzero(wanted[first:])
    again = np.zeros(newest.size, LIST)
    correlation, changes = np.full(newest.size, np.nan), np.zeros(newest.size, np.bool_)
    is_scored = np.zeros(newest.size, np.bool_)
    builder = ExampleBuilder(catalogue)
    for start in range(0, newest.size, _AT_ONCE):
        rows = newest[start : start + _AT_ONCE]
        examples, refused = builder.from_sessions([judged.sessions[row] for row in rows])
        # The catalogue may have changed since the list was learned.
        places = start + np.array([place for place in range(rows.size) if place not in refused], np.int64)
        if not places.size:
            continue
        is_scored[places] = True
        batch, outputs = score(
            learner.model, learner.config, learner.params, learner.id_maps, examples=examples, device=learner.device
        )
        own = as_floats(outputs.logit)
        again[places] = measured(
            own,
            None if outputs.click_logit is None else as_floats(outputs.click_logit),
            batch,
            label_weights(batch.position, learner.learning),
            learns_clicks=learner.learns_clicks,
        )
        if live is not None:
            served = served_scores(examples, batch.cand_mask.shape, learner.lineage)
            correlation[places], changes[places] = list_measures.order_changes(own, served, batch.cand_mask)
    before = judged.lists[first:][newest]
    compared = gate_numbers.comparison(
        judged.lists[wanted], before[is_scored], again[is_scored], has_live=live is not None
    )
    return compared | gate_numbers.shadow(correlation, changes)
