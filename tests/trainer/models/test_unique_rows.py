import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.replicas.catalogue import Catalogue
from tests.trainer.session_log import START_TS, make_items, make_session
from trainer.features import TABLES, Batch, Examples, collate, example_from_session
from trainer.features.hash_index import Hashes
from trainer.features.id_maps import IdMaps
from trainer.models import MODELS, ModelConfig, to_torch
from trainer.models.unique_rows import gather_unique_rows

CAPACITIES = {"item": 60, "shop": 9, "brand": 9, "category": 9}


def make_batch(config: ModelConfig, seed: int = 0, sessions: int = 6) -> Batch:
    rng = np.random.default_rng(seed)
    catalogue = Catalogue(make_items())
    maps = IdMaps.empty(CAPACITIES)
    examples = []
    for number in range(sessions):
        session = make_session(number, rng, watermark_ts=START_TS, orders=[1])
        session.hist_pages = [session.item_id[:2], [f"i{number}"]]
        examples.append(example_from_session(session, catalogue))
    for kind, id_map in enumerate(maps.by_name().values()):
        for example in examples[::2]:
            id_map.observe(Hashes.of(example.entity[:, kind].repeat(2, axis=0)))
        id_map.at_boundary(0)
    return collate(Examples.of(examples), maps, width=config.vector_width, history=config.history)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 50))
def test_gathered_rows_are_those_of_the_slots(seed: int) -> None:
    batch = make_batch(MODELS["prm"].profiles["tiny"], seed)
    local, touched, _ = gather_unique_rows(batch)
    for kind, table in enumerate(TABLES):
        assert touched[table][0] == 0
        assert (np.diff(touched[table]) > 0).all()
        np.testing.assert_array_equal(touched[table][local.cand_id[..., kind]], batch.cand_id[..., kind])
        np.testing.assert_array_equal(touched[table][local.hist_id[..., kind]], batch.hist_id[..., kind])
        np.testing.assert_array_equal(touched[table][local.page_id[..., kind]], batch.page_id[..., kind])
    np.testing.assert_array_equal(touched["category"][local.query_category], batch.query_category)


def test_scores_of_gathered_rows_equal_those_of_whole_tables() -> None:
    spec = MODELS["armmt"]
    config = spec.profiles["tiny"]
    params = spec.init(config, 0)
    batch = make_batch(config)
    local, touched, _ = gather_unique_rows(batch)
    rows = {f"rows.{table}": params[f"rows.{table}"][torch.from_numpy(own)] for table, own in touched.items()}
    whole = spec.forward(config, params, to_torch(batch)).logit
    gathered = spec.forward(config, params | rows, to_torch(local)).logit
    assert torch.equal(whole, gathered)


def test_replayed_lists_read_rows_of_their_own() -> None:
    batch = make_batch(MODELS["prm"].profiles["tiny"])
    replayed = np.array([False, True, False, True, True, False])
    local, touched, fixed = gather_unique_rows(batch, replayed)
    assert fixed["item"].size, "the test needs candidates with rows of their own"
    for kind, table in enumerate(TABLES):
        slots = np.concatenate([touched[table], fixed[table]])
        own, numbers = batch.cand_id[..., kind], local.cand_id[..., kind]
        np.testing.assert_array_equal(slots[numbers], own)
        np.testing.assert_array_equal(slots[local.hist_id[..., kind]], batch.hist_id[..., kind])
        np.testing.assert_array_equal(slots[local.page_id[..., kind]], batch.page_id[..., kind])
        is_fixed = numbers >= len(touched[table])
        np.testing.assert_array_equal(is_fixed, replayed[:, None] & (own != 0))
        assert set(touched[table]) >= {0, *own[~replayed].ravel()}
    slots = np.concatenate([touched["category"], fixed["category"]])
    np.testing.assert_array_equal(slots[local.query_category], batch.query_category)
    np.testing.assert_array_equal(slots[local.query_path], batch.query_path)
