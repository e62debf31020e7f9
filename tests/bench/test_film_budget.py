"""The pages and logs of the benchmark of graded films."""

import numpy as np
import pytest

from stream.errors import ConfigError
from tests.bench.film_budget import (
    FOLDS,
    KINDS,
    LEAST_FILMS,
    LIKED,
    OTHER,
    SEEN_OF_LIST,
    TYPES,
    Shelf,
    build,
    parted,
    type_of,
)
from tests.bench.films import Film, Films
from trainer.features import N_MAX
from trainer.features.item_types import ITEM_TYPES
from trainer.features.schema import ITEM_COLUMNS

NUM_FILMS = 120


@pytest.fixture(scope="module")
def films() -> Films:
    rng = np.random.default_rng(3)
    genres = (("Drama",), ("Comedy",), ("War",), ("Comedy", "Drama"))
    own = {f"f{number}": Film(f"Film {number}", 1950 + number % 50, genres[number % 4]) for number in range(NUM_FILMS)}
    grades: dict[str, dict[str, int]] = {}
    for number in range(60):
        num = 25 if number % 6 == 5 else int(rng.integers(LEAST_FILMS, 70))
        seen = rng.permutation(NUM_FILMS)[:num].tolist()
        grades[f"u{number}"] = {f"f{film}": int(rng.integers(1, 6)) for film in seen}
    return Films(own, grades)


def test_each_user_is_in_one_part_and_each_seed_tests_on_others(films: Films) -> None:
    tested: list[str] = []
    for seed in range(1, FOLDS + 1):
        users = parted(films, seed, 10)
        assert sorted([*users.log, *users.pages, *users.test]) == sorted(films.grades)
        assert len(users.pages) == 10
        tested += users.test
    able = [user for user, own in films.grades.items() if len(own) >= LEAST_FILMS]
    assert sorted(tested) == sorted(able)


def test_too_few_users_are_refused(films: Films) -> None:
    with pytest.raises(ConfigError, match="50 users with 40 films or more: expected 60"):
        parted(films, 1, 30)


def test_the_first_genre_that_has_a_type_decides() -> None:
    assert [type_of(Film("", None, own)) for own in (("War", "Drama"), ("Comedy", "Drama"), ("War",), ())] == [
        KINDS["Drama"],
        KINDS["Comedy"],
        OTHER,
        OTHER,
    ]


def test_a_page_holds_a_users_films_their_grades_and_a_history_of_other_films(films: Films) -> None:
    users = parted(films, 1, 10)
    lists = Shelf(films, users.log).pages(users.test, np.random.default_rng(1))
    assert lists.worth.shape == (len(users.test), N_MAX)
    for user, example, worth, types in zip(users.test, lists.examples, lists.worth, lists.types, strict=True):
        own = films.grades[user]
        assert [own[film] for film in example.item_ids] == worth.tolist()
        assert [ITEM_TYPES[kind] for kind in types] == [type_of(films.films[film]) for film in example.item_ids]
        liked = [film for film in own if own[film] >= LIKED and film not in example.item_ids]
        assert len(example.hist_type) == len(liked)
        in_page = {tuple(row) for row in example.entity[:, 0].tolist()}
        assert not in_page & {tuple(row) for row in example.hist_entity[:, 0].tolist()}
        assert not example.click.any()


def test_a_log_of_liked_films_shows_each_film_once_in_a_pass(films: Films) -> None:
    users = ["u0", "u5"]
    shelf = Shelf(films, users)
    log = shelf.liked(users, 2, np.random.default_rng(1))
    shown = sorted(film for example in log for film in example.item_ids)
    assert shown == sorted(2 * [film for user in users for film in films.grades[user]])
    for example in log:
        own = films.grades[example.query_id.rsplit("-", 1)[1]]
        assert [bool(click) for click in example.click] == [own[film] >= LIKED for film in example.item_ids]


def test_a_log_of_seen_films_clicks_those_among_films_that_the_user_did_not_see(films: Films) -> None:
    users = ["u0", "u1"]
    log = Shelf(films, users).seen(users, 1, np.random.default_rng(1))
    assert len(log) == sum(-(-len(films.grades[user]) // N_MAX) for user in users)
    for example in log:
        own = films.grades[example.query_id.rsplit("-", 1)[1]]
        assert [bool(click) for click in example.click] == [film in own for film in example.item_ids]
        assert 0 < example.click.sum() <= SEEN_OF_LIST
        assert len(example.item_ids) == N_MAX


def test_sales_count_the_users_of_the_log_alone(films: Films) -> None:
    example = Shelf(films, ["u0"]).example("u1", ["f0", "f1", "f2", "f3"], [], "page")
    seen = [film in films.grades["u0"] for film in example.item_ids]
    assert (example.num[:, ITEM_COLUMNS.index("sales")] > 0).tolist() == seen


def test_no_user_that_is_tested_teaches(films: Films) -> None:
    task = build(films, 2, num_pages=10, passes=1)
    assert task.types == TYPES
    taught = {each.query_id.rsplit("-", 1)[1] for log in task.logs.values() for each in log}
    tested = {each.query_id.rsplit("-", 1)[1] for each in [*task.pages.examples, *task.test.examples]}
    assert taught
    assert not taught & tested
    assert {each.query_id.rsplit("-", 1)[1] for each in task.ungraded.examples} <= taught
    assert not tested & {each.query_id.rsplit("-", 1)[1] for each in task.ungraded.examples}
    np.testing.assert_array_equal(task.truth, task.test.worth - 1)
    assert 0 < len(task.logs["1/8"]) < len(task.logs["log"])
