"""The reader of films and grades."""

from pathlib import Path

import pytest

from stream.errors import ConfigError
from tests.bench.films import GRADES, ITEMS, Film, read

FILMS = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
    "1\tToy Story\t1995\tAnimation Children's Comedy",
    "7\tunknown\t\t",
)
RATED = ("user_id:token\titem_id:token\trating:float\ttimestamp:float", "u\t1\t4\t881250949", "v\t7\t1.0\t0")


def written(folder: Path, films: tuple[str, ...], rated: tuple[str, ...]) -> Path:
    (folder / ITEMS).write_text("\n".join(films) + "\n", encoding="utf-8")
    (folder / GRADES).write_text("\n".join(rated) + "\n", encoding="utf-8")
    return folder


def test_films_and_grades_are_read(tmp_path: Path) -> None:
    found = read(written(tmp_path, FILMS, RATED))
    assert found.films == {
        "1": Film("Toy Story", 1995, ("Animation", "Children's", "Comedy")),
        "7": Film("unknown", None, ()),
    }
    assert found.grades == {"u": {"1": 4}, "v": {"7": 1}}


def test_columns_are_found_by_their_names(tmp_path: Path) -> None:
    rated = ("rating:float\titem_id:token\tuser_id:token", "5\t7\tw")
    assert read(written(tmp_path, FILMS, rated)).grades == {"w": {"7": 5}}


@pytest.mark.parametrize(
    ("films", "rated", "said"),
    [
        (FILMS, (*RATED, "u\t7\t4"), "ml-100k.inter, line 4: 3 fields, expected 4"),
        (FILMS, (*RATED, "u\t9\t4\t0"), "ml-100k.inter, line 4: item_id '9' is not in ml-100k.item"),
        (FILMS, (*RATED, "u\t7\t4.5\t0"), "line 4: rating '4.5': expected 1, 2, 3, 4 or 5"),
        (FILMS, (*RATED, "u\t7\tnan\t0"), "line 4: rating 'nan'"),
        (FILMS, (*RATED, "u\t1\t2\t0"), "line 4: user 'u' has graded the film '1'"),
        (FILMS, (*RATED, "\t1\t2\t0"), "line 4: user_id is empty"),
        (FILMS, ("user_id:token\titem_id:token",), "ml-100k.inter, line 1: no column rating:float"),
        ((*FILMS, "1\tHeat\t1995\tDrama"), RATED, "ml-100k.item, line 4: item_id '1'"),
        ((*FILMS, "\tHeat\t1995\tDrama"), RATED, "ml-100k.item, line 4: item_id ''"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, films: tuple[str, ...], rated: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read(written(tmp_path, films, rated))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ml-100k\.item does not exist"):
        read(tmp_path)
