"""The trivago benchmark, on a generated log and, where it lies, on the real one."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from deploy.simulation.replay import trivago, trivago_lists
from stream.errors import ConfigError
from tests.deploy.simulation.replay import trivago_log
from tests.deploy.simulation.replay.test_trivago import FILE_NAME
from trainer.evaluation import simple
from trainer.evaluation.evaluate import per_list
from trainer.evaluation.lists import Columns, Dataset, LabelledList
from trainer.features import NUM_COLUMNS

HOUR_MS = 3_600_000
START_TS = trivago_log.START_S * 1_000


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    trivago_log.write(path, visits=120, seed=5)
    return path


@pytest.fixture(scope="module")
def data(log: Path) -> Dataset:
    return trivago_lists.load(log, validation_from_ts=START_TS + 2 * HOUR_MS, test_from_ts=START_TS + 4 * HOUR_MS)


def every(data: Dataset) -> list[LabelledList]:
    return [*data.split.train, *data.split.validation, *data.split.test]


@pytest.mark.no_cover
def test_history_and_counters_hold_earlier_rows_of_the_log_only(log: Path, data: Dataset) -> None:
    """An oracle of plain loops over the rows of the file."""
    rows = pl.read_parquet(log).sort("timestamp", "session_id", "step").to_dicts()
    touches: dict[str, list[tuple[int, str]]] = {}
    bought: Counter[str] = Counter()
    expected = {}
    for row in rows:
        visit, hotel, ts = row["session_id"], row["reference"], row["timestamp"] * 1_000 + row["step"]
        if row["action_type"] == trivago.CLICK_OUT:
            hotels = row["impressions"].split("|")
            before = touches.get(visit, [])
            expected[f"{visit}-{row['timestamp']}-{row['step']}"] = {
                name: (sum(name == one for _, one in before[-50:]), bought[name]) for name in hotels
            }
            touches.setdefault(visit, []).extend([(ts, hotel), (ts, hotel)])
            bought[hotel] += 1
        elif row["action_type"].startswith(trivago.INTERACTION):
            touches.setdefault(visit, []).append((ts, hotel))
    lists = every(data)
    assert len(lists) + data.split.num_over_boundary == len(expected)
    count, sales = NUM_COLUMNS.index("touch_count"), NUM_COLUMNS.index("sales")
    touched = 0
    for each in lists:
        example = each.example
        per_item = expected[example.query_id]
        for number, item_id in enumerate(example.item_ids):
            num_touches, num_bought = per_item[item_id]
            assert np.expm1(example.num[number, count]) == pytest.approx(num_touches, abs=0.01)
            assert np.expm1(example.num[number, sales] / 0.2) == pytest.approx(num_bought, abs=0.01)
            touched += num_touches > 0
    assert touched > 100


def test_features_do_not_change_when_later_rows_are_cut_off(log: Path, data: Dataset, tmp_path: Path) -> None:
    rows = pl.read_parquet(log)
    middle_s = trivago_log.START_S + 3 * 3_600
    cut = tmp_path / "cut.parquet"
    rows.filter(pl.col("timestamp") < middle_s).write_parquet(cut)
    early = trivago_lists.load(cut, validation_from_ts=START_TS + HOUR_MS, test_from_ts=START_TS + 2 * HOUR_MS)
    known = {each.example.query_id: each.example for each in every(data)}
    shared = [each.example for each in every(early) if each.example.query_id in known]
    assert len(shared) > 50
    for example in shared:
        whole = known[example.query_id]
        assert (example.num == whole.num).all()
        assert (example.hist_entity == whole.hist_entity).all()
        assert (example.conv == whole.conv).all()


def test_a_visit_begins_with_its_first_row_of_any_kind(log: Path) -> None:
    firsts = pl.read_parquet(log).group_by("session_id").agg(pl.col("timestamp").min())
    assert trivago.visit_starts(log) == {visit: ts * 1_000 for visit, ts in firsts.iter_rows()}


def test_another_file_than_the_published_excerpt_is_named(data: Dataset) -> None:
    assert "another excerpt than the published one" in data.note
    assert trivago_lists.is_log([*trivago.COLUMNS, "more"])
    assert not trivago_lists.is_log(["session_id"])


def test_a_split_beyond_the_log_is_refused(log: Path) -> None:
    with pytest.raises(ConfigError, match="part 'validation' of"):
        trivago_lists.load(log)


@pytest.mark.system
def test_the_real_log_gives_the_published_split_and_simple_rows() -> None:
    folder = os.environ.get("SHELFWISE_DATA")  # noqa: TID251
    path = Path(folder or "", FILE_NAME)
    if not folder or not path.is_file():
        pytest.skip(f"needs {FILE_NAME} in the folder SHELFWISE_DATA: research-only data are not shipped")
    data = trivago_lists.load(path)
    split = data.split
    assert "the published excerpt" in data.note
    assert (len(split.train), len(split.validation), len(split.test)) == (5_588, 1_209, 2_820)
    assert split.num_over_boundary == 48
    columns = Columns.of(split.test, "order", tie_seed=0)
    assert len(set(columns.visit)) == 1_498
    for name, mrr in (("displayed order", 0.4543), ("last touched", 0.598), ("cheapest", 0.2339)):
        found = per_list(simple.scores(name, split.test, 0), columns, 5)["mrr"].mean()
        assert found == pytest.approx(mrr, abs=0.001), name
