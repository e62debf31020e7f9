import pytest
from msgspec.structs import replace

from serving.ranking.assignment import ClientAssignment
from serving.ranking.impression import impression
from serving.ranking.rank import by_score, in_incoming_order
from serving.ranking.versions import ServedVersion
from stream.schemas.events import Slice
from tests.serving.world import START_MS, StubScorer, context, request

VERSION = ServedVersion(lineage="base", number=4, artifact="a" * 64, scorer=StubScorer())


def test_the_list_is_logged_in_shown_order_with_prices_of_the_incoming_rows() -> None:
    asked = request(num_candidates=3, session_id="visit-1", user_id="u-1")
    scores = [0.1, 0.9, 0.5]
    found = impression(
        context(asked, version=VERSION, scores=scores, items=by_score(asked, "q-1", scores), price_minor=[10, 20, 30]),
        {"host": "h"},
    )
    assert found.items.object_id == ["i-1", "i-2", "i-0"]
    assert found.items.price_minor == [20, 30, 10]
    assert found.items.score == [0.9, 0.5, 0.1]
    assert found.items.propensity == [1.0, 1.0, 1.0]
    assert (found.event_ts, found.session_id, found.user_id, found.source) == (START_MS, "visit-1", "u-1", "serving")
    assert (found.version, found.attributes) == ("4", {"host": "h"})


@pytest.mark.parametrize("part", ["canary", "control", None])
def test_the_slice_of_the_client_is_logged(part: Slice | None) -> None:
    asked = request(num_candidates=1)
    found = impression(context(asked, slice=part, items=in_incoming_order(asked), price_minor=[1]), {})
    assert found.slice == part


@pytest.mark.parametrize(
    ("types", "expected"),
    [(["product", "sponsored", "video"], ["sponsored", "video", "product"]), ([], None)],
)
def test_the_types_of_the_candidates_are_logged_in_shown_order(types: list[str], expected: list[str] | None) -> None:
    asked = request(num_candidates=3)
    items = by_score(asked, "q-1", [0.1, 0.9, 0.5])
    found = impression(context(asked, items=items, price_minor=[1] * 3, item_types=types), {})
    assert found.items.type == expected


def test_each_item_is_logged_with_the_chance_of_its_position() -> None:
    asked = request(num_candidates=250)
    chances = [number / 250 for number in range(1, 251)]
    found = impression(
        context(asked, items=in_incoming_order(asked)[::-1], propensity=chances, price_minor=[1] * 200), {}
    )
    assert found.items.propensity == chances[50:]


def test_unscored_items_repeat_the_lowest_score_and_their_number_is_logged() -> None:
    asked = request(num_candidates=4)
    scores = [1.0, 2.0]
    found = impression(
        context(asked, version=VERSION, scores=scores, items=by_score(asked, "q-1", scores), price_minor=[1] * 4), {}
    )
    assert found.items.score == [2.0, 1.0, 1.0, 1.0]
    assert found.attributes == {"num_scored": 2}
    swapped = tuple(replace(by_score(asked, "q-1", scores)[row], position=at) for at, row in enumerate((1, 0, 2, 3), 1))
    exchanged = context(asked, version=VERSION, scores=scores, items=swapped, price_minor=[1] * 4)
    assert impression(exchanged, {}).items.score == [1.0, 2.0, 1.0, 1.0]


def test_a_fallback_has_no_scores_and_no_version() -> None:
    asked = request(num_candidates=2)
    found = impression(
        context(asked, version=VERSION, fallback="late", items=in_incoming_order(asked), price_minor=[1, 1]), {}
    )
    assert (found.fallback, found.version, found.items.score, found.features) == ("late", None, None, None)


def test_candidates_beyond_two_hundred_are_not_logged() -> None:
    asked = request(num_candidates=250)
    found = impression(context(asked, items=in_incoming_order(asked)[::-1], price_minor=[1] * 200), {})
    assert found.items.rank_in == list(range(200, 0, -1))


def test_the_assignment_is_logged_inside_of_an_experiment_only() -> None:
    asked = request(num_candidates=1)
    inside = ClientAssignment(layer="ranker", experiment="exp-1", arm="control", epoch=1, bucket=7, lineage="base")
    outside = ClientAssignment(bucket=7, lineage="base")
    logged = [
        impression(context(asked, assignment=one, items=in_incoming_order(asked), price_minor=[1]), {}).assignment
        for one in (inside, outside)
    ]
    assert [(one.experiment, one.arm, one.epoch, one.bucket) for one in logged[0]] == [("exp-1", "control", 1, 7)]
    assert logged[1] == []
