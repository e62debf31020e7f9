import math

import msgspec
import numpy as np
import pytest
import torch

from stream.replicas.catalogue import Catalogue
from stream.schemas.session import Session
from tests.trainer.harness import LINEAGE
from tests.trainer.session_log import START_TS, make_items, make_session
from trainer.breakers.bands import Count
from trainer.breakers.measures import features, labels, measure
from trainer.features.schema import CONTEXT_COLUMNS, ITEM_COLUMNS
from trainer.learning.learner import Learner


def sessions(count: int = 8, revision: int = 0) -> list[Session]:
    rng = np.random.default_rng(3)
    return [
        make_session(number, rng, watermark_ts=START_TS, revision=revision, orders=[0], changed=[0])
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    found = Catalogue()
    for item in make_items():
        found.put(item)
    return found


def test_rates_count_items_and_corrections_bring_purchases_only() -> None:
    fresh, late = sessions(), sessions(3, revision=1)
    found = labels([*fresh, *late], fresh)
    items = sum(each.n for each in fresh)
    clicked = sum(int(np.count_nonzero(each.column("clicks") + each.column("orders"))) for each in fresh)
    assert found == {"click_rate": Count(clicked, items, 8), "order_rate": Count(11, items, 8)}


def with_column(one: Session, name: str, value: float) -> Session:
    if name in ITEM_COLUMNS:
        rows = one.column("item_f16").reshape(one.n, -1).copy()
        rows[:, ITEM_COLUMNS.index(name)] = value
        return msgspec.structs.replace(one, item_f16=rows.tobytes())
    context = one.column("context_f16").copy()
    context[CONTEXT_COLUMNS.index(name)] = value
    return msgspec.structs.replace(one, context_f16=context.tobytes())


@pytest.mark.parametrize(
    ("column", "absent", "present", "measure_name"),
    [
        ("price", 0, 1, "price"),
        ("has_image", 0, 1, "has_image"),
        ("age_unknown", 1, 0, "age"),
        ("gender_unknown", 1, 0, "gender"),
        ("has_total_hits", 0, 1, "total_hits"),
        ("token_1", 0, 5, "tokens"),
    ],
)
def test_a_feature_is_absent_where_its_column_has_the_default(
    catalogue: Catalogue, column: str, absent: float, present: float, measure_name: str
) -> None:
    own = [with_column(each, column, absent if number < 2 else present) for number, each in enumerate(sessions())]
    found = features(own, catalogue)[f"null_{measure_name}"]
    lacking = sum(each.n for each in own[:2]) if column in ITEM_COLUMNS else 2
    assert found.total == lacking
    assert found.lists == 8


def test_history_and_vector_of_the_query_may_be_absent(catalogue: Catalogue) -> None:
    own = sessions()
    own[0] = msgspec.structs.replace(own[0], hist_item=[], hist_category=[], hist_action=b"", hist_age_s=b"")
    found = features(own, catalogue)
    assert found["null_history"] == Count(1, 8, 8)
    # Every second session of the log has a vector.
    assert found["null_query_vector"] == Count(4, 8, 8)


def test_lists_that_cannot_be_read_are_counted_by_themselves(catalogue: Catalogue) -> None:
    bad = [with_column(each, "price", math.nan) for each in sessions(2)]
    found = features([*bad, *sessions(3)], catalogue)
    assert found["null_readable"] == Count(2, 5, 5)
    assert found["null_price"].lists == 3
    assert features(bad, catalogue) == {"null_readable": Count(2, 2, 2)}


@pytest.fixture
def learner() -> Learner:
    return Learner("prm", LINEAGE.config, LINEAGE.learning, device=torch.device("cpu"))


def test_the_loss_is_that_of_lists_with_a_label_and_measuring_moves_no_weight(
    learner: Learner, catalogue: Catalogue
) -> None:
    before = {name: own.detach().clone() for name, own in learner.params.items()}
    found = measure(learner, sessions(100), catalogue)["loss"]
    assert 0 < found.lists <= 32
    # Fresh weights order by chance: a list of 3 to 8 items with one purchase has a loss near log n.
    assert 1.0 < found.mean < 2.5
    assert all(torch.equal(before[name], own) for name, own in learner.params.items())


def test_weights_that_are_no_numbers_have_no_loss(learner: Learner, catalogue: Catalogue) -> None:
    with torch.no_grad():
        for name, own in learner.params.items():
            if not name.startswith("rows."):
                own.fill_(math.nan)
    assert "loss" not in measure(learner, sessions(), catalogue), "the learner itself refuses the batches"


def test_a_window_of_corrections_says_nothing(learner: Learner, catalogue: Catalogue) -> None:
    assert measure(learner, sessions(3, revision=1), catalogue) == {}


def test_a_window_without_a_label_or_a_readable_list_has_no_loss(learner: Learner, catalogue: Catalogue) -> None:
    silent = [msgspec.structs.replace(each, clicks=bytes(2 * each.n), orders=bytes(2 * each.n)) for each in sessions()]
    assert "loss" not in measure(learner, silent, catalogue)
    assert "loss" not in measure(learner, [with_column(each, "price", math.nan) for each in sessions()], catalogue)
