"""The page of an experiment."""

from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from sqlalchemy import Engine

from abtest import page, page_metrics, render
from abtest.plan import Plan
from abtest.report import decide, report
from abtest.results import Report, Result
from abtest.store import ExperimentStore
from abtest.timeline import LiftAt, Timeline
from stream import db
from tests.harness.generated_facts import ARMS, fill, generate
from tests.harness.stores import new_store


class References(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [str(value) for name, value in attrs if name in {"src", "href", "action"}]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    opened = db.create(new_store(tmp_path_factory.mktemp("page") / "store.db"))
    yield opened
    opened.dispose()


@pytest.fixture(scope="module")
def found(engine: Engine) -> Report:
    fill(engine, generate(seed=19)[0], plan=Plan(min_buyers=20, mde=0.05, clients=600, looks=2))
    return decide(engine, "first")


def test_html_is_one_file_and_repeats_byte_by_byte(engine: Engine, found: Report) -> None:
    shown = page.page_html(found)
    assert shown == page.page_html(report(engine, "first"))
    references = References()
    references.feed(shown)
    assert references.found == []
    assert "svg" in references.tags
    assert "script" not in references.tags
    assert len(found.looks) == 1
    for row in render.look_rows(found):
        assert all(f">{cell}</td>" in shown for cell in row)


def test_the_page_states_the_plan_and_each_lift_once(found: Report) -> None:
    shown = page.page_html(found)
    for text in ("primary metric", "600 clients", "1 of 2 planned", "5.00%", "control 0.5, treatment 0.5"):
        assert text in shown
    entry = found.result("ctr", "treatment")
    assert shown.count(f"{entry.lift:+.2%} <span") == 1
    count = found.counts[1]
    assert f"{count.gross_minor / 100:,.2f} EUR / {count.analysed} clients" in shown, "those of GMV"
    assert f"{count.clicked_orders} / {count.sessions:,}" in shown, "the numerator and denominator of CVR"


def test_metrics_stand_in_the_group_of_their_role(found: Report) -> None:
    goals, guardrails, diagnostics = page_metrics.groups(found)
    assert [metric.title for metric in goals.metrics] == ["CVR", "CTR", "GMV"]
    assert [metric.is_primary for metric in goals.metrics] == [True, False, False]
    assert [metric.title for metric in guardrails.metrics] == ["sessions per client", "fallback share", "latency"]
    assert "clicked GMV" in [metric.title for metric in diagnostics.metrics]
    assert all(metric.rows[0].arm == "control" and metric.rows[0].shape is None for metric in goals.metrics)


def changed(found: Report, **values: object) -> Report:
    """The report with other numbers for CVR of the treatment."""

    def put(entry: Result) -> Result:
        return replace(entry, **values) if (entry.metric, entry.arm) == ("cvr", "treatment") else entry  # type: ignore[arg-type]

    return replace(found, results=tuple(put(entry) for entry in found.results))


@pytest.mark.parametrize(
    ("bounds", "tone"), [((0.01, 0.2), "better"), ((-0.2, -0.01), "worse"), ((-0.01, 0.2), "unclear")]
)
def test_a_sequence_has_the_colour_of_its_direction(found: Report, bounds: tuple[float, float], tone: str) -> None:
    shown = changed(found, lift=0.05, cs_lo=bounds[0], cs_hi=bounds[1], cs_kind="interval")
    shape = page_metrics.groups(shown)[0].metrics[0].rows[1].shape
    assert shape is not None
    assert shape.tone == tone
    assert (shape.open_left, shape.open_right) == (False, False)
    assert shape.left < shape.right


def test_more_of_a_cost_is_worse(found: Report) -> None:
    results = [
        replace(
            entry, lift=0.3, cs_lo=0.1, cs_hi=0.5, cs_kind="interval", mean=5_000.0, mean_control=4_000.0, diff=1_000.0
        )
        if (entry.metric, entry.arm) == ("latency", "treatment")
        else entry
        for entry in found.results
    ]
    (row,) = (
        m.rows[1]
        for m in page_metrics.groups(replace(found, results=tuple(results)))[1].metrics
        if m.title == "latency"
    )
    assert row.shape is not None
    assert (row.shape.tone, row.value, row.difference) == ("worse", "5.00 ms", "+1.00 ms")


def test_one_wide_sequence_flattens_no_other(found: Report) -> None:
    wide = changed(found, lift=3.0, cs_lo=-50.0, cs_hi=400.0, cs_kind="interval")
    rows = [metric.rows[1].shape for metric in page_metrics.groups(wide)[0].metrics]
    assert rows[0] is not None
    assert (rows[0].open_left, rows[0].open_right) == (True, True)
    assert all(shape is not None and shape.right - shape.left > 2.0 for shape in rows[1:])


def test_a_set_without_bounds_and_an_undefined_lift_are_said_in_words(found: Report) -> None:
    assert "any lift" in page.page_html(changed(found, cs_kind="line", cs_lo=None, cs_hi=None))
    assert "undefined: mixed currency" in page.page_html(
        changed(found, lift=None, cs_kind=None, reason="mixed_currency")
    )


def test_an_empty_experiment_says_so_once(store_engine: Engine) -> None:
    ExperimentStore(store_engine).create(key="first", arms=ARMS, now_ts=0)
    shown = page.page_html(report(store_engine, "first"))
    assert "No client was exposed yet." in shown
    assert "no_clients" not in shown
    assert "<h2>Goals</h2>" not in shown
    assert "primary metric" in shown


def test_an_open_arm_says_how_many_days_are_left(found: Report) -> None:
    (arm,) = found.verdicts
    waiting = replace(found, until_ts=found.as_of + 3 * 86_400_000 + 1)
    assert page.arm_line(waiting, replace(arm, verdict="keep running")).endswith(
        "4 days left at the present rate of clients"
    )
    assert page.arm_line(waiting, replace(arm, verdict="ship")) == arm.reason


def test_lifts_over_time_are_drawn_from_the_second_report_on(found: Report) -> None:
    points = [
        LiftAt(as_of=at, metric="cvr", arm="treatment", lift=lift, cs_lo=lift - 0.1, cs_hi=lift + 0.1)
        for at, lift in ((0, 0.0), (3_600_000, 0.1))
    ]
    assert page.charts(replace(found, timeline=Timeline(lifts=tuple(points[:1])))) == []
    (chart,) = page.charts(replace(found, timeline=Timeline(lifts=tuple(points))))
    assert (chart.title, chart.first, chart.last) == ("CVR", "01-01 00:00", "01-01 01:00")
    assert chart.line == f"0,{chart.zero:g} 100,{next(at for at, label in chart.ticks if label == '+10 %'):g}"


def test_text_is_escaped(found: Report) -> None:
    assert "<li>a&lt;b</li>" in page.page_html(replace(found, caveats=("a<b",)))
