"""Compiled steps: padded to one shape, close to plain ones, bit-equal after a restart, refused without a compiler."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stream import db
from stream.errors import ConfigError
from tests.trainer.harness import LINEAGE, feed, make_loop, weights
from tests.trainer.lists import catalogue, labelled
from tests.trainer.session_log import make_log
from trainer.configs import MODEL_PROFILES, LearningSettings
from trainer.features import N_MAX, Examples, SessionExample
from trainer.learning import forward
from trainer.learning import learner as learner_module
from trainer.learning import weights as weights_module
from trainer.learning.learner import Learner
from trainer.learning.training_lists import TrainingLists
from trainer.models import TensorBatch, to_torch
from trainer.models.batch import PageTargets
from trainer.models.blocks import Dropout

BATCH = 4


def learner(*, compile: bool, model: str = "prm") -> Learner:  # noqa: A002 - the name of the setting
    # A step of Adagrad is proportional to a small gradient; one of AdamW would make rounding errors large.
    learning = LearningSettings(batch=BATCH, compile=compile, min_sightings=1, optimizer="adagrad", lr=0.07)
    return Learner(model, MODEL_PROFILES[model]["tiny"], learning, device=torch.device("cpu"))


def examples(count: int, *, n: int | None = None) -> list[SessionExample]:
    known = catalogue()
    return [labelled(seed, known, n=n) for seed in range(count)]


def train(own: Learner, lists: list[SessionExample]) -> None:
    for start in range(0, len(lists), BATCH):
        part = lists[start : start + BATCH]
        assert own.train(TrainingLists.without_sessions(Examples.of(part), fresh=True)).moved
        own.at_boundary(60_000 * (start + 1), None)


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steps that are to be compiled run plain on the padded shapes; the list gets the rows of items of each one."""
    rows: list[int] = []

    def stand_in(model: str, config: object, *, device: str, low: bool) -> forward.Forward:
        own = forward.plain(model, config, device=device, low=low)  # type: ignore[arg-type]

        def counted(
            weights: Mapping[str, Tensor],
            batch: TensorBatch,
            label_weight: Tensor | None,
            dropout: Dropout | None,
            page: PageTargets | None = None,
        ) -> forward.Scored:
            assert batch.cand_mask.shape == (BATCH, N_MAX)
            rows.append(weights["rows.item"].shape[0])
            return own(weights, batch, label_weight, dropout, page)

        return counted

    monkeypatch.setattr(weights_module, "compiled", stand_in)
    return rows


def test_padded_steps_learn_what_plain_steps_learn(uncompiled: list[int]) -> None:
    lists = examples(4 * BATCH)
    padded, plain = learner(compile=True), learner(compile=False)
    train(padded, lists)
    train(plain, lists)
    assert uncompiled == [1 + BATCH * (N_MAX + padded.config.history)] * 4, "one shape for all steps"
    for name, weight in plain.params.items():
        torch.testing.assert_close(padded.params[name], weight, rtol=1e-4, atol=1e-6)
    assert not padded.params["rows.item"][0].any()
    assert padded.prequential.means() == pytest.approx(plain.prequential.means(), rel=1e-4)


def test_the_rows_of_pages_fit_into_the_limits() -> None:
    assert forward.row_limits({"item": 10_000}, BATCH, 10, pages=5)["item"] == 1 + BATCH * (N_MAX + 10 + 30)
    config = MODEL_PROFILES["pier"]["tiny"]
    own = learner(compile=False, model="pier")
    assert own.weights._row_limits["item"] == 1 + BATCH * (N_MAX + config.history + 6 * config.num_pages)


def test_smaller_batches_and_longer_lists_are_not_compiled(
    uncompiled: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = learner(compile=True)
    train(own, examples(BATCH + 1))
    assert len(uncompiled) == 1
    monkeypatch.setattr(learner_module, "N_MAX", 5)
    train(own, examples(BATCH, n=6))
    assert len(uncompiled) == 1
    assert own.counters["trained"] == 2 * BATCH + 1


def test_without_a_compiler_the_learner_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*_args: object, **_options: object) -> None:
        raise RuntimeError("No working C++ compiler found\nlong trace")

    monkeypatch.setattr(torch, "compile", no_compiler)
    forward.check_compiler.cache_clear()
    forward.compiled.cache_clear()
    with pytest.raises(ConfigError, match=r"learning\.compile = True: .*: No working C\+\+ compiler found; it needs"):
        learner(compile=True)


@pytest.mark.system
@pytest.mark.parametrize("model", MODEL_PROFILES)
def test_forward_pass_loss_and_gradient_of_each_model_are_one_graph(model: str) -> None:
    own = learner(compile=False, model=model)
    part = examples(BATCH)
    own.observe(Examples.of(part))
    own.at_boundary(60_000, None)
    assert own.train(TrainingLists.without_sessions(Examples.of(part), fresh=True)).moved
    assert own.golden is not None
    plain = forward.plain(model, own.config, device="cpu", low=False)
    graph = torch.compile(plain, backend="aot_eager", fullgraph=True, dynamic=False)
    found = []
    for function in (plain, graph):
        leaves = {name: weight.detach().clone().requires_grad_() for name, weight in own.params.items()}
        outputs, loss, _ = function(leaves, to_torch(own.golden), None, None)
        gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        found.append((outputs.logit.detach(), loss.detach(), dict(zip(leaves, gradients, strict=True))))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


PROGRAM = """
import json, sys
from pathlib import Path
from tests.trainer.learning.test_forward import compiled_run
print(json.dumps(compiled_run(Path(sys.argv[1]), int(sys.argv[2]))))
"""


def compiled_run(folder: Path, until: int) -> dict[str, str]:
    """Train by compiled steps up to a record, from the newest checkpoint on; return the hash of each weight."""
    folder.mkdir(exist_ok=True)
    engine = db.create(f"sqlite:///{folder}/test.db")
    db.metadata.create_all(engine)
    lineage = replace(
        LINEAGE,
        model="mlp",
        config=MODEL_PROFILES["mlp"]["tiny"],
        learning=replace(LINEAGE.learning, compile=True),
    )
    loop = make_loop(folder, engine, lineage=lineage)
    feed(loop, make_log(160)[:until])
    assert loop.learner.batch_number > 3
    return {name: hashlib.sha256(raw).hexdigest() for name, raw in weights(loop).items()}


@pytest.mark.system
def test_compiled_weights_are_bit_equal_after_a_restart_of_the_process(tmp_path: Path) -> None:
    def run(name: str, until: int, cache: str, **more: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path / name), str(until)],
            env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / cache), **more},  # noqa: TID251 - inherited
            capture_output=True,
            text=True,
            check=False,
            timeout=1_800,
        )

    refused = run("refused", 300, "no_cache", CXX="/no/such/compiler")
    assert refused.returncode == 1
    assert "learning.compile = True: torch.compile does not work here" in refused.stderr
    whole = run("whole", 300, "one")
    assert whole.returncode == 0, whole.stderr
    assert run("broken", 150, "one").returncode == 0
    # Another cache: the graph is compiled again.
    resumed = run("broken", 300, "two")
    assert json.loads(resumed.stdout) == json.loads(whole.stdout)
