from dataclasses import replace

import numpy as np
import pytest
import torch

from stream.errors import ArtifactError
from tests.trainer.lists import batch_of, catalogue, labelled
from trainer.features import Batch
from trainer.features.collate import MODEL_INPUTS
from trainer.models import MODELS, golden_scores, to_torch
from trainer.versions.graph import Graph, check
from trainer.versions.onnx_export import export, reason_against

KNOWN = catalogue()


def lists(*sizes: tuple[int, int]) -> Batch:
    """Lists of so many candidates and behaviours."""
    return batch_of([labelled(seed, KNOWN, n=n, depth=depth) for seed, (n, depth) in enumerate(sizes)])


SAMPLE = lists((6, 3))
WITHOUT_GRAPH = {"dlcm": "sort", "mmr": "loop", "dpp": "loop"}


@pytest.mark.parametrize("model", sorted(set(MODELS) - set(WITHOUT_GRAPH)))
def test_a_graph_gives_the_scores_of_torch_for_lists_of_any_length(model: str) -> None:
    spec = MODELS[model]
    config = spec.profiles["tiny"]
    generator = torch.Generator().manual_seed(5)
    # Fresh biases are all 0, and would hide that one stands for another.
    weights = {
        name: weight + 0.05 * torch.empty(weight.shape).normal_(generator=generator)
        for name, weight in spec.init(config, 5).items()
    }
    graph = Graph(export(model, config, SAMPLE), {name: weight.numpy() for name, weight in weights.items()})
    for batch in (lists((30, 12)), lists((1, 0)), lists((7, 1), (30, 0), (3, 12)), lists((2, 2))):
        with torch.no_grad():
            expected = golden_scores(spec.forward(config, weights, to_torch(batch))).numpy()
        found = graph.golden(batch)
        assert found.shape == expected.shape
        check(found, expected, batch.cand_mask)
        assert np.abs(found - expected).max() < 1e-4
        assert spec.chooses_pages != np.array_equal(graph.scores(batch), found)


@pytest.mark.parametrize(("model", "reason"), WITHOUT_GRAPH.items())
def test_a_model_without_a_graph_is_refused_by_name(model: str, reason: str) -> None:
    config = MODELS[model].profiles["tiny"]
    assert reason in (reason_against(model, config) or "")
    with pytest.raises(ArtifactError, match=f"model {model} has no graph: .*{reason}"):
        export(model, config, SAMPLE)


def test_armmt_as_the_evaluator_of_pages_has_no_graph() -> None:
    config = replace(MODELS["pier"].profiles["tiny"], evaluator="armmt")  # type: ignore[call-arg] # of PIER's own class
    with pytest.raises(ArtifactError, match="model pier has no graph: its evaluator armmt scores many pages"):
        export("pier", config, SAMPLE)


def test_a_graph_holds_no_weights_and_fits_tables_of_any_size() -> None:
    spec = MODELS["prm"]
    config = spec.profiles["tiny"]
    graph = export("prm", config, SAMPLE)
    weights = {name: weight.numpy() for name, weight in spec.init(config, 1).items()}
    assert len(graph) < sum(weight.nbytes for weight in weights.values()) / 3
    assert export("prm", config, lists((30, 12), (2, 0))) is graph
    doubled = {name: np.concatenate([own, own]) if name.startswith("rows.") else own for name, own in weights.items()}
    assert np.array_equal(Graph(graph, doubled).scores(SAMPLE), Graph(graph, weights).scores(SAMPLE))


def test_a_graph_reads_no_field_that_is_unknown_when_a_list_is_scored() -> None:
    assert MODEL_INPUTS[-1] == "query_vec_mask"
    assert not set(MODEL_INPUTS) & {"click", "conv", "money", "click_weight", "weight", "position", "latency_ms"}
