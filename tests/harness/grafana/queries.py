"""Read the queries out of dashboard JSON and expand macros and variables as Grafana's back end does.

Pure: times and variable values are arguments. Covers the macros and formats that the lint allows, no others.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from deploy.grafana.model import Source

MACRO = re.compile(r"\$__(\w+)\(([^()]*)\)")
VARIABLE = re.compile(r"\$\{(\w+)(?::(\w+))?\}|\$(?!__)(\w+)")
SQL_MACROS = frozenset({"timeFilter", "timeGroup", "timeFrom", "timeTo"})
PROMQL_INTERVALS = frozenset({"$__rate_interval", "$__range", "$__interval"})
_DURATION = re.compile(r"(\d+)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Target(msgspec.Struct, frozen=True, rename="camel"):
    """One query of a panel as it stands in the JSON."""

    ref_id: str
    expr: str = ""
    raw_sql: str = ""
    format: str = ""
    instant: bool = False


class PanelModel(msgspec.Struct, frozen=True):
    """One panel as it stands in the JSON; rows have no targets."""

    id: int
    type: str
    title: str = ""
    targets: tuple[Target, ...] = ()


class VariableModel(msgspec.Struct, frozen=True, rename="camel"):
    """One dashboard variable as it stands in the JSON."""

    name: str
    type: str
    query: str
    multi: bool = False
    all_value: str | None = None


class Templating(msgspec.Struct, frozen=True):
    """The list of variables."""

    list: tuple[VariableModel, ...]


class TimeRange(msgspec.Struct, frozen=True):
    """The range that the dashboard opens with, such as `now-1h`."""

    start: str = msgspec.field(name="from")
    end: str = msgspec.field(name="to")


class DashboardModel(msgspec.Struct, frozen=True):
    """The parts of a dashboard that hold queries."""

    uid: str
    title: str
    panels: tuple[PanelModel, ...]
    templating: Templating
    time: TimeRange


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelQuery:
    """One query and the panel that it belongs to."""

    panel: str
    ref: str
    source: Source
    text: str
    series: bool = False
    instant: bool = False


def parse(document: bytes) -> DashboardModel:
    """Return the parts of a dashboard's JSON that its queries need.

    Raises:
        msgspec.ValidationError: If the document is no dashboard.
    """
    return msgspec.json.decode(document, type=DashboardModel)


def promql_panels(dashboard: DashboardModel) -> list[PanelQuery]:
    """Return every PromQL target in panel order."""
    return [
        PanelQuery(panel=panel.title, ref=target.ref_id, source="prometheus", text=target.expr, instant=target.instant)
        for panel in dashboard.panels
        for target in panel.targets
        if target.expr
    ]


def sql_panels(dashboard: DashboardModel) -> list[PanelQuery]:
    """Return every SQL target in panel order."""
    return [
        PanelQuery(
            panel=panel.title,
            ref=target.ref_id,
            source="postgres",
            text=target.raw_sql,
            series=target.format == "time_series",
        )
        for panel in dashboard.panels
        for target in panel.targets
        if target.raw_sql
    ]


def query_variables(dashboard: DashboardModel) -> list[VariableModel]:
    """Return the variables whose values come from a query, in order: later ones may use earlier ones."""
    return [variable for variable in dashboard.templating.list if variable.type == "query"]


def seconds(duration: str) -> int:
    """Return the seconds of a Grafana duration.

    >>> seconds("5m")
    300

    Raises:
        ValueError: If the text is no number with one of the units s, m, h, d.
    """
    match = _DURATION.fullmatch(duration)
    if match is None:
        raise ValueError(f"expected a duration such as 30s, 5m, 1h or 2d, got '{duration}'")
    return int(match[1]) * _SECONDS[match[2]]


def expand_promql(text: str, variables: Mapping[str, str], *, step_s: int, scrape_s: int, range_s: int) -> str:
    """Return PromQL with intervals and variables filled in.

    Args:
        text: The panel's expression.
        variables: Variable name to the pattern to put in.
        step_s: Resolution of the range query.
        scrape_s: Scrape interval; `$__rate_interval` is max(step + scrape, 4 x scrape), as Grafana computes it.
        range_s: Length of the time range.

    >>> expand_promql("rate(a[$__rate_interval])", {}, step_s=15, scrape_s=5, range_s=600)
    'rate(a[20s])'

    Raises:
        ValueError: If a variable has no value.
    """
    intervals = {
        "$__rate_interval": f"{max(step_s + scrape_s, 4 * scrape_s)}s",
        "$__range": f"{range_s}s",
        "$__interval": f"{step_s}s",
    }
    for name, value in intervals.items():
        text = text.replace(name, value)
    return VARIABLE.sub(lambda match: _value(variables, match), text)


def expand_sql(text: str, variables: Mapping[str, Sequence[str]], *, start: datetime, end: datetime) -> str:
    """Return SQL with macros and variables filled in.

    Args:
        text: The panel's SQL.
        variables: Variable name to its chosen values; `${name:sqlstring}` becomes quoted values with commas between.
        start: Begin of the time range.
        end: End of the time range.

    >>> from datetime import UTC, datetime
    >>> day = datetime(2026, 1, 1, tzinfo=UTC)
    >>> expand_sql("SELECT 1 WHERE $__timeFilter(t)", {}, start=day, end=day)
    "SELECT 1 WHERE t BETWEEN '2026-01-01T00:00:00Z' AND '2026-01-01T00:00:00Z'"

    Raises:
        ValueError: If a macro is unknown or a variable has no value.
    """
    first, last = _instant(start), _instant(end)

    def macro(match: re.Match[str]) -> str:
        arguments = [part.strip() for part in match[2].split(",")]
        match match[1]:
            case "timeFilter":
                return f"{arguments[0]} BETWEEN {first} AND {last}"
            case "timeGroup":
                width = seconds(arguments[1].strip("'"))
                return f"floor(extract(epoch from {arguments[0]})/{width})*{width}"
            case "timeFrom":
                return first
            case "timeTo":
                return last
            case name:
                raise ValueError(f"macro $__{name} is unknown; known are {sorted(SQL_MACROS)}")

    def variable(match: re.Match[str]) -> str:
        name = match[1] or match[3]
        if name not in variables:
            raise ValueError(f"variable ${name} has no value")
        if match[2] != "sqlstring":
            raise ValueError(f"variable ${name}: in SQL write ${{{name}:sqlstring}}, which quotes its values")
        return ",".join("'" + value.replace("'", "''") + "'" for value in variables[name])

    return VARIABLE.sub(variable, MACRO.sub(macro, text))


def _instant(moment: datetime) -> str:
    return "'" + moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") + "'"


def _value(variables: Mapping[str, str], match: re.Match[str]) -> str:
    name = match[1] or match[3]
    if name not in variables:
        raise ValueError(f"variable ${name} has no value")
    return variables[name]
