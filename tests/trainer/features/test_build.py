"""The feature schema, the examples of both paths, and their batches."""

import dataclasses
from collections.abc import Set

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from stream.errors import SchemaError
from stream.schemas.events import History
from stream.schemas.session import Session
from tests.trainer.features.plain_examples import plain_example
from tests.trainer.lists import (
    WIDTH,
    MemoryCatalogue,
    batch_of,
    catalogue,
    id_maps,
    item,
    request,
    served,
)
from trainer.features import (
    HISTORY_MAX,
    ITEM_COLUMNS,
    N_MAX,
    NUM_COLUMNS,
    SCHEMAS,
    Batch,
    ExampleBuilder,
    SessionExample,
    collate,
    context_f16,
    example_from_request,
    example_from_session,
    item_f16,
)
from trainer.features.hash_index import hash_pairs

KNOWN = catalogue()


def column(example: SessionExample, name: str) -> list[float]:
    values: list[float] = example.num[:, NUM_COLUMNS.index(name)].tolist()
    return values


@pytest.mark.parametrize("seed", range(8))
def test_request_and_session_give_the_same_arrays(seed: int) -> None:
    served_list = served(seed, KNOWN)
    shown = np.random.default_rng(seed).permutation(len(served_list.item_ids)).tolist()
    session = served_list.session(shown, orders=[0], clicks=[0, 1], gross_minor=700)
    of_session = example_from_session(session, KNOWN)
    of_request = served_list.example()
    labels = {"click", "conv", "money", "index", "session_id", "position"}
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
    assert of_session.position.tolist() == [shown.index(row) + 1 for row in range(min(len(shown), N_MAX))]
    assert of_request.position.tolist() == [0] * len(of_request.item_ids)
    assert [shown[row] for row in of_session.index] == list(range(min(len(shown), N_MAX)))


def of_schema_1(session: Session) -> Session:
    """The session as schema 1 logged it: its context ended with the client."""
    context = session.column("context_f16")[: len(SCHEMAS[1].context)]
    return structs.replace(
        session, feature_schema=bytes.fromhex(SCHEMAS[1].sha256), context_f16=context.tobytes(), item_type=[]
    )


def test_a_session_of_schema_1_is_read_with_the_declared_defaults() -> None:
    session = served(7, KNOWN).session(range(len(served(7, KNOWN).item_ids)), orders=[0])
    new, old = example_from_session(session, KNOWN), example_from_session(of_schema_1(session), KNOWN)
    assert new.token.any()
    assert new.query_vector.size == WIDTH
    assert not old.token.any()
    assert old.query_vector.size == 0
    first = NUM_COLUMNS.index("type_sponsored")
    assert new.num[:, first : first + 4].sum() > 0
    assert not old.num[:, first : first + 4].any()
    rest = [column for column in range(len(NUM_COLUMNS)) if not first <= column < first + 4]
    assert np.array_equal(new.num[:, rest], old.num[:, rest])
    known = {"token", "query_vector", "num"}
    for field in dataclasses.fields(SessionExample):
        if field.name not in known:
            assert np.array_equal(getattr(new, field.name), getattr(old, field.name)), field.name
    longer = of_schema_1(session)
    longer.context_f16 = session.context_f16
    with pytest.raises(SchemaError, match=r"feature schema 1: \d+ item and 40 context values, expected \d+ and 16"):
        example_from_session(longer, KNOWN)


def test_the_path_of_a_query_without_category_is_that_of_its_candidates() -> None:
    assert request([item("a"), item("b")]).path == ("root", "c")
    assert request([item("a"), item("b")], category="Shoes > Men/boots").path == ("Shoes", "Men", "boots")
    assert request([item("a")], category="a > b > c > d > e").path == ("b", "c", "d", "e")
    assert request([item("a", category="")], category=None).path == ()


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


def history_of(example: SessionExample) -> list[list[int]]:
    """The hashes of the items of a history."""
    hashes: list[list[int]] = example.hist_entity[:, 0].tolist()
    return hashes


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
    assert history_of(example) == hash_pairs(["i0", "i3", "gone"]).tolist()
    assert example.hist_type.tolist() == [4, 1, 2]
    assert example.hist_num == pytest.approx(np.log1p(np.array([[1, 2], [1, 2], [1, 10]])))
    assert (example.num_matching, example.num_behaviours) == (3, 6)


