"""Records of a dashboard and their rendering as classic dashboard JSON (schema version 42).

Pure: the same records give the same bytes. Panels flow from left to right in the given order, 24 columns wide.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Json: TypeAlias = dict[str, object]
Kind: TypeAlias = Literal["stat", "timeseries", "table", "state-timeline", "barchart"]
Source: TypeAlias = Literal["prometheus", "postgres"]

SCHEMA_VERSION = 42
COLUMNS = 24
# Name of the data source variable to the plugin id that Grafana 11 and later use.
PLUGINS: Mapping[Source, str] = {"prometheus": "prometheus", "postgres": "grafana-postgresql-datasource"}
# Name and uid of the provisioned data sources. Without a current value Grafana opens on the first one of the plugin.
PROVISIONED: Mapping[Source, tuple[str, str]] = {
    "prometheus": ("Shelfwise Prometheus", "shelfwise-prometheus"),
    "postgres": ("Shelfwise PostgreSQL", "shelfwise-postgres"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Target of a panel.

    Attributes:
        text: PromQL or SQL.
        legend: Name of a PromQL series, with labels as `{{label}}`.
        series: SQL only: True if the rows are a time series (columns `time`, `metric`, value), False for a table.
        instant: PromQL only: one value at the end of the range.
    """

    text: str
    legend: str = ""
    series: bool = False
    instant: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Panel of a dashboard.

    Attributes:
        title: Short heading.
        description: Meaning of the numbers and the action to take; shown behind the (i).
        unit: Grafana unit id of the values.
        kind: Panel plugin.
        queries: Targets, in order A, B, C.
        width: Columns of 24.
        height: Grid rows.
        thresholds: Values with colours, ascending; the first entry is the base colour and its value is ignored.
        low, high: Axis bounds.
        decimals: Digits after the point.
        options: Options of the plugin that differ from the kind's own.
        overrides: Per-field settings as Grafana's override list.
        stack: True to stack the series of a time series panel.
    """

    title: str
    description: str
    unit: str
    kind: Kind
    queries: tuple[Query, ...]
    width: int = 8
    height: int = 8
    thresholds: tuple[tuple[float, str], ...] = ()
    low: float | None = None
    high: float | None = None
    decimals: int | None = None
    options: Json = field(default_factory=dict)
    overrides: tuple[Json, ...] = ()
    stack: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Row heading and the panels under it."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """Query variable; `many` allows several values and All."""

    name: str
    label: str
    query: str
    many: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Link in the head of the dashboard; it carries the time range and the variables."""

    title: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """Dashboard on one data source."""

    uid: str
    title: str
    description: str
    source: Source
    sections: tuple[Section, ...]
    variables: tuple[Variable, ...] = ()
    links: tuple[Link, ...] = ()
    annotations: tuple[Json, ...] = ()
    since: str = "now-1h"
    refresh: str = "10s"


def datasource(source: Source) -> Json:
    """Return the reference to the data source variable of `source`."""
    return {"type": PLUGINS[source], "uid": f"${{{source}}}"}


def render(dashboard: Dashboard) -> Json:
    """Return the dashboard as Grafana's JSON model."""
    return {
        "annotations": {"list": [*dashboard.annotations]},
        "description": dashboard.description,
        "editable": False,
        "fiscalYearStartMonth": 0,
        "graphTooltip": 1,
        "links": [_link(link) for link in dashboard.links],
        "panels": _flow(dashboard),
        "refresh": dashboard.refresh,
        "schemaVersion": SCHEMA_VERSION,
        "tags": ["shelfwise"],
        "templating": {
            "list": [
                *_source_variables(dashboard),
                *(_variable(v, dashboard.source) for v in dashboard.variables),
            ]
        },
        "time": {"from": dashboard.since, "to": "now"},
        "timepicker": {},
        "timezone": "utc",
        "title": dashboard.title,
        "uid": dashboard.uid,
        "weekStart": "",
    }


def _source_variables(dashboard: Dashboard) -> list[Json]:
    """Return the variables of the panels' data source, and of those that annotations read besides."""
    used = [annotation["datasource"] for annotation in dashboard.annotations]
    others = [source for source in PLUGINS if source != dashboard.source and datasource(source) in used]
    return [
        _source_variable(dashboard.source, "Data source"),
        *(_source_variable(source, "Annotations") for source in others),
    ]


def _flow(dashboard: Dashboard) -> list[Json]:
    placed: list[Json] = []
    y = 0
    for section in dashboard.sections:
        placed.append(
            {
                "collapsed": False,
                "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": y},
                "id": len(placed) + 1,
                "panels": [],
                "title": section.title,
                "type": "row",
            }
        )
        y += 1
        x = row_height = 0
        for panel in section.panels:
            if x + panel.width > COLUMNS:
                y, x, row_height = y + row_height, 0, 0
            place = {"h": panel.height, "w": panel.width, "x": x, "y": y}
            placed.append(_panel(panel, dashboard.source, len(placed) + 1, place))
            x, row_height = x + panel.width, max(row_height, panel.height)
        y += row_height
    return placed


