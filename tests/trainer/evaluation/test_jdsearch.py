from pathlib import Path

import numpy as np
import pytest

from stream.errors import ConfigError
from trainer.evaluation import jdsearch
from trainer.features import NUM_COLUMNS
from trainer.features.hash_index import hash_pairs
from trainer.features.schema import HISTORY_NUM_COLUMNS

SEARCH = (
    "12\x18X32\x18X56\t456_457_789\t3.0_0.0_1.0\t323\x18X328_-1_12\x18X54\t889_457_345\tORD_CLICK_CART\t0_7200_60_3600"
)
PRODUCT = "457\t1\x182\t9\t3\t100\t4\t200\t5\t300\t6\t400\t7\t77"
HEADER = "	".join(
    (
        "wid",
        "name",
        "brand_id",
        "brand_name",
        *(f"cate_{part}_{n}" for n in "1234" for part in ("id", "name")),
        "shop_id",
    )
)


def write(folder: Path, count: int, *, seed: int = 0) -> None:
    """A generated folder: clients take what they have touched."""
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(count):
        candidates = rng.choice(500, size=8, replace=False)
        wanted = int(rng.integers(8))
        labels = ["3.0" if row == wanted else "0.0" for row in range(8)]
        history = [candidates[wanted], *rng.integers(500, 600, size=2)]
        lines.append(
            "\t".join(
                (
                    "1",
                    "_".join(map(str, candidates)),
                    "_".join(labels),
                    "-1_-1_-1",
                    "_".join(map(str, history)),
                    "CLICK_CLICK_FLW",
                    "0_5_5_5",
                )
            )
        )
    (folder / jdsearch.SEARCHES).write_text("\n".join(lines) + "\n")
    (folder / jdsearch.PRODUCTS).write_text(HEADER + "\n" + PRODUCT + "\n")


def searches(path: Path, *lines: str) -> Path:
    path = path / "searches.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_line_is_a_list_with_its_grades_and_history(tmp_path: Path) -> None:
    data = jdsearch.load(searches(tmp_path, SEARCH, SEARCH, SEARCH))
    each = data.split.train[0]
    example = each.example
    assert example.item_ids == ["456", "457", "789"]
    assert each.grade.tolist() == [3, 0, 1]
    assert example.conv.tolist() == [1, 0, 0]
    assert example.click.tolist() == [1, 0, 1]
    # Newest first: the sum of the later intervals is the age.
    assert example.hist_entity[:, 0].tolist() == hash_pairs(["345", "457", "889"]).tolist()
    age = np.expm1(example.hist_num[:, HISTORY_NUM_COLUMNS.index("log_age_h")]) * 3600
    assert age.tolist() == pytest.approx([3600, 3660, 10_860], rel=1e-4)
    touched = example.num[:, NUM_COLUMNS.index("touch_last")]
    assert touched.tolist() == [0, 1, 0]


def test_products_give_brand_shop_and_category(tmp_path: Path) -> None:
    write(tmp_path, 5)
    (tmp_path / jdsearch.SEARCHES).write_text(f"{SEARCH}\n" * 5)
    data = jdsearch.load(tmp_path)
    example = data.split.train[0].example
    expected = hash_pairs(["", "", "", "77", "9", "400", "", "", ""]).reshape(3, 3, 2)
    assert example.entity[:, 1:].tolist() == expected.tolist()
    assert data.has_order
    assert data.from_schema


def test_a_header_is_no_search(tmp_path: Path) -> None:
    header = "	".join(
        (
            "query",
            *(f"candidate_{part}_list" for part in ("wid", "label")),
            *(f"history_{part}_list" for part in ("qry", "wid", "type", "time")),
        )
    )
    split = jdsearch.load(searches(tmp_path, header, *[SEARCH] * 5)).split
    assert len(split.train) + len(split.validation) + len(split.test) == 5


def test_a_client_without_history_and_labels_beyond_the_limit_are_read(tmp_path: Path) -> None:
    many = "_".join(str(number) for number in range(40))
    labels = "_".join("1.0" if number in {2, 35} else "0.0" for number in range(40))
    data = jdsearch.load(searches(tmp_path, *[f"1\t{many}\t{labels}\t\t\t\t0"] * 5))
    each = data.split.train[0]
    assert len(each.example.item_ids) == 30
    assert each.num_lost == 1
    assert not len(each.example.hist_entity)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("3.0_0.0_1.0", "3.0_0.0", "3 candidates, 2 labels"),
        ("3.0_0.0_1.0", "3.0_0.0_9.0", "expected labels of 0, 1, 2 or 3"),
        ("3.0_0.0_1.0", "3.0_0.0_x", "candidate_label_list: could not convert"),
        ("ORD_CLICK_CART", "ORD_CLICK_BUY", "history_type_list has 'BUY'"),
        ("ORD_CLICK_CART", "ORD_CLICK", "3 products, 2 actions and 4 intervals"),
        ("0_7200_60_3600", "0_7200_60_nan", "history_time_list"),
        ("\t456_457_789", "", "6 fields, expected 7"),
    ],
)
def test_a_line_of_another_form_is_refused_with_its_number(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = searches(tmp_path, SEARCH, SEARCH.replace(old, new))
    with pytest.raises(ConfigError, match=rf"searches\.txt, line 2: .*{words}"):
        jdsearch.load(path)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"release_data\.txt does not exist"):
        jdsearch.load(tmp_path)
