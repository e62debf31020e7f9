"""The feature schema, the examples of both paths, and their batches."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import stats

from stream.errors import SchemaError
from stream.schemas.events import Item
from tests.trainer.lists import (
    NOW_TS,
    WIDTH,
    HashLookups,
    MemoryCatalogue,
    batch_of,
    catalogue,
    id_maps,
    labelled,
    served,
)
from trainer.features import (
    CONTEXT_COLUMNS,
    FEATURE_SCHEMA,
    ITEM_COLUMNS,
    N_MAX,
    NUM_COLUMNS,
    SessionExample,
    collate,
    context_f16,
    example_from_request,
    example_from_session,
    final_labels,
    item_f16,
    stream_labels,
)
from trainer.features.relative import average_ranks, neighbour_prices, relative

KNOWN = catalogue()


def column(example: SessionExample, name: str) -> list[float]:
    values: list[float] = example.num[:, NUM_COLUMNS.index(name)].tolist()
    return values


def item(item_id: str, price_minor: int = 1_000, category: str = "c", **attributes: object) -> Item:
    return Item(
        item_id=item_id,
        title=item_id,
        category_ids=["root", category],
        price_minor=price_minor,
        currency="EUR",
        updated_ts=NOW_TS,
        attributes=attributes or None,
    )


def request(
    items: Sequence[Item],
    rank_in: Sequence[int] | None = None,
    category: str | None = None,
    prices: Sequence[int] | None = None,
) -> SessionExample:
    return example_from_request(
        query_id="q",
        item_ids=[one.item_id for one in items],
        items=item_f16(items, prices),
        context=context_f16(event_ts=NOW_TS),
        history=None,
        category=category,
        catalogue=MemoryCatalogue({one.item_id: one for one in items}),
        rank_in=rank_in,
    )


def test_schema_is_pinned() -> None:
    # A change of columns or scaling must change this number, and with it every lineage.
    assert FEATURE_SCHEMA == "d6895f4ce90acbac83c668b9c70529c4273fa87b2b405321184a128b3a51e223"


def test_item_columns_by_hand() -> None:
    known = item("a", 1_999, rating=4.5, promotion=True)
    known.sales_28d = 7
    known.image_vec = b"\0\0"
    rows = item_f16([known, None, item("b", 0, rating="good")], [999, None, None]).astype(np.float64)
    expected = [
        [np.log1p(9.99), np.log1p(7), 4.5, 1, 1, 1, 1, 0],
        [0] * 8,
        [0, 0, 0, 0, 1, 0, 0, 0],
    ]
    assert rows == pytest.approx(np.array(expected), rel=1e-3)
    assert rows.shape == (3, len(ITEM_COLUMNS))


@given(
    st.lists(
        st.one_of(
            st.none(), st.floats(allow_nan=True, allow_infinity=True), st.integers(-(10**400), 10**400), st.text()
        ),
        min_size=1,
        max_size=5,
    ),
    st.integers(0, 2**53),
)
def test_item_columns_are_finite_for_any_attribute(ratings: list[object], price_minor: int) -> None:
    items = [item(f"i{row}", price_minor, rating=rating, promotion=rating) for row, rating in enumerate(ratings)]
    assert np.isfinite(item_f16(items)).all()


def test_context_by_hand() -> None:
    six_utc = context_f16(event_ts=6 * 3_600_000, page=2, age_band="25-34", gender="female").astype(np.float64)
    named = dict(zip(CONTEXT_COLUMNS, six_utc.tolist(), strict=True))
    assert named["hour_sin"] == pytest.approx(1)
    assert named["hour_cos"] == pytest.approx(0, abs=1e-6)
    assert named["page"] == pytest.approx(np.log(3), rel=1e-3)
    assert [name for name, value in named.items() if value == 1 and name.startswith(("age", "gender"))] == [
        "age_25-34",
        "gender_female",
    ]
    assert named["has_total_hits"] == 0
    assert (context_f16(event_ts=0, age_band="65+") == context_f16(event_ts=0, age_band="55+")).all()
    stranger = dict(zip(CONTEXT_COLUMNS, context_f16(event_ts=0, age_band="?", total_hits=9).tolist(), strict=True))
    assert stranger["age_unknown"] == stranger["gender_unknown"] == stranger["has_total_hits"] == 1


@given(
    hnp.arrays(
        np.float32, st.tuples(st.integers(1, 12), st.integers(1, 3)), elements=st.sampled_from([0.0, 1.0, 2.5, -3.0])
    )
)
def test_ranks_are_average_ranks(values: NDArray[np.float32]) -> None:
    assert average_ranks(values) == pytest.approx(stats.rankdata(values, method="average", axis=0))


@given(
    hnp.arrays(np.float32, (9, len(ITEM_COLUMNS)), elements=st.floats(0, 10, width=16)), st.permutations(list(range(9)))
)
def test_relative_columns_do_not_know_the_order_of_rows(values: NDArray[np.float32], rows: list[int]) -> None:
    assert (relative(values[rows]) == relative(values)[rows]).all()


def test_relative_columns_by_hand() -> None:
    values = np.zeros((3, len(ITEM_COLUMNS)), dtype=np.float32)
    values[:, 0] = [1, 3, 2]
    columns = relative(values)
    assert columns[:, :3] == pytest.approx(np.array([[0, 1 / 3, -1], [1, 1, 1], [0.5, 2 / 3, 0]]))
    assert columns[:, 3:6] == pytest.approx(np.array([[0, 2 / 3, 0]] * 3))
    assert neighbour_prices(values).tolist() == [[0, -2], [2, 1], [-1, 0]]


@pytest.mark.parametrize("seed", range(8))
def test_request_and_session_give_the_same_arrays(seed: int) -> None:
    served_list = served(seed, KNOWN)
    shown = np.random.default_rng(seed).permutation(len(served_list.item_ids)).tolist()
    session = served_list.session(shown, orders=[0], clicks=[0, 1], gross_minor=700)
    of_session = example_from_session(session, KNOWN)
    of_request = served_list.example()
    labels = {"click", "conv", "money", "index", "session_id"}
    for field in dataclasses.fields(SessionExample):
        if field.name in labels:
            continue
        ours, theirs = getattr(of_request, field.name), getattr(of_session, field.name)
        if isinstance(ours, np.ndarray):
            assert ours.dtype == theirs.dtype, field.name
            assert np.array_equal(ours, theirs), field.name
        else:
            assert ours == theirs, field.name
    assert of_session.click.tolist() == [1, 1] + [0] * (len(shown) - 2)
    assert of_session.conv.tolist() == [1] + [0] * (len(shown) - 1)
    assert of_session.money.tolist() == [700] + [0] * (len(shown) - 1)
    assert [shown[row] for row in of_session.index] == list(range(min(len(shown), N_MAX)))


def test_rows_stand_in_order_of_rank_and_ties_by_id() -> None:
    items = [item("b"), item("a"), item("c")]
    assert request(items, [2, 2, 1]).item_ids == ["c", "a", "b"]
    assert request(items, [2, 2, 1]).index.tolist() == [2, 1, 0]


def test_only_the_first_thirty_ranks_are_scored() -> None:
    items = [item(f"i{row}", 100 + row) for row in range(40)]
    example = request(items, list(range(40, 0, -1)))
    assert example.item_ids == [f"i{row}" for row in range(39, 9, -1)]
    # The list of the relative columns is the scored one.
    assert max(column(example, "price_rank")) == 1


def test_prices_as_shown_replace_the_catalogue() -> None:
    example = request([item("a", 1), item("b", 1)], prices=[500, 100])
    assert column(example, "price_rank") == [1, 0.5]


def test_query_category_falls_back_to_the_commonest_of_the_top() -> None:
    items = [item(f"i{row}", category="x" if row in {0, 1} else "y") for row in range(4)] + [
        item(f"j{row}", category="x") for row in range(20)
    ]
    assert request(items[:3]).category == "x"
    assert request(items[:4]).category == "x"
    assert request([items[0], items[2], items[3]]).category == "y"
    assert request(items[:3], category="z").category == "z"
    assert column(request(items[:3], category="y"), "category_match") == [0, 0, 1]


def with_history(category: str | None, known: MemoryCatalogue = KNOWN) -> SessionExample:
    served_list = served(1, known, n=6, depth=0)
    history = served_list.history
    history.object_id = [served_list.item_ids[2], "i0", "i3", served_list.item_ids[2], "gone", "i1"]
    history.action = ["click", "purchase", "view", "purchase", "click", "add_to_cart"]
    history.age_s = [3_600, 7_200, 7_200, 36_000, 36_000, 72_000]
    history.category = ["c1", "c0", "", "c1", "c0", "c1"]
    return dataclasses.replace(served_list, category=category).example()


def test_history_keeps_the_behaviours_of_the_query_category() -> None:
    example = with_history("c0")
    # i3 was logged without a category: the catalogue knows that it is c0.
    assert example.hist_entity[0] == ["i0", "i3", "gone"]
    assert example.hist_type.tolist() == [4, 1, 2]
    assert example.hist_num == pytest.approx(np.log1p(np.array([[1, 2], [1, 2], [1, 10]])))
    assert with_history("c9").hist_entity[0] == []


def test_history_counts_and_touches_see_all_behaviours() -> None:
    example = with_history("c1")
    touched = served(1, KNOWN, n=6, depth=0).item_ids[2]
    assert example.hist_entity[0] == [touched, touched, "i1"]
    assert example.hist_num[:, 0] == pytest.approx(np.log1p([2, 2, 1]))
    row = example.item_ids.index(touched)
    assert column(example, "touch_count")[row] == pytest.approx(np.log1p(2))
    assert column(example, "touch_recency")[row] == pytest.approx(0.5)
    assert column(example, "touch_last")[row] == column(example, "touch_bought")[row] == 1
    assert sum(column(example, "touch_last")) == 1


def test_features_of_another_schema_or_shape_are_refused() -> None:
    session = served(1, KNOWN, n=5).session(range(5))
    session.feature_schema = b"\1" * 32
    with pytest.raises(SchemaError, match="feature_schema"):
        example_from_session(session, KNOWN)
    session = served(1, KNOWN, n=5).session(range(5))
    session.item_f16 = session.item_f16[:-2]
    with pytest.raises(SchemaError, match="feature_shape"):
        example_from_session(session, KNOWN)
    session = served(1, KNOWN, n=5).session(range(5))
    session.item_f16 = np.full(5 * len(ITEM_COLUMNS), np.nan, "<f2").tobytes()
    with pytest.raises(SchemaError, match="feature_not_finite"):
        example_from_session(session, KNOWN)
    with pytest.raises(SchemaError, match="empty_list"):
        request([])


def test_a_list_logged_without_features_keeps_only_its_prices() -> None:
    session = served(1, KNOWN, n=5).session(range(5))
    logged = example_from_session(session, KNOWN)
    session.feature_schema = session.item_f16 = session.context_f16 = b""
    bare = example_from_session(session, KNOWN)
    assert column(bare, "price") == column(logged, "price")
    assert column(bare, "sales") == [0] * 5
    assert column(bare, "known") == [0] * 5
    assert bare.img_mask.tolist() == logged.img_mask.tolist()


def test_a_vector_that_came_after_serving_counts_as_missing() -> None:
    served_list = served(3, KNOWN, n=10)
    served_list.items[:, ITEM_COLUMNS.index("has_image")] = 0
    example = served_list.example()
    assert not example.img_mask.any()
    assert example.txt_mask.any()


def test_revisions_train_only_what_is_new() -> None:
    served_list = served(2, KNOWN, n=6)
    first = stream_labels(served_list.session(range(6), orders=[1], clicks=[1, 2], gross_minor=500))
    assert first.conv.tolist() == [0, 1, 0, 0, 0, 0]
    assert first.click.tolist() == [0, 1, 1, 0, 0, 0]
    assert (first.money.sum(), first.click_weight) == (500, 1)
    session = served_list.session(
        range(6), orders=[1, 3], clicks=[1, 2], revision=1, reason="conversion", changed=[3], gross_minor=500
    )
    later = stream_labels(session)
    assert later.conv.tolist() == [0, 0, 0, 1, 0, 0]
    assert (later.money.sum(), later.click_weight) == (500, 0)
    refund = stream_labels(
        served_list.session(range(6), orders=[1, 3], revision=2, reason="refund", changed=[1], gross_minor=500)
    )
    assert not refund.conv.any()
    assert final_labels(session).conv.tolist() == [0, 1, 0, 1, 0, 0]


def test_collate_matches_a_loop_over_rows() -> None:
    examples = [labelled(seed, KNOWN) for seed in range(7)]
    batch = batch_of(examples)
    maps = id_maps()
    for row, example in enumerate(examples):
        n, depth = len(example.item_ids), min(len(example.hist_type), 10)
        assert batch.cand_mask[row].tolist() == [True] * n + [False] * (batch.cand_mask.shape[1] - n)
        assert batch.hist_mask[row].sum() == depth
        for kind, table in enumerate((maps.item, maps.shop, maps.brand, maps.category)):
            keys = example.entity[kind]
            expected = np.where([key == "" for key in keys], 0, table.lookup(keys))
            assert batch.cand_id[row, :n, kind].tolist() == expected.tolist()
            keys = example.hist_entity[kind][:depth]
            expected = np.where([key == "" for key in keys], 0, table.lookup(keys))
            assert batch.hist_id[row, :depth, kind].tolist() == expected.tolist()
        for field, source in (
            (batch.cand_num, example.num),
            (batch.cand_rank, example.rank),
            (batch.cand_img, example.img),
            (batch.cand_img_mask, example.img_mask),
            (batch.cand_txt, example.txt),
            (batch.cand_txt_mask, example.txt_mask),
            (batch.click, example.click),
            (batch.conv, example.conv),
            (batch.money, example.money),
        ):
            assert np.array_equal(field[row, :n], source)
            assert not field[row, n:].any()
        for behaviours, logged in (
            (batch.hist_type, example.hist_type),
            (batch.hist_num, example.hist_num),
            (batch.hist_img, example.hist_img if depth else np.zeros((0, WIDTH), np.float16)),
            (batch.hist_img_mask, example.hist_img_mask),
            (batch.hist_txt, example.hist_txt if depth else np.zeros((0, WIDTH), np.float16)),
            (batch.hist_txt_mask, example.hist_txt_mask),
        ):
            assert np.array_equal(behaviours[row, :depth], logged[:depth])
            assert not behaviours[row, depth:].any()
        assert batch.query_category[row] == maps.category.lookup([example.category])[0]


def test_collate_pads_to_the_limits_when_fixed() -> None:
    batch = collate([labelled(1, KNOWN, n=3, depth=0)], id_maps(), width=WIDTH, history=10, fixed=True)
    assert batch.cand_num.shape == (1, N_MAX, len(NUM_COLUMNS))
    assert batch.hist_num.shape == (1, 10, 2)
    assert batch.cand_mask.sum() == 3


def test_vectors_of_another_width_count_as_missing() -> None:
    batch = collate([labelled(1, KNOWN)], id_maps(), width=WIDTH + 1)
    assert batch.cand_img.shape[2] == WIDTH + 1
    assert not batch.cand_img_mask.any()
    assert not batch.hist_txt_mask.any()


def test_an_id_that_is_not_there_is_no_lookup() -> None:
    class Strict:
        def lookup(self, keys: Sequence[str]) -> NDArray[np.int64]:
            return np.ones(len(keys), np.int64)

    strict = Strict()
    batch = collate([request([item("a", category="")])], HashLookups(strict, strict, strict, strict), width=4)
    assert batch.cand_id.tolist() == [[[1, 0, 0, 0]]]
    assert batch.query_category.tolist() == [0]


def test_collate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no example"):
        batch_of([])