def test_an_unknown_category_keeps_all_behaviours() -> None:
    example = with_history("c9")
    assert len(example.hist_entity) == 6
    assert (example.num_matching, example.num_behaviours) == (6, 6)


SHOES = ("Shoes", "Men", "boots")


def with_paths(category: str | None, *, logged: str = "boots", gone: bool = False) -> SessionExample:
    """A list of shoes and shirts, with boots, a shirt and an item of the other shoes in the history."""
    paths = {"boot": SHOES, "sandal": ("Shoes", "Women", "sandals"), "shirt": ("Shirts", "Men", "tees")}
    found = [structs.replace(item(name), category_ids=list(path)) for name, path in paths.items()]
    history = History(
        object_id=["old-boot" if gone else "boot", "shirt", "sandal"],
        action=["click"] * 3,
        age_s=[60, 70, 80],
        category=[logged, "tees", "sandals"],
    )
    return example_from_request(
        query_id="q",
        item_ids=list(paths),
        items=item_f16(found),
        context=context_f16(event_ts=0),
        history=history,
        category=category,
        catalogue=MemoryCatalogue(dict(zip(paths, found, strict=True))),
    )


@pytest.mark.parametrize(
    ("category", "kept"),
    [
        ("boots", ["boot"]),
        ("Shoes", ["boot", "sandal"]),
        ("Shoes > Men", ["boot"]),
        ("Shoes/Men", ["boot"]),
        ("Shoes > Men > boots", ["boot"]),
        ("Men", ["boot", "shirt"]),
        ("Men > Shoes", ["boot", "shirt", "sandal"]),
        ("garden", ["boot", "shirt", "sandal"]),
    ],
)
@pytest.mark.parametrize("logged", ["boots", "", "Shoes > Men > boots"])
def test_a_parent_node_keeps_its_children(category: str, kept: list[str], logged: str) -> None:
    example = with_paths(category, logged=logged)
    assert history_of(example) == hash_pairs(kept).tolist()
    assert column(example, "category_match")[example.item_ids.index("boot")] == float(
        category not in {"garden", "Men > Shoes"}
    )


def test_a_behaviour_whose_item_left_the_catalogue_has_the_path_of_its_leaf() -> None:
    assert history_of(with_paths("Shoes", gone=True)) == hash_pairs(["old-boot", "sandal"]).tolist()


def test_a_known_category_without_behaviours_keeps_none() -> None:
    served_list = with_paths("Shirts")
    assert history_of(served_list) == hash_pairs(["shirt"]).tolist()
    only_candidates = request([item("a", category="x"), item("b", category="y")], category="x")
    assert (only_candidates.num_matching, only_candidates.num_behaviours) == (0, 0)


def test_history_counts_and_touches_see_all_behaviours() -> None:
    example = with_history("c1")
    touched = served(1, KNOWN, n=6, depth=0).item_ids[2]
    assert history_of(example) == hash_pairs([touched, touched, "i1"]).tolist()
    assert example.hist_num[:, 0] == pytest.approx(np.log1p([2, 2, 1]))
    row = example.item_ids.index(touched)
    assert column(example, "touch_count")[row] == pytest.approx(np.log1p(2))
    assert column(example, "touch_recency")[row] == pytest.approx(0.5)
    assert column(example, "touch_last")[row] == column(example, "touch_bought")[row] == 1
    assert sum(column(example, "touch_last")) == 1


def test_a_request_without_candidates_is_refused() -> None:
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


def assert_equal(ours: SessionExample, theirs: SessionExample) -> None:
    for field in dataclasses.fields(SessionExample):
        left, right = getattr(ours, field.name), getattr(theirs, field.name)
        if not isinstance(left, np.ndarray):
            assert left == right, field.name
        # A list without vectors has no width.
        elif right.ndim < 2 or right.size:
            assert left.dtype == right.dtype, field.name
            assert np.array_equal(left, right), field.name


PECULIARITIES = (
    *("a category", "equal ranks", "an unknown item", "an item twice", "behaviours of its own", "parts"),
    *("a score", "schema 1", "no vector of the query", "a later revision"),
)


