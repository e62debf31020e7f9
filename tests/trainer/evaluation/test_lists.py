import numpy as np
import pytest

from stream.errors import ConfigError
from tests.trainer.evaluation import logs
from tests.trainer.lists import NOW_TS, served
from trainer.evaluation.lists import (
    Columns,
    LabelledList,
    excluded,
    from_sessions,
    padded,
    shuffled_alone,
    split_by_share,
    split_by_time,
    split_in_order,
    with_label,
)

MINUTE = 60_000


def ids(part: object) -> list[str]:
    assert isinstance(part, list)
    return [each.example.query_id for each in part]


def test_sessions_become_lists_in_the_order_of_time_with_grades_and_visits() -> None:
    sessions = logs.sessions(6)
    sessions[1].carts = np.array([1, 0, 0, 0, 0, 0, 0, 0], "<u2").tobytes()
    lists, rejected = from_sessions(reversed(sessions), logs.KNOWN)
    assert rejected == {}
    assert [each.example.query_id for each in lists] == [session.query_id for session in sessions]
    assert [each.visit for each in lists] == [f"visit-{number // 2}" for number in range(6)]
    assert [each.visit_ts for each in lists] == [NOW_TS + MINUTE * (number // 2 * 2) for number in range(6)]
    for each, session in zip(lists, sessions, strict=True):
        by_item = {
            item: 3.0 if bought else 2.0 if in_cart else 0.0
            for item, bought, in_cart in zip(
                session.item_id, session.column("orders"), session.column("carts"), strict=True
            )
        }
        assert dict(zip(each.example.item_ids, each.grade, strict=True)) == by_item


def test_a_visit_may_begin_before_its_first_list() -> None:
    (session,) = logs.sessions(1)
    lists, _ = from_sessions([session], logs.KNOWN, visit_starts={"visit-0": NOW_TS - MINUTE, "other": 0})
    assert (lists[0].visit_ts, lists[0].shown_ts) == (NOW_TS - MINUTE, NOW_TS)


def test_sessions_of_another_schema_are_counted_by_reason() -> None:
    sessions = logs.sessions(3)
    sessions[1].feature_schema = bytes(32)
    sessions[2] = logs.without_features(sessions[2])
    lists, rejected = from_sessions(sessions, logs.KNOWN)
    assert len(lists) == 2
    assert rejected == {"feature_schema": 1}


def test_labels_beyond_the_length_of_an_example_are_counted() -> None:
    request = served(1, logs.KNOWN, n=40)
    session = request.session(list(range(40)), orders=[35], clicks=[2, 35])
    (each,), _ = from_sessions([session], logs.KNOWN)
    assert len(each.grade) == 30
    assert each.num_lost == 1


def test_whole_visits_go_into_the_part_in_which_they_begin() -> None:
    lists = logs.lists(12)
    # Visit 1 (lists 2 and 3) runs over the first boundary, visit 4 (8 and 9) over the second.
    split = split_by_time(lists, NOW_TS + 3 * MINUTE, NOW_TS + 9 * MINUTE)
    names = [each.example.query_id for each in lists]
    assert ids(split.train) == names[:3]
    assert ids(split.validation) == names[4:9]
    assert ids(split.test) == names[10:]
    assert split.num_over_boundary == 2


def test_a_share_splits_at_the_time_by_which_so_many_lists_were_shown() -> None:
    split = split_by_share(logs.lists(100))
    assert (len(split.train), len(split.validation), len(split.test), split.num_over_boundary) == (60, 20, 20, 0)
    assert max(each.shown_ts for each in split.train) < min(each.shown_ts for each in split.validation)
    assert max(each.shown_ts for each in split.validation) < min(each.shown_ts for each in split.test)


def test_lists_without_times_are_split_in_their_order() -> None:
    lists = logs.lists(10)
    split = split_in_order(lists)
    assert [*split.train, *split.validation, *split.test] == lists
    assert (len(split.train), len(split.validation)) == (6, 2)


def test_empty_parts_and_boundaries_out_of_order_are_refused_by_name() -> None:
    lists = logs.lists(12)
    with pytest.raises(ConfigError, match="part 'test' of 12 lists is empty"):
        split_by_time(lists, NOW_TS + 2 * MINUTE, NOW_TS + 60 * MINUTE)
    with pytest.raises(ConfigError, match="expected a time after"):
        split_by_time(lists, NOW_TS + 2, NOW_TS + 2)
    with pytest.raises(ConfigError, match="2 lists: expected at least 3"):
        split_by_share(lists[:2])
    with pytest.raises(ConfigError, match="part 'train' of 1 lists is empty"):
        split_in_order(lists[:1])


def test_columns_are_padded_and_keep_orders_beside_clicks() -> None:
    bought, clicked = logs.lists(1)[0], logs.lists(1, share_bought=0.0)[0]
    lists = [bought, logs.shortened(clicked, [0, 1, 2])]
    for label, expected in (("order", bought.example.conv), ("click", bought.example.click)):
        columns = Columns.of(lists, label, tie_seed=0)  # type: ignore[arg-type]
        assert columns.mask.sum(axis=1).tolist() == [8, 3]
        assert columns.positive[0].tolist() == (expected > 0).tolist()
        assert columns.orders.sum(axis=1).tolist() == [1, 0]
        assert columns.money[0].sum() == bought.example.money.sum() > 0
        assert not columns.tie[1, 3:].any()


def test_clicks_take_the_place_of_orders_in_training_where_they_are_the_label() -> None:
    lists = logs.lists(3, share_bought=0.0)
    assert not any(each.example.conv.any() for each in with_label(lists, "order"))
    assert all(each.example.conv.sum() == 1 for each in with_label(lists, "click"))


def test_lists_left_out_are_counted_by_their_first_reason() -> None:
    whole = logs.lists(4)
    best = [int(np.argmax(each.example.conv)) for each in whole]

    def other(number: int) -> int:
        return (best[number] + 1) % 8

    lists: list[LabelledList] = [
        whole[0],
        logs.shortened(whole[1], [best[1]]),
        logs.shortened(whole[2], [other(2)]),
        logs.shortened(whole[3], [best[3], best[3]]),
        logs.shortened(whole[3], [best[3], other(3)]),
    ]
    assert excluded(Columns.of(lists, "order", tie_seed=0)) == {
        "no positive item": 1,
        "one item": 1,
        "only positive items": 1,
    }


def test_lists_of_equal_chances_are_shuffled_ones() -> None:
    plain, random, certain = logs.sessions(3)
    certain.propensity = np.ones(8, "<f4").tobytes()
    lists, _ = from_sessions([plain, logs.shuffled(random), certain], logs.KNOWN)
    assert [each.is_shuffled for each in lists] == [False, True, False]
    assert lists[0].propensity is None
    columns = Columns.of(lists, "order", tie_seed=0)
    assert columns.propensity[:, 0].tolist() == [1, 0.125, 1]
    for row, session in enumerate((plain, random, certain)):
        names = [lists[row].example.item_ids[at] for at in np.argsort(columns.shown[row])]
        assert names == session.item_id


def test_a_single_item_is_not_shuffled() -> None:
    session = served(1, logs.KNOWN, n=1).session([0], orders=[0])
    assert not from_sessions([logs.shuffled(session)], logs.KNOWN)[0][0].is_shuffled


def test_shuffled_lists_alone_may_be_tested() -> None:
    sessions = [logs.shuffled(each) if number % 3 == 0 else each for number, each in enumerate(logs.sessions(60))]
    split = split_by_share(from_sessions(sessions, logs.KNOWN)[0])
    found = shuffled_alone(split)
    assert len(split.test) == 12
    assert len(found.test) == 4
    assert found.train == split.train
    with pytest.raises(ConfigError, match="none of 12 test lists was shuffled"):
        shuffled_alone(split_by_share(logs.lists(60)))


def test_padding_keeps_rows_and_fills_with_zero() -> None:
    assert padded([np.array([1.0, 2.0]), np.array([3.0])], (2, 3)).tolist() == [[1, 2, 0], [3, 0, 0]]
