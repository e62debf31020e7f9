"""Rules that every committed dashboard keeps; each finding names dashboard, panel and rule."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from deploy.grafana.model import COLUMNS, PLUGINS, SCHEMA_VERSION, Json
from tests.harness.grafana.queries import MACRO, PROMQL_INTERVALS, SQL_MACROS, VARIABLE

# The unit ids of Grafana in use; Grafana shows an unknown unit as a plain suffix, without an error.
UNITS = frozenset(
    {
        "none", "short", "string", "bytes", "percentunit", "s", "ms", "d", "eps", "ops", "reqps", "cps", "bool",
        "dateTimeAsIso",
    }
)  # fmt: skip
_UID = re.compile(r"[a-z0-9][a-z0-9-]{2,39}")
_COUNTER = re.compile(r"\b\w+_(?:total|bucket|count|sum)\b")
_WINDOW = re.compile(r"\[([^\]]*)\]")
_STRINGS = re.compile(r'"[^"]*"')
_FUNCTION = re.compile(r"\b(?:rate|increase)\(\s*$")


class _Panel(msgspec.Struct, frozen=True, rename="camel"):
    id: int
    type: str
    grid_pos: dict[str, int]
    title: str = ""
    description: str = ""
    datasource: dict[str, str] | None = None
    field_config: dict[str, dict[str, object] | list[object]] = {}
    targets: list[dict[str, object]] = []


def lint(documents: Mapping[str, Json]) -> list[str]:
    """Return all findings over a set of dashboards; empty means clean."""
    findings = [f"{name}: {finding}" for name, document in documents.items() for finding in _dashboard(document)]
    uids = Counter(str(document.get("uid")) for document in documents.values())
    return findings + [f"uid '{uid}' is used {number} times" for uid, number in uids.items() if number > 1]


def _dashboard(document: Json) -> Iterator[str]:
    if not _UID.fullmatch(str(document.get("uid", ""))):
        yield f"uid: expected 3 to 40 of a-z, 0-9 and '-', got {document.get('uid')!r}"
    for key in ("title", "description", "tags"):
        if not document.get(key):
            yield f"{key} is missing"
    for key in ("id", "__inputs", "__requires", "version"):
        if key in document:
            yield f"{key} belongs to one server and must not be committed"
    if document.get("editable") is not False:
        yield "editable: expected false; what is edited in the browser is lost at the next apply"
    if document.get("schemaVersion") != SCHEMA_VERSION:
        yield f"schemaVersion: expected {SCHEMA_VERSION}, got {document.get('schemaVersion')}"
    variables = _variables(document)
    panels = msgspec.convert(document.get("panels", []), list[_Panel])
    for panel in panels:
        yield from (f"panel '{panel.title}': {finding}" for finding in _panel(panel, variables))
    for number, times in Counter(panel.id for panel in panels).items():
        if times > 1:
            yield f"panel id {number} is used {times} times"
    for title, times in Counter(panel.title for panel in panels).items():
        if times > 1:
            yield f"panel title '{title}' is used {times} times"
    yield from _overlaps(panels)


def _variables(document: Json) -> Mapping[str, str]:
    templating = msgspec.convert(document.get("templating", {}), dict[str, list[dict[str, object]]])
    return {str(variable["name"]): str(variable["type"]) for variable in templating.get("list", [])}


def _panel(panel: _Panel, variables: Mapping[str, str]) -> Iterator[str]:
    if not panel.title:
        yield "title is missing"
    if panel.type == "row":
        return
    if not panel.description:
        yield "description is missing"
    defaults = panel.field_config.get("defaults", {})
    unit = defaults.get("unit") if isinstance(defaults, dict) else None
    if unit not in UNITS:
        yield f"unit: expected one of {sorted(UNITS)}, got {unit!r}"
    if not panel.targets:
        yield "has no targets"
    for reference in (panel.datasource, *(target.get("datasource") for target in panel.targets)):
        yield from _datasource(reference, variables)
    for ref, times in Counter(target.get("refId") for target in panel.targets).items():
        if times > 1 or not ref:
            yield f"refId {ref!r} is used {times} times"
    for target in panel.targets:
        expr, sql = target.get("expr"), target.get("rawSql")
        if isinstance(expr, str) and expr:
            yield from promql_findings(expr, variables)
        elif isinstance(sql, str) and sql:
            yield from sql_findings(sql, variables, series=target.get("format") == "time_series")
        else:
            yield f"target {target.get('refId')} has no query"


def _datasource(reference: object, variables: Mapping[str, str]) -> Iterator[str]:
    uid = reference.get("uid") if isinstance(reference, dict) else None
    name = str(uid).removeprefix("${").removesuffix("}")
    if not isinstance(reference, dict) or uid != f"${{{name}}}" or variables.get(name) != "datasource":
        yield f"datasource: expected a variable of type datasource, got {uid!r}"
    elif reference.get("type") not in PLUGINS.values():
        yield f"datasource: expected a plugin of {sorted(PLUGINS.values())}, got {reference.get('type')!r}"


def promql_findings(expr: str, variables: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong with one PromQL expression."""
    bare = _STRINGS.sub('""', expr)
    if bare.count("(") != bare.count(")"):
        yield f"unbalanced parentheses in {expr}"
    for match in _COUNTER.finditer(bare):
        if not _FUNCTION.search(bare[: match.start()]):
            yield f"counter {match[0]} stands outside of rate() or increase()"
    for match in _WINDOW.finditer(bare):
        if match[1] not in PROMQL_INTERVALS - {"$__interval"}:
            yield f"window [{match[1]}]: expected [$__rate_interval] or [$__range]"
    yield from _unknown_variables(expr, variables)


def sql_findings(sql: str, variables: Mapping[str, str], *, series: bool) -> Iterator[str]:
    """Yield the faults of one SQL query."""
    if re.search(r"select\s+(?:\w+\.)?\*", sql, re.IGNORECASE):
        yield "SELECT * also shows columns that a migration adds; name the columns"
    if series and "$__timeFilter(" not in sql:
        yield "a time series needs $__timeFilter"
    for match in re.finditer(r"\$__(\w+)", sql):
        if match[1] not in SQL_MACROS:
            yield f"macro $__{match[1]}: expected one of {sorted(SQL_MACROS)}"
    if len(MACRO.findall(sql)) != len(re.findall(r"\$__\w+", sql)):
        yield "a macro's arguments hold no parentheses: Grafana would cut them"
    for match in VARIABLE.finditer(sql):
        if match[2] != "sqlstring":
            yield f"variable {match[0]}: expected ${{name:sqlstring}}, which quotes its values"
    yield from _unknown_variables(sql, variables)


def _unknown_variables(text: str, variables: Mapping[str, str]) -> Iterator[str]:
    for match in VARIABLE.finditer(text):
        name = match[1] or match[3]
        if name not in variables:
            yield f"variable ${name} is not declared"


def _overlaps(panels: Sequence[_Panel]) -> Iterator[str]:
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        place = panel.grid_pos
        if place["x"] + place["w"] > COLUMNS:
            yield f"panel '{panel.title}': leaves the grid of {COLUMNS} columns"
        cells = [
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ]
        covered = {taken[cell] for cell in cells if cell in taken}
        if covered:
            yield f"panel '{panel.title}': covers {sorted(covered)}"
        taken |= dict.fromkeys(cells, panel.title)
