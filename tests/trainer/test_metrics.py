from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from stream import db
from tests.trainer.harness import NO_PAST, feed, make_loop
from tests.trainer.session_log import make_log
from trainer.freshness import QUANTILES
from trainer.graded_pages import GradedPages
from trainer.metrics import LoopCollector
from trainer.versions.registry import Registry


def test_metrics_name_the_lineage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = db.create("sqlite://")
    db.metadata.create_all(engine)
    loop = make_loop(tmp_path, engine)
    registry = CollectorRegistry()
    registry.register(LoopCollector("test", loop, lambda: 5.0))

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"shelfwise_trainer_{name}", {"lineage": "test", **labels})

    assert value("sessions_total") == 0
    assert value("checkpoint_age_seconds") is None
    assert value("version_bytes") is None
    assert value("freshness_seconds", quantile="0.5") is None
    feed(loop, make_log(60))
    loop.feed.num_rejected = 3  # type: ignore[misc]  # a ListFeed's counter is a plain field
    loop.progress.num_failed_writes = 2
    assert value("sessions_total") == loop.learner.counters["trained"] > 0
    assert value("version") == loop.progress.version > 0
    newest = Registry(engine).versions("test")[-1].artifact
    files = (tmp_path / "artifacts" / newest).glob("*.safetensors")
    assert value("version_bytes") == sum(file.stat().st_size for file in files)
    assert value("checkpoint_age_seconds") == 5
    assert {share: value("freshness_seconds", quantile=str(share)) for share in QUANTILES} == loop.progress.freshness
    assert len(loop.progress.freshness) == len(QUANTILES)
    assert value("skipped_total", reason="undecodable") == 0
    assert 0 < (value("prequential", series="arrival", label="click", metric="auc") or 0) < 1
    assert value("loss", part="main") is not None
    assert value("batches_total") == loop.learner.batch_number
    assert value("published_total") == loop.progress.num_published
    assert value("failed_writes_total") == 2
    assert value("graded_pages_total", outcome="learned") is None
    loop.graded = GradedPages(lambda: (), NO_PAST, batch=1, passes=1)
    loop.graded.outcomes["learned"] = 3
    assert value("graded_pages_total", outcome="learned") == 3
    assert value("items_rejected_total") == 3
    assert value("breaker_open", breaker="hold") == value("breaker_open", breaker="click_rate") == 0
    assert value("quarantined_ranges_total") == 0
    assert value("pending") == len(loop.learner.pending)
    for outcome in ("kept", "other_category"):
        assert value("behaviours_total", outcome=outcome) == loop.learner.behaviours[outcome]
    assert sum(loop.learner.behaviours.values()) > 0
    assert value("labels_total") == loop.learner.labels.num > 0
    # Without a curve all labels weigh the same.
    assert value("effective_labels") == loop.learner.labels.num
    for table in ("item", "shop", "brand", "category"):
        for row in ("own", "cold"):
            assert value("candidates_total", table=table, row=row) == loop.learner.candidates[table, row] > 0
    assert (value("watermark_timestamp_seconds") or 0) > 1.7e9
    weighed = {"unit": "cafu_item", "modality": "image", "category": "shoes"}
    assert value("modality_weight", **weighed) is None
    monkeypatch.setattr(loop.learner.modalities, "means", lambda: {tuple(weighed.values()): 0.25})
    assert value("modality_weight", **weighed) == 0.25
