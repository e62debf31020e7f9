import copy
import re
from pathlib import Path

import msgspec
import pytest

from deploy.grafana import compare, generate, model
from tests.harness.grafana import queries
from tests.harness.grafana.lint import lint

DOCUMENTS = {name: msgspec.json.decode(content, type=model.Json) for name, content in generate.rendered().items()}


def test_committed_files_are_what_the_builders_give() -> None:
    assert generate.drift() == []


def test_drift_names_stale_missing_and_foreign_files(tmp_path: Path) -> None:
    first, second = generate.write(tmp_path)
    assert generate.write(tmp_path) == []
    first.write_bytes(first.read_bytes() + b" ")
    second.rename(tmp_path / "other.json")
    assert generate.drift(tmp_path) == [
        f"{second.name}: missing",
        f"{first.name}: differs from its builder",
        "other.json: no builder makes it",
    ]
    assert sorted(generate.write(tmp_path)) == sorted([first, second])


def test_committed_dashboards_keep_the_rules() -> None:
    assert lint(DOCUMENTS) == []


def test_there_are_two_dashboards_on_their_own_data_source() -> None:
    loop, experiment = (queries.parse(content) for content in generate.rendered().values())
    assert (loop.uid, experiment.uid) == ("shelfwise-loop", "shelfwise-experiment")
    assert len(queries.promql_panels(loop)) > 30
    assert queries.sql_panels(loop) == []
    assert len(queries.sql_panels(experiment)) > 15
    assert queries.promql_panels(experiment) == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_dashboard_opens_on_the_provisioned_data_source_with_a_colour_per_name(name: str) -> None:
    provisioned = (Path(generate.__file__).parent / "provisioning/datasources/shelfwise.yaml").read_text()
    templating = msgspec.convert(DOCUMENTS[name]["templating"], dict[str, list[dict[str, object]]])
    current = msgspec.convert(templating["list"][0]["current"], dict[str, object])
    assert f"name: {current['text']}\n    uid: {current['value']}\n" in provisioned
    text = generate.rendered()[name].decode()
    assert set(re.findall(r'"mode": "(palette[^"]*)"', text)) == {"palette-classic-by-name"}


def test_ticks_are_no_events() -> None:
    loop = queries.parse(generate.rendered()["shelfwise-loop.json"])
    [events] = [panel for panel in loop.panels if panel.title == "Events in"]
    assert all('{topic!="ticks"}' in target.expr for target in events.targets)


def _panel() -> dict[str, object]:
    return {
        "id": 2,
        "type": "timeseries",
        "title": "Rate",
        "description": "What it is.",
        "gridPos": {"h": 8, "w": 8, "x": 0, "y": 1},
        "datasource": {"type": "prometheus", "uid": "${prometheus}"},
        "fieldConfig": {"defaults": {"unit": "ops"}, "overrides": []},
        "targets": [
            {
                "refId": "A",
                "datasource": {"type": "prometheus", "uid": "${prometheus}"},
                "expr": "sum(rate(a_total[$__rate_interval]))",
            }
        ],
    }


def _document(panel: dict[str, object], **changes: object) -> dict[str, model.Json]:
    base = copy.deepcopy(DOCUMENTS["shelfwise-loop.json"])
    return {"x": {**base, "panels": [panel], **changes}}


def test_the_rules_accept_a_sound_panel() -> None:
    assert lint(_document(_panel())) == []


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"uid": ""}, "uid: expected"),
        ({"uid": "Has Spaces"}, "uid: expected"),
        ({"description": ""}, "description is missing"),
        ({"id": 4}, "id belongs to one server"),
        ({"__inputs": []}, "__inputs belongs"),
        ({"editable": True}, "editable: expected false"),
        ({"schemaVersion": 39}, "schemaVersion: expected 42"),
    ],
)
def test_the_rules_for_dashboards(changes: dict[str, object], finding: str) -> None:
    found = lint(_document(_panel(), **changes))
    assert [text for text in found if finding in text], found


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"title": ""}, "title is missing"),
        ({"description": ""}, "description is missing"),
        ({"fieldConfig": {"defaults": {"unit": "percentunits"}, "overrides": []}}, "unit: expected"),
        ({"fieldConfig": {"defaults": {}, "overrides": []}}, "unit: expected"),
        ({"targets": []}, "has no targets"),
        ({"datasource": {"type": "prometheus", "uid": "P1809"}}, "expected a variable of type datasource"),
        ({"datasource": None}, "expected a variable of type datasource"),
        ({"datasource": {"type": "postgres", "uid": "${prometheus}"}}, "expected a plugin"),
        ({"gridPos": {"h": 8, "w": 8, "x": 20, "y": 1}}, "leaves the grid"),
    ],
)
def test_the_rules_for_panels(changes: dict[str, object], finding: str) -> None:
    found = lint(_document({**_panel(), **changes}))
    assert [text for text in found if finding in text], found


