"""Padded batches."""

import numpy as np
import pytest

from tests.trainer.lists import (
    WIDTH,
    batch_of,
    catalogue,
    hashes,
    id_maps,
    item,
    labelled,
    request,
)
from trainer.features import (
    N_MAX,
    NUM_COLUMNS,
    SCHEMAS,
    TABLES,
    Batch,
    ExampleBuilder,
    Examples,
    batch_from_columns,
    collate,
)
from trainer.features.hash_index import Hashes
from trainer.features.id_maps import IdMaps

KNOWN = catalogue()


def test_collate_matches_a_loop_over_rows() -> None:
    examples = [labelled(seed, KNOWN) for seed in range(7)]
    batch = batch_of(examples)
    maps = id_maps()
    for row, example in enumerate(examples):
        n, depth = len(example.item_ids), min(len(example.hist_type), 10)
        assert batch.cand_mask[row].tolist() == [True] * n + [False] * (batch.cand_mask.shape[1] - n)
        assert batch.hist_mask[row].sum() == depth
        for kind, table in enumerate((maps.item, maps.shop, maps.brand, maps.category)):
            expected = table.lookup(Hashes.of(example.entity[:, kind]))
            assert batch.cand_id[row, :n, kind].tolist() == expected.tolist()
            expected = table.lookup(Hashes.of(example.hist_entity[:depth, kind]))
            assert batch.hist_id[row, :depth, kind].tolist() == expected.tolist()
        for field, source in (
            (batch.cand_num, example.num),
            (batch.cand_rank, example.rank),
            (batch.cand_img, example.img),
            (batch.cand_img_mask, example.img_mask),
            (batch.cand_txt, example.txt),
            (batch.cand_txt_mask, example.txt_mask),
            (batch.click, example.click),
            (batch.conv, example.conv),
            (batch.money, example.money),
            (batch.position, example.position),
        ):
            assert np.array_equal(field[row, :n], source)
            assert not field[row, n:].any()
        for behaviours, logged in (
            (batch.hist_type, example.hist_type),
            (batch.hist_num, example.hist_num),
            (batch.hist_img, example.hist_img if depth else np.zeros((0, WIDTH), np.float16)),
            (batch.hist_img_mask, example.hist_img_mask),
            (batch.hist_txt, example.hist_txt if depth else np.zeros((0, WIDTH), np.float16)),
            (batch.hist_txt_mask, example.hist_txt_mask),
        ):
            assert np.array_equal(behaviours[row, :depth], logged[:depth])
            assert not behaviours[row, depth:].any()
        for page, entity in enumerate(example.page_entity):
            for kind, table in enumerate((maps.item, maps.shop, maps.brand, maps.category)):
                expected = table.lookup(Hashes.of(entity[:, kind]))
                assert batch.page_id[row, page, :, kind].tolist() == expected.tolist()
        assert batch.latency_ms[row] == example.latency_ms
        assert batch.query_token[row].tolist() == example.token.tolist()
        path = [*example.path, *[""] * (4 - len(example.path))]
        assert batch.query_path[row].tolist() == maps.category.lookup(hashes(path)).tolist()
        assert batch.query_vec_mask[row] == (example.query_vector.size == WIDTH)
        assert np.array_equal(
            batch.query_vec[row], example.query_vector if batch.query_vec_mask[row] else np.zeros(WIDTH)
        )
        assert batch.query_category[row] == maps.category.lookup(hashes([example.category]))[0]


def test_collate_pads_to_the_limits_when_fixed() -> None:
    batch = collate(Examples.of([labelled(1, KNOWN, n=3, depth=0)]), id_maps(), width=WIDTH, history=10, fixed=True)
    assert batch.cand_num.shape == (1, N_MAX, len(NUM_COLUMNS))
    assert batch.hist_num.shape == (1, 10, 2)
    assert batch.cand_mask.sum() == 3


def test_only_the_newest_pages_are_kept() -> None:
    examples = Examples.of([labelled(seed, KNOWN, depth=3) for seed in range(9)])
    every, newest, none = (collate(examples, id_maps(), width=WIDTH, pages=pages) for pages in (5, 2, 0))
    assert every.page_id[:, 2:].any()
    assert np.array_equal(newest.page_id, every.page_id[:, :2])
    assert none.page_id.shape == (9, 0, 6, 4)


def test_numbers_are_those_of_the_models_schema() -> None:
    examples = [labelled(seed, KNOWN) for seed in range(3)]
    new, old = batch_of(examples), collate(Examples.of(examples), id_maps(), width=WIDTH, history=10, schema=1)
    types = [column for column, name in enumerate(NUM_COLUMNS) if name.startswith("type_")]
    assert new.cand_num[..., types].any()
    assert np.array_equal(np.delete(new.cand_num, types, axis=2), old.cand_num)
    assert old.cand_num.shape[2] == len(SCHEMAS[1].numbers)


def test_vectors_of_another_width_count_as_missing() -> None:
    batch = collate(Examples.of([labelled(1, KNOWN)]), id_maps(), width=WIDTH + 1)
    assert batch.cand_img.shape[2] == WIDTH + 1
    assert not batch.cand_img_mask.any()
    assert not batch.hist_txt_mask.any()


def test_an_id_that_is_not_there_is_padding() -> None:
    batch = collate(Examples.of([request([item("a", category="")])]), IdMaps.empty(dict.fromkeys(TABLES, 4)), width=4)
    assert batch.cand_id.tolist() == [[[1, 0, 0, 0]]]
    assert batch.query_category.tolist() == [0]


def test_a_batch_stored_without_newer_fields_has_unknown_ones() -> None:
    batch = batch_of([labelled(seed, KNOWN) for seed in range(3)])
    newer = {"position", "latency_ms", "query_token", "query_path", "query_vec", "query_vec_mask"}
    stored = {name: column for name, column in batch._asdict().items() if name not in newer}
    read = batch_from_columns(stored)
    for name in newer:
        ours, theirs = getattr(read, name), getattr(batch, name)
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), name
        assert not ours.any(), name
    assert all(np.array_equal(getattr(read, name), column) for name, column in stored.items())
    again = batch_from_columns(batch._asdict())
    assert all(np.array_equal(getattr(again, name), getattr(batch, name)) for name in Batch._fields)
    with pytest.raises(KeyError, match="click_weight"):
        batch_from_columns({name: column for name, column in stored.items() if name != "click_weight"})


def test_collate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no example"):
        collate(ExampleBuilder(KNOWN).from_sessions([])[0], id_maps(), width=WIDTH)