def peculiar(seed: int, traits: Set[str], *, n: int | None = None, depth: int | None = None) -> Session:
    """A session with some of the peculiarities."""
    served_list = served(seed, KNOWN, n=n, depth=depth)
    rng = np.random.default_rng([9, seed])
    shown = rng.permutation(len(served_list.item_ids)).tolist()
    session = served_list.session(shown, orders=shown[:1], clicks=shown[:3], gross_minor=1_999)
    if "a category" in traits:
        session.query_category = [None, "", "c1", "root", "garden", "root/c2"][seed % 6]
    if "equal ranks" in traits:
        session.rank_in = (session.column("rank_in") // 2).tobytes()
    if "an unknown item" in traits:
        session.item_id[0] = "gone"
    if "an item twice" in traits:
        session.item_id[-1] = session.item_id[session.n // 2]
    if "behaviours of its own" in traits and session.hist_item:
        session.hist_item[0] = "gone"
        session.hist_item[-1] = session.item_id[0]
        session.hist_category[:2] = ["", "root > c1"][: len(session.hist_category)]
    if "an unknown item" in traits and session.hist_pages:
        session.hist_pages[0][-1] = "gone"
    if "parts" in traits:
        session.position = (3 * np.arange(session.n) + seed % 2).astype("<u4").tobytes()
    if "a score" in traits:
        session.lineage, session.version = "armmt", "3"
        session.score = rng.normal(size=session.n).astype("<f4").tobytes()
    if "a later revision" in traits:
        session.revision, session.reason = 1, ["conversion", "refund"][seed % 2]
        session.orders = np.ones(session.n, "<u2").tobytes()
        session.changed = np.array([session.n - 1], "<u2").tobytes()
    if "no vector of the query" in traits:
        session.context_f16 = session.context_f16[: 2 * len(SCHEMAS[2].context)]
    return of_schema_1(session) if "schema 1" in traits else session


def assert_built_as_by_plain_loops(every: list[Session]) -> list[SessionExample]:
    """Build sessions at once, by a new builder and by one that knows the items, and return the expected examples."""
    expected = [plain_example(session, KNOWN) for session in every]
    builder = ExampleBuilder(KNOWN)
    for _ in range(2):
        examples, refused = builder.from_sessions(every)
        assert not refused
        for ours, theirs in zip(examples.split(), expected, strict=True):
            assert_equal(ours, theirs)
    return expected


@pytest.mark.no_cover
@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 1_000),
            st.sets(st.sampled_from(PECULIARITIES)),
            st.sampled_from([1, 2, 7, N_MAX, N_MAX + 9]),
            st.sampled_from([0, 1, 8, HISTORY_MAX + 9]),
        ),
        max_size=5,
    )
)
def test_any_lists_equal_those_of_plain_loops(drawn: list[tuple[int, set[str], int, int]]) -> None:
    assert_built_as_by_plain_loops([peculiar(seed, traits, n=n, depth=depth) for seed, traits, n, depth in drawn])


def test_batches_of_lists_built_together_equal_those_of_plain_loops() -> None:
    every = [
        peculiar(seed, {trait for row, trait in enumerate(PECULIARITIES) if seed >> row & 1})
        for seed in range(1, 2 ** len(PECULIARITIES), 17)
    ]
    expected = assert_built_as_by_plain_loops(every)
    together, _ = ExampleBuilder(KNOWN).from_sessions(every)
    plain = batch_of(expected)
    for batch in (
        batch_of([example_from_session(session, KNOWN) for session in every]),
        collate(together, id_maps(), width=WIDTH, history=10),
    ):
        for name in Batch._fields:
            assert np.array_equal(getattr(batch, name), getattr(plain, name)), name


def test_a_bad_session_leaves_the_others_of_its_batch_alone() -> None:
    every = [peculiar(seed, set()) for seed in range(5)]
    every[1].feature_schema = bytes(32)
    every[3].item_f16 = np.full(every[3].n * len(ITEM_COLUMNS), np.inf, "<f2").tobytes()
    examples, refused = ExampleBuilder(KNOWN).from_sessions(every)
    assert {number: error.reason for number, error in refused.items()} == {
        1: "feature_schema",
        3: "feature_not_finite",
    }
    for number, ours in zip((0, 2, 4), examples.split(), strict=True):
        assert_equal(ours, plain_example(every[number], KNOWN))
    none, refused = ExampleBuilder(KNOWN).from_sessions([every[1]])
    assert (len(none), none.split(), list(refused)) == (0, [], [0])
    assert len(ExampleBuilder(KNOWN).from_sessions([])[0]) == 0
