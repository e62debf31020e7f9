"""The time from an impression to the version that learned from it, against NumPy's quantiles of all of them."""

from pathlib import Path

import numpy as np
import pytest

from stream import db
from stream.schemas.session import Session, decode
from tests.trainer.harness import SETTINGS, feed, make_loop
from tests.trainer.session_log import make_log
from trainer.freshness import QUANTILES, Freshness
from trainer.loop import Loop
from trainer.settings import TrainerSettings

NOW_MS = 1_700_010_000_000


def expected(impressions_ts: list[int], now_ms: int) -> dict[float, float]:
    """Return the quantiles of the ages of lists, whose times are whole seconds."""
    ages = now_ms / 1_000 - np.array(impressions_ts) // 1_000
    return {share: float(np.quantile(ages, share, method="inverted_cdf")) for share in QUANTILES}


@pytest.mark.parametrize("num", [1, 2, 3, 19, 20, 21, 1_000])
def test_quantiles_are_those_of_all_lists(num: int) -> None:
    rng = np.random.default_rng(num)
    times = (NOW_MS - rng.integers(1, 3_600_000, num)).tolist()
    freshness = Freshness()
    for start in range(0, num, 7):
        freshness.learned(times[start : start + 7])
    assert freshness.at(NOW_MS) == expected(times, NOW_MS)
    freshness.restart()
    assert freshness.at(NOW_MS) == {}


def watched(loop: Loop) -> list[list[int]]:
    """Return the times of the lists that each version learned, filled while the loop runs; the last ones wait."""
    learned: list[list[int]] = [[]]
    learn, register = loop.learner.learn, loop._publisher.register

    def learning(*arguments: object) -> object:
        step = learn(*arguments)  # type: ignore[arg-type] # passed on
        learned[-1].extend(step.impressions_ts)
        return step

    def registering(sha256: str) -> bool:
        learned.append([])
        return register(sha256)

    loop.learner.learn = learning  # type: ignore[method-assign, assignment] # watched
    loop._publisher.register = registering  # type: ignore[method-assign] # watched
    return learned


def make(folder: Path, settings: TrainerSettings = SETTINGS) -> Loop:
    engine = db.create(f"sqlite:///{folder}/test.db")
    db.metadata.create_all(engine)
    return make_loop(folder, engine, settings=settings, now_ms=lambda: NOW_MS)


def test_a_version_states_the_ages_of_the_lists_that_are_new_to_it(tmp_path: Path) -> None:
    loop, log = make(tmp_path), make_log(200)
    learned = watched(loop)
    feed(loop, log)
    newest = learned[-2]
    assert loop.progress.num_published == len(learned) - 1 > 2
    assert loop.progress.freshness == expected(newest, NOW_MS)
    sessions = [found for record in log if isinstance(found := decode(record.value), Session)]
    first = {session.query_id: session.impression_ts for session in sessions if session.revision == 0}
    every = [at for part in learned for at in part]
    assert 0 < len(newest) < len(every) <= loop.learner.counters["trained"]
    assert set(every) <= set(first.values())
    assert max(newest) > max(at for part in learned[:-2] for at in part)


def test_a_version_that_does_not_verify_states_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = make(tmp_path)
    monkeypatch.setattr(loop._publisher, "register", lambda _sha256: False)
    feed(loop, make_log(120))
    assert loop.progress.num_published > 0
    assert loop.progress.freshness == {}


def test_lists_of_a_publication_that_waits_are_forgotten(tmp_path: Path) -> None:
    loop = make(tmp_path, TrainerSettings(publish_s=40, checkpoint_every_wall_s=0, hold_lists=1_000_000))
    learned = watched(loop)
    # The last records close the last interval.
    feed(loop, make_log(230)[:-3])
    assert loop.progress.num_held_back > 2
    waiting = loop._freshness._num_by_second.total()
    assert 0 < waiting < sum(map(len, learned)) / 2
