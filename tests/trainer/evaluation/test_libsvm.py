from pathlib import Path

import numpy as np
import pytest

from stream.errors import ConfigError
from trainer.evaluation import libsvm
from trainer.evaluation.metrics import reciprocal_rank, tie_keys

LETOR = """\
2 qid:10 1:0.50 2:1.00 46:0.25 #docid = GX001 inc = 1
0 qid:10 1:0.00 2:0.10
1 qid:11 2:3.0
0 qid:11 1:-1.0 2:1.0

0 qid:12 1:1
"""


def write(path: Path, queries: int, *, seed: int = 0, size: int = 6) -> None:
    """A file of queries whose grade is the first column; grades fall from line to line."""
    rng = np.random.default_rng(seed)
    lines = []
    for query in range(queries):
        lines += [
            f"{grade} qid:{query} 1:{grade + rng.normal(0, 0.1):.4f} 2:{rng.normal():.4f} 3:1000000"
            for grade in sorted(rng.integers(0, 3, size).tolist(), reverse=True)
        ]
    path.write_text("\n".join(lines) + "\n")


def folder(path: Path, *texts: str) -> Path:
    for name, text in zip(libsvm.PARTS, texts, strict=True):
        (path / name).write_text(text)
    return path


def test_a_letor_folder_gives_its_three_parts(tmp_path: Path) -> None:
    data = libsvm.load(folder(tmp_path, LETOR, "1 qid:1 3:1\n", "0 qid:2 1:1\n1 qid:2 1:2\n"))
    assert (data.num_columns, data.from_schema, data.has_order) == (46, False, False)
    assert [each.example.query_id for each in data.split.train] == ["10", "11", "12"]
    assert [len(data.split.validation), len(data.split.test)] == [1, 1]
    (first, second, third) = data.split.train
    best = int(np.argmax(first.grade))
    assert sorted(first.grade.tolist()) == [0, 2]
    expected = np.zeros(46)
    expected[[0, 1, 45]] = np.log1p([0.5, 1.0, 0.25])
    np.testing.assert_allclose(first.example.num[best], expected, rtol=1e-6)
    assert first.example.conv[best] == 3  # 2^2 - 1
    assert first.example.click[best] == 1
    worst = int(np.argmin(second.grade))
    assert second.example.num[worst, 0] == pytest.approx(-np.log(2))
    assert third.example.conv.tolist() == [0]


def test_one_file_is_split_by_its_queries(tmp_path: Path) -> None:
    path = tmp_path / "mslr.txt"
    write(path, 10)
    split = libsvm.load(path).split
    assert [len(part) for part in (split.train, split.validation, split.test)] == [6, 2, 2]


def test_the_order_of_the_lines_does_not_tell_the_grade(tmp_path: Path) -> None:
    path = tmp_path / "sorted.txt"
    write(path, 500, size=5)
    data = libsvm.load(path)
    lists = [*data.split.train, *data.split.validation, *data.split.test]
    lists = [each for each in lists if (each.grade == 2).sum() == 1]
    rank = np.tile(np.arange(1.0, 6.0), (len(lists), 1))
    positive = np.array([each.grade == 2 for each in lists])
    mrr = reciprocal_rank(rank, positive, np.ones_like(positive))
    chance = 1 / np.arange(1, 6)
    assert abs(mrr.mean() - chance.mean()) < 4 * chance.std() / np.sqrt(len(lists))


def test_equal_documents_are_still_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "same.txt"
    path.write_text("".join(f"{grade} qid:{query} 1:1\n" for query in range(5) for grade in (1, 0, 0)))
    each = libsvm.load(path).split.train[0].example
    assert len(set(tie_keys(each.query_id, each.item_ids, 0).tolist())) == 3


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("x qid:1 1:1", "expected GRADE"),
        ("1 1:1", "expected a grade|expected GRADE"),
        ("1 qid:1 a:1", "expected GRADE"),
        ("1 qid:1 0:1", "columns from 1 on"),
        ("1 qid:1 1:nan", "finite"),
        ("-1 qid:1 1:1", "grade of 0 or more"),
        ("1 qid:1", "columns from 1 on|expected a grade"),
        ("1", "expected GRADE"),
    ],
)
def test_a_line_of_another_form_is_refused_with_its_number(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_text(f"1 qid:1 1:1\n{line}\n")
    with pytest.raises(ConfigError, match=rf"bad\.txt, line 2: .*({words})"):
        libsvm.load(path)


def test_missing_and_empty_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        libsvm.load(tmp_path / "none.txt")
    with pytest.raises(ConfigError, match=r"vali\.txt: holds no query"):
        libsvm.load(folder(tmp_path, LETOR, "\n", LETOR))
