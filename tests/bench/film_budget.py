"""The gain of a page ranker from teachers when few films of a page are graded, on the grades of MovieLens 100K.

`python -m tests.bench.film_budget FOLDER` prints the tables of docs/benchmarks/films.md; `tests.bench.films` says what
the folder holds. A page is 30 of one user's films, its labels are the user's grades. Teachers of one type of film learn
from what other users liked, or saw.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from stream.errors import ConfigError
from stream.replicas.catalogue import Catalogue
from stream.schemas.events import History, Item
from tests.bench.budget_runs import Plan, Task, add_options, run
from tests.bench.films import Film, Films, read
from tests.bench.page_rankers import LABELS_ALONE, Arm, Lists
from trainer.features import (
    HISTORY_MAX,
    N_MAX,
    ExampleBuilder,
    SessionExample,
    context_f16,
    item_f16,
    request_list,
)
from trainer.features.item_types import ITEM_TYPES

KINDS = {"Drama": "product", "Comedy": "video"}
"""Item types that stand for a film's type: its first genre of these; `OTHER` for a film of neither."""
OTHER = "card"
TYPES = (*KINDS.values(), OTHER)
LIKED = 4
"""Grade from which a user liked a film."""
LEAST_FILMS = 40
"""Films of a user of whom a page is made: those of the page, and a few that the user's history holds."""
SEEN_OF_LIST = 10
"""Films that the user saw, in a list of which those are clicked."""
FOLDS = 5
WEAK = 1 / 8
"""Part of the users of the log from whom weak teachers learn."""
ROOT = "film"
ARMS = (
    LABELS_ALONE,
    Arm("random teachers", 0.3, "random"),
    Arm("teachers of 1/8 of the log", 0.3, "1/8"),
    Arm("teachers of films seen", 0.3, "seen"),
    Arm("teachers of the log", 0.3, "log"),
    Arm("teachers of the log, alpha 0.1", 0.1, "log"),
    Arm("perfect teachers", 0.3, "perfect"),
)


@dataclass(frozen=True)
class Users:
    """Users of one repetition by what their films are for."""

    log: Sequence[str]
    pages: Sequence[str]
    test: Sequence[str]


def parted(films: Films, seed: int, num_pages: int) -> Users:
    """Return the users of a repetition, which grade no film in two parts.

    Users with enough films are put into `FOLDS` folds in an order that no seed changes. A seed tests on the fold of its
    number, grades pages of users drawn from the other folds, and leaves all others to the log.

    Raises:
        ConfigError: If there are too few users with enough films.
    """
    able = [user for user, own in films.grades.items() if len(own) >= LEAST_FILMS]
    fold = np.random.default_rng(0).permutation(len(able)) % FOLDS
    rng = np.random.default_rng([seed, 1])
    others = [user for user, own in zip(able, fold.tolist(), strict=True) if own != seed % FOLDS]
    test = [user for user, own in zip(able, fold.tolist(), strict=True) if own == seed % FOLDS]
    # Lists without grades are pages of users of the log, so as many of these need enough films.
    if len(others) < 2 * num_pages or not test:
        raise ConfigError(
            f"{len(able)} users with {LEAST_FILMS} films or more: expected {2 * num_pages} outside of {len(test)} to"
            " test on; grade fewer pages"
        )
    pages = [others[row] for row in rng.permutation(len(others))[:num_pages].tolist()]
    chosen = {*pages, *test}
    log = [user for user in films.grades if user not in chosen]
    return Users([log[row] for row in rng.permutation(len(log)).tolist()], pages, test)


def type_of(film: Film) -> str:
    """Return the item type that stands for the type of a film.

    >>> type_of(Film("Fargo", 1997, ("Crime", "Drama", "Thriller")))
    'product'
    """
    return next((KINDS[genre] for genre in film.genres if genre in KINDS), OTHER)


