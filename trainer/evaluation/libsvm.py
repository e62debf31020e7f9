"""Learning-to-rank files in the LibSVM form: `GRADE qid:QUERY 1:VALUE 2:VALUE ... # comment`.

LETOR, MSLR-WEB and Istella have this form. Their terms differ by set, and none is shipped with this project. A file
holds no order of display, no items' names and no prices: candidates are put into a random order, ids are empty, and
ranks say nothing. Values become sign(x) log(1 + |x|), which keeps unscaled columns in the range of a neural model.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from stream.errors import ConfigError
from stream.schemas.events import MAX_PAGE_ITEMS, MAX_PAGES
from trainer.evaluation.lists import Dataset, LabelledList, Split, split_in_order
from trainer.evaluation.metrics import Floats, tie_keys
from trainer.features import CLIENT_COLUMNS, MAX_TOKENS, QUERY_COLUMNS, SessionExample

PARTS = ("train.txt", "vali.txt", "test.txt")
NOTE = "LibSVM form: no displayed order, ids or money; grades above 0 are positive"

_NO_PAGES = np.zeros((MAX_PAGES, MAX_PAGE_ITEMS, 4, 2), np.uint64)


def load(path: Path, *, seed: int = 0) -> Dataset:
    """Return the lists of a folder with `train.txt`, `vali.txt` and `test.txt`, or of one file.

    One file is split by its queries in their order, 60, 20 and 20 %.

    Args:
        path: The folder or file.
        seed: Seed of the order of the candidates.

    Raises:
        ConfigError: If a file is missing, or a line has another form; the message names file, line and text.
    """
    if path.is_dir():
        files = [path / name for name in PARTS]
        parts = [list(_queries(file)) for file in files]
    else:
        files, parts = [path], [list(_queries(path))]
    width = max((int(columns.max()) for part in parts for _, _, rows in part for columns, _ in rows), default=0)
    lists = [[_list(*query, width=width, seed=seed) for query in part] for part in parts]
    for file, part in zip(files, lists, strict=True):
        if not part:
            raise ConfigError(f"{file}: holds no query")
    split = Split(train=lists[0], validation=lists[1], test=lists[2]) if path.is_dir() else split_in_order(lists[0])
    return Dataset(name=f"libsvm {path.name}", note=NOTE, split=split, num_columns=width, has_order=False)


_Row = tuple[np.ndarray[tuple[int], np.dtype[np.int64]], Floats]


def _queries(path: Path) -> Iterator[tuple[str, list[float], list[_Row]]]:
    """Yield query, grades and sparse rows of each query; the lines of a query stand together."""
    if not path.is_file():
        raise ConfigError(f"{path} does not exist")
    query, grades, rows = "", list[float](), list[_Row]()
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            text = line.partition("#")[0].strip()
            if not text:
                continue
            grade, name, row = _parse(path, number, text)
            if name != query and rows:
                yield query, grades, rows
                grades, rows = [], []
            query = name
            grades.append(grade)
            rows.append(row)
    if rows:
        yield query, grades, rows


def _parse(path: Path, number: int, text: str) -> tuple[float, str, _Row]:
    words = text.split()
    try:
        grade = float(words[0])
        key, _, name = words[1].partition(":")
        pairs = [word.split(":") for word in words[2:]]
        columns = np.array([int(column) for column, _ in pairs], dtype=np.int64)
        values = np.array([float(value) for _, value in pairs], dtype=np.float64)
    except (IndexError, ValueError) as error:
        raise ConfigError(f"{path}, line {number}: {text[:80]!r}: expected GRADE qid:QUERY COLUMN:VALUE ...") from error
    if key != "qid" or not name or not pairs or columns.min() < 1 or not np.isfinite(values).all() or not grade >= 0:
        raise ConfigError(
            f"{path}, line {number}: {text[:80]!r}: expected a grade of 0 or more, qid:QUERY, columns from 1 on and"
            " finite values"
        )
    return grade, name, (columns, values)


def _list(query: str, grades: Sequence[float], rows: Sequence[_Row], *, width: int, seed: int) -> LabelledList:
    n = len(rows)
    dense = np.zeros((n, width))
    for number, (columns, values) in enumerate(rows):
        dense[number, columns - 1] = values
    names = [hashlib.blake2b(dense[row].tobytes(), digest_size=8).hexdigest() for row in range(n)]
    # The order of the lines must not tell the grade.
    order = np.argsort(tie_keys(query, names, seed), kind="stable")
    grade = np.array(grades)[order]
    num = dense[order]
    gain = (np.exp2(grade) - 1).astype(np.float32)
    nothing, none = np.zeros((n, 0), np.float16), np.zeros(n, np.bool_)
    example = SessionExample(
        query_id=query,
        session_id=None,
        item_ids=[names[row] for row in order],
        index=np.arange(n),
        entity=np.zeros((n, 4, 2), np.uint64),
        num=(np.sign(num) * np.log1p(np.abs(num))).astype(np.float32),
        rank=np.zeros(n, np.int16),
        img=nothing,
        img_mask=none,
        txt=nothing,
        txt_mask=none,
        hist_entity=np.zeros((0, 4, 2), np.uint64),
        hist_type=np.zeros(0, np.int64),
        hist_num=np.zeros((0, 2), np.float32),
        hist_img=nothing[:0],
        hist_img_mask=none[:0],
        hist_txt=nothing[:0],
        hist_txt_mask=none[:0],
        query=np.zeros(len(QUERY_COLUMNS), np.float32),
        client=np.zeros(len(CLIENT_COLUMNS), np.float32),
        token=np.zeros(MAX_TOKENS, np.int64),
        page_entity=_NO_PAGES,
        query_vector=np.zeros(0, np.float16),
        category="",
        path=(),
        click=(grade > 0).astype(np.float32),
        conv=gain,
        money=np.zeros(n),
        click_weight=1.0,
        position=np.zeros(n, np.int32),
    )
    return LabelledList(example=example, visit=query, visit_ts=0, shown_ts=0, grade=grade)