def _panel(panel: Panel, source: Source, number: int, place: Mapping[str, int]) -> Json:
    return {
        "datasource": datasource(source),
        "description": panel.description,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": [*panel.overrides]},
        "gridPos": dict(place),
        "id": number,
        "options": _OPTIONS[panel.kind] | panel.options,
        "targets": [_target(query, source, chr(ord("A") + index)) for index, query in enumerate(panel.queries)],
        "title": panel.title,
        "type": panel.kind,
    }


def _defaults(panel: Panel) -> Json:
    steps = [
        {"color": color, "value": None if index == 0 else value}
        for index, (value, color) in enumerate(panel.thresholds or ((0, "text"),))
    ]
    defaults: Json = {
        "color": {"mode": "thresholds" if panel.kind in {"stat", "table"} else "palette-classic-by-name"},
        "custom": _CUSTOM[panel.kind]
        | ({"stacking": {"group": "A", "mode": "normal"}, "fillOpacity": 40} if panel.stack else {}),
        "mappings": [],
        "thresholds": {"mode": "absolute", "steps": steps},
        "unit": panel.unit,
    }
    bounds = {"min": panel.low, "max": panel.high, "decimals": panel.decimals}
    return defaults | {key: value for key, value in bounds.items() if value is not None}


def _target(query: Query, source: Source, ref: str) -> Json:
    common: Json = {"datasource": datasource(source), "refId": ref}
    if source == "prometheus":
        mode = {"instant": query.instant, "range": not query.instant}
        return common | {"editorMode": "code", "expr": query.text, "legendFormat": query.legend or "__auto"} | mode
    shape = "time_series" if query.series else "table"
    return common | {"editorMode": "code", "format": shape, "rawQuery": True, "rawSql": query.text}


def _source_variable(source: Source, label: str) -> Json:
    name, uid = PROVISIONED[source]
    return {
        "current": {"selected": True, "text": name, "value": uid},
        "hide": 0,
        "includeAll": False,
        "label": label,
        "multi": False,
        "name": source,
        "options": [],
        "query": PLUGINS[source],
        "refresh": 1,
        "regex": "",
        "skipUrlSync": False,
        "type": "datasource",
    }


def _variable(variable: Variable, source: Source) -> Json:
    rendered: Json = {
        "datasource": datasource(source),
        "hide": 0,
        "includeAll": variable.many,
        "label": variable.label,
        "multi": variable.many,
        "name": variable.name,
        "options": [],
        "query": variable.query,
        "refresh": 2,
        "regex": "",
        "skipUrlSync": False,
        "sort": 1,
        "type": "query",
    }
    if variable.many:
        rendered["current"] = {"selected": True, "text": ["All"], "value": ["$__all"]}
    if variable.many and source == "prometheus":
        # A pattern also matches values that appear after the variable was last read.
        rendered["allValue"] = ".*"
    return rendered


def _link(link: Link) -> Json:
    return {
        "asDropdown": False,
        "icon": "external link",
        "includeVars": True,
        "keepTime": True,
        "tags": [],
        "targetBlank": False,
        "title": link.title,
        "tooltip": "",
        "type": "link",
        "url": link.url,
    }


_LEGEND: Json = {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": True}
_OPTIONS: Mapping[Kind, Json] = {
    "stat": {
        "colorMode": "value",
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "auto",
    },
    "timeseries": {"legend": _LEGEND, "tooltip": {"hideZeros": False, "mode": "multi", "sort": "desc"}},
    "table": {"cellHeight": "sm", "showHeader": True},
    "state-timeline": {
        "alignValue": "left",
        "legend": _LEGEND,
        "mergeValues": True,
        "rowHeight": 0.9,
        "showValue": "auto",
        "tooltip": {"hideZeros": False, "mode": "single", "sort": "none"},
    },
    "barchart": {
        "barRadius": 0,
        "barWidth": 0.8,
        "fullHighlight": False,
        "groupWidth": 0.7,
        "legend": _LEGEND,
        "orientation": "auto",
        "showValue": "auto",
        "stacking": "none",
        "tooltip": {"hideZeros": False, "mode": "multi", "sort": "none"},
        "xTickLabelRotation": 0,
        "xTickLabelSpacing": 0,
    },
}
_CUSTOM: Mapping[Kind, Json] = {
    "stat": {},
    "timeseries": {
        "axisPlacement": "auto",
        "drawStyle": "line",
        "fillOpacity": 10,
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "showPoints": "auto",
        "spanNulls": True,
    },
    "table": {"align": "auto", "cellOptions": {"type": "auto"}, "filterable": False},
    "state-timeline": {"fillOpacity": 70, "lineWidth": 0},
    "barchart": {"fillOpacity": 80, "lineWidth": 1},
}


def override(field_name: str, properties: Sequence[tuple[str, object]]) -> Json:
    """Return the override that sets `properties` on the field called `field_name`."""
    return {
        "matcher": {"id": "byName", "options": field_name},
        "properties": [{"id": key, "value": value} for key, value in properties],
    }