class Shelf:
    """The films as items of a catalogue, and lists of them as examples.

    Beside the type, the catalogue knows the genres as a category, the decade in place of a brand, and in place of sales
    the number of users of the log who saw the film.
    """

    def __init__(self, films: Films, log: Sequence[str]) -> None:
        self._films = films
        seen = Counter(film for user in log for film in films.grades[user])
        self._catalogue = Catalogue(_item(name, film, seen[name]) for name, film in films.films.items())
        self._builder = ExampleBuilder(self._catalogue)
        self._every = sorted(films.films)

    def example(self, user: str, shown: Sequence[str], history: Sequence[str], name: str) -> SessionExample:
        """Return the example of a list in the order given, whose client clicked the films of the history."""
        found = self._builder.from_request(
            request_list(
                query_id=f"{name}-{user}",
                item_ids=shown,
                items=item_f16([self._catalogue.get(film) for film in shown]),
                context=context_f16(event_ts=0),
                history=History(
                    object_id=list(history),
                    action=["click"] * len(history),
                    age_s=[0] * len(history),
                    category=[ROOT] * len(history),
                ),
                category=ROOT,
                item_types=[type_of(self._films.films[film]) for film in shown],
            )
        )
        (example,) = found.split()
        return example

    def pages(self, users: Sequence[str], rng: np.random.Generator) -> Lists:
        """Return one page of each user: films drawn from the user's, and the history of others that the user liked."""
        examples, worth, types = [], [], []
        for user in users:
            own = self._shuffled(user, rng)
            shown, rest = own[:N_MAX], own[N_MAX:]
            examples.append(self.example(user, shown, self._liked(user, rest), "page"))
            worth.append([float(self._films.grades[user][film]) for film in shown])
            types.append([ITEM_TYPES.index(type_of(self._films.films[film])) for film in shown])
        return Lists(examples, np.array(worth), np.array(types, np.int64))

    def liked(self, users: Sequence[str], passes: int, rng: np.random.Generator) -> list[SessionExample]:
        """Return lists of all films of each user, once in a pass, of which those that the user liked are clicked."""
        found = []
        for number in range(passes):
            for user in users:
                own = self._shuffled(user, rng)
                for start in range(0, len(own), N_MAX):
                    shown, rest = own[start : start + N_MAX], own[:start] + own[start + N_MAX :]
                    example = self.example(user, shown, self._liked(user, rest), f"liked-{number}-{start}")
                    found.append(_clicked(example, set(self._liked(user, shown))))
        return _mixed(found, rng)

    def seen(self, users: Sequence[str], passes: int, rng: np.random.Generator) -> list[SessionExample]:
        """Return as many lists of a few films that each user saw, which are clicked, and others."""
        found = []
        for number in range(passes):
            for user in users:
                own = self._shuffled(user, rng)
                for start in range(0, len(own), N_MAX):
                    seen = own[start : start + SEEN_OF_LIST]
                    rest = own[:start] + own[start + SEEN_OF_LIST :]
                    drawn = [self._every[row] for row in rng.permutation(len(self._every)).tolist()]
                    unseen = [film for film in drawn if film not in self._films.grades[user]]
                    shown = seen + unseen[: N_MAX - len(seen)]
                    shown = [shown[row] for row in rng.permutation(len(shown)).tolist()]
                    example = self.example(user, shown, self._liked(user, rest), f"seen-{number}-{start}")
                    found.append(_clicked(example, set(seen)))
        return _mixed(found, rng)

    def _shuffled(self, user: str, rng: np.random.Generator) -> list[str]:
        own = sorted(self._films.grades[user])
        return [own[row] for row in rng.permutation(len(own)).tolist()]

    def _liked(self, user: str, films: Sequence[str]) -> list[str]:
        """Return those of the films that the user liked, at most as many as a history holds."""
        return [film for film in films if self._films.grades[user][film] >= LIKED][:HISTORY_MAX]


def _item(name: str, film: Film, num_seen: int) -> Item:
    return Item(
        item_id=name,
        title=film.title,
        brand_id=None if film.year is None else f"{film.year // 10}0s",
        category_ids=[ROOT, " ".join(film.genres)] if film.genres else [ROOT],
        type=type_of(film),
        price_minor=0,
        currency="USD",
        sales_28d=num_seen,
        updated_ts=0,
    )


def _clicked(example: SessionExample, films: set[str]) -> SessionExample:
    return replace(example, click=np.array([film in films for film in example.item_ids], np.float32))


def _mixed(examples: list[SessionExample], rng: np.random.Generator) -> list[SessionExample]:
    return [examples[row] for row in rng.permutation(len(examples)).tolist()]


def build(films: Films, seed: int, *, num_pages: int, passes: int) -> Task:
    """Return the data of a seed.

    Raises:
        ConfigError: If there are too few users.
    """
    users = parted(films, seed, num_pages)
    shelf, rng = Shelf(films, users.log), np.random.default_rng([seed, 2])
    pages, test = shelf.pages(users.pages, rng), shelf.pages(users.test, rng)
    able = [user for user in users.log if len(films.grades[user]) >= LEAST_FILMS]
    few = users.log[: round(WEAK * len(users.log))]
    return Task(
        types=TYPES,
        logs={
            "random": [],
            "1/8": shelf.liked(few, passes, rng),
            "seen": shelf.seen(users.log, passes, rng),
            "log": shelf.liked(users.log, passes, rng),
        },
        pages=pages,
        ungraded=shelf.pages(able[:num_pages], rng),
        test=test,
        chosen=pages.worth - 1,
        truth=test.worth - 1,
    )


def main() -> None:
    """Run the seeds one after the other, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the two files")
    parser.add_argument("--seeds", default="1,2,3,4,5", help="seeds; none prints the tables of --records")
    parser.add_argument("--pages", type=int, default=128, help="pages to grade, and as many lists without grades")
    parser.add_argument("--passes", type=int, default=5, help="passes over the films of the log")
    add_options(parser)
    args = parser.parse_args()
    try:
        films = read(args.folder)
    except ConfigError as error:
        parser.error(str(error))
    seeds = [int(each) for each in args.seeds.split(",") if each]
    plan = Plan.of("seed", ARMS, args)
    run(plan, seeds, lambda seed: build(films, seed, num_pages=args.pages, passes=args.passes))


if __name__ == "__main__":
    main()