@pytest.mark.parametrize(
    ("expr", "finding"),
    [
        ("sum(a_total)", "counter a_total stands outside"),
        ("sum(rate(a_total[5m]))", "window [5m]"),
        ("sum(rate(a_total[$__interval]))", "window [$__interval]"),
        ("histogram_quantile(0.9, a_seconds_bucket)", "counter a_seconds_bucket stands outside"),
        ("sum(rate(a_total[$__rate_interval])", "unbalanced"),
        ('up{lineage=~"$nothing"}', "variable $nothing is not declared"),
        ("", "has no query"),
    ],
)
def test_the_rules_for_promql(expr: str, finding: str) -> None:
    target = {"refId": "A", "datasource": {"type": "prometheus", "uid": "${prometheus}"}, "expr": expr}
    found = lint(_document({**_panel(), "targets": [target]}))
    assert [text for text in found if finding in text], found


@pytest.mark.parametrize(
    ("sql", "finding"),
    [
        ("SELECT * FROM v_traffic WHERE $__timeFilter(time)", "SELECT *"),
        ("SELECT time FROM v_traffic", "needs $__timeFilter"),
        ("SELECT $__timeGroupAlias(time, '5m') FROM t WHERE $__timeFilter(time)", "macro $__timeGroupAlias"),
        ("SELECT 1 FROM t WHERE $__timeFilter(to_timestamp(x))", "hold no parentheses"),
        ("SELECT 1 FROM t WHERE $__timeFilter(time) AND a = '$lineage'", "sqlstring"),
        ("SELECT 1 FROM t WHERE $__timeFilter(time) AND a = ${nothing:sqlstring}", "$nothing is not declared"),
    ],
)
def test_the_rules_for_sql(sql: str, finding: str) -> None:
    target = {
        "refId": "A",
        "datasource": {"type": "prometheus", "uid": "${prometheus}"},
        "rawSql": sql,
        "format": "time_series",
    }
    found = lint(_document({**_panel(), "targets": [target]}))
    assert [text for text in found if finding in text], found


def test_overlaps_and_double_names_are_found() -> None:
    panel = _panel()
    document = _document(panel)["x"]
    document["panels"] = [panel, panel]
    found = lint({"a": document, "b": document})
    for finding in (
        "covers ['Rate']",
        "panel id 2 is used 2 times",
        "title 'Rate' is used 2 times",
        "uid 'shelfwise-loop'",
    ):
        assert [text for text in found if finding in text], found


def test_rendering_is_deterministic() -> None:
    assert generate.rendered() == generate.rendered()
    for content in generate.rendered().values():
        assert re.search(rb"20\d\d-\d\d-\d\d", content) is None


def test_difference_ignores_what_only_the_server_has() -> None:
    ours = {"title": "a", "panels": [{"id": 1}, {"id": 2}], "none": None}
    assert compare.differences(ours, {"title": "a", "panels": [{"id": 1, "x": 0}, {"id": 2}], "style": "dark"}) == []
    assert compare.differences(ours, {"panels": [{"id": 1}]}) == [
        "/title: missing there",
        "/panels: ours has 2 entries, theirs 1",
    ]
    assert compare.differences(ours, {"title": "a", "panels": [{"id": 1}, {"id": 3}]}) == [
        "/panels/1/id: ours 2, theirs 3"
    ]
