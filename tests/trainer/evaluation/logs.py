"""Generated sessions whose buyers take the cheapest item, for the tests of the evaluation."""

from dataclasses import replace

import numpy as np

from stream.schemas.session import Session
from tests.trainer.lists import NOW_TS, MemoryCatalogue, catalogue, served
from trainer.evaluation.lists import LabelledList, Split, from_sessions, split_by_share

KNOWN: MemoryCatalogue = catalogue()


def sessions(count: int, *, seed: int = 0, share_bought: float = 1.0) -> list[Session]:
    """Sessions a minute apart, two per visit, shown in random order; the cheapest item is clicked and mostly bought."""
    found = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        request = served(1_000 * seed + number, KNOWN, n=8)
        shown = rng.permutation(8).tolist()
        cheapest = int(np.argmin(request.prices))
        bought = [cheapest] if rng.random() < share_bought else []
        session = request.session(shown, orders=bought, clicks=[cheapest], gross_minor=request.prices[cheapest])
        session.session_id = f"visit-{number // 2}"
        session.impression_ts = NOW_TS + 60_000 * number
        found.append(session)
    return found


def lists(count: int, *, seed: int = 0, share_bought: float = 1.0) -> list[LabelledList]:
    return from_sessions(sessions(count, seed=seed, share_bought=share_bought), KNOWN)[0]


def split(count: int = 200) -> Split:
    return split_by_share(lists(count))


def shuffled(session: Session) -> Session:
    """The session as an arm logs it whose policy is to shuffle."""
    copy = Session(**{name: getattr(session, name) for name in session.__struct_fields__})
    copy.propensity = np.full(session.n, 1 / session.n, "<f4").tobytes()
    return copy


def without_features(session: Session) -> Session:
    """The session as a source logs it that serves no features."""
    copy = Session(**{name: getattr(session, name) for name in session.__struct_fields__})
    copy.feature_schema = copy.item_f16 = copy.context_f16 = b""
    return copy


def shortened(each: LabelledList, rows: list[int]) -> LabelledList:
    """The list with some of its rows only."""
    example = each.example
    return replace(
        each,
        grade=each.grade[rows],
        example=replace(
            example,
            item_ids=[example.item_ids[row] for row in rows],
            index=example.index[rows],
            entity=example.entity[rows],
            num=example.num[rows],
            rank=example.rank[rows],
            click=example.click[rows],
            conv=example.conv[rows],
            money=example.money[rows],
        ),
    )
