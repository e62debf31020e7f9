"""Run the query of every panel against live data sources and count what comes back.

What Grafana does with the rows afterwards is not covered: there is no browser here.
"""

import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from deploy.grafana import generate
from stream.errors import ConfigError, ShelfwiseError, StoreError
from tests.harness.grafana import queries
from tests.harness.grafana.queries import DashboardModel, PanelQuery

_TIMEOUT_S = 30.0
_MOST_POINTS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelRows:
    """Result of one query of one panel.

    Attributes:
        dashboard: Uid.
        panel: Title.
        ref: Id of the target.
        rows: Rows of SQL, or series with at least one defined value.
        error: The refusal of the data source; empty if it answered.
    """

    dashboard: str
    panel: str
    ref: str
    rows: int
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """The time range that is asked for, and the scrape interval of Prometheus."""

    start: datetime
    end: datetime
    scrape_s: int = 5

    @property
    def length_s(self) -> int:
        """Length in whole seconds, at least one."""
        return max(1, int((self.end - self.start) / timedelta(seconds=1)))

    @property
    def step_s(self) -> int:
        """Resolution of range queries: the scrape interval, coarser where that gives too many points."""
        return max(self.scrape_s, -(-self.length_s // _MOST_POINTS))


def empty_panels(results: Sequence[PanelRows]) -> list[str]:
    """Return the panels none of whose queries gave a row, and those with a refused query."""
    rows: dict[str, int] = {}
    refused: set[str] = set()
    for result in results:
        name = f"{result.dashboard}: {result.panel}"
        rows[name] = rows.get(name, 0) + result.rows
        if result.error:
            refused.add(name)
    return [name for name, number in rows.items() if number == 0 or name in refused]


def dashboards() -> list[DashboardModel]:
    """Return the dashboards as their builders give them."""
    return [queries.parse(content) for content in generate.rendered().values()]


def check_prometheus(url: str, dashboard: DashboardModel, window: Range) -> list[PanelRows]:
    """Run every PromQL target over `window`; variables are set to All.

    Raises:
        ConfigError: If the URL is not http or https.
        ShelfwiseError: If Prometheus cannot be reached.
    """
    variables = {variable.name: variable.all_value or ".*" for variable in queries.query_variables(dashboard)}
    results = []
    for query in queries.promql_panels(dashboard):
        expr = queries.expand_promql(
            query.text, variables, step_s=window.step_s, scrape_s=window.scrape_s, range_s=window.length_s
        )
        answer = _query_range(url, expr, window)
        number = sum(any(value != "NaN" for _, value in series.values) for series in answer.data.result)
        results.append(_result(dashboard, query, number, answer.error))
    return results


def check_postgres(engine: Engine, dashboard: DashboardModel, window: Range) -> list[PanelRows]:
    """Run every SQL target over `window`; variables take the first value of their query.

    Raises:
        ConfigError: If the database is not PostgreSQL, which the dashboards are written for.
        StoreError: If the database cannot be reached.
    """
    targets = queries.sql_panels(dashboard)
    if not targets:
        return []
    if engine.dialect.name != "postgresql":
        raise ConfigError(f"the dashboard of experiments reads PostgreSQL, not {engine.dialect.name}")
    try:
        with engine.connect() as connection:
            variables = _sql_variables(connection, dashboard, window)
            return [_run_sql(connection, dashboard, query, variables, window) for query in targets]
    except DBAPIError as error:
        raise StoreError(f"database {engine.url.render_as_string(hide_password=True)}: {error.orig}") from error


class _Series(msgspec.Struct, frozen=True):
    metric: dict[str, str]
    values: list[tuple[float, str]]


class _Matrix(msgspec.Struct, frozen=True):
    result: list[_Series] = []


class _Answer(msgspec.Struct, frozen=True):
    status: str
    error: str = ""
    data: _Matrix = _Matrix()


def _query_range(url: str, expr: str, window: Range) -> _Answer:
    base = urllib.parse.urlsplit(url)
    if base.scheme not in {"http", "https"}:
        raise ConfigError(f"--prometheus: expected http://HOST:PORT, got '{url}'")
    parameters = {
        "query": expr,
        "start": f"{window.start.timestamp():.3f}",
        "end": f"{window.end.timestamp():.3f}",
        "step": str(window.step_s),
    }
    request = urllib.request.Request(
        f"{url.rstrip('/')}/api/v1/query_range", data=urllib.parse.urlencode(parameters).encode()
    )
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            body = response.read()
    except urllib.error.HTTPError as error:
        # Prometheus refuses an expression with a JSON body that names the fault.
        body = error.read()
    except OSError as error:
        raise ShelfwiseError(f"prometheus {url}: {error}") from error
    try:
        return msgspec.json.decode(body, type=_Answer)
    except msgspec.DecodeError as error:
        raise ShelfwiseError(f"prometheus {url}: expected its API, got {body[:80]!r}") from error


def _sql_variables(connection: Connection, dashboard: DashboardModel, window: Range) -> Mapping[str, Sequence[str]]:
    values: dict[str, Sequence[str]] = {}
    for variable in queries.query_variables(dashboard):
        sql = queries.expand_sql(variable.query, values, start=window.start, end=window.end)
        found = [str(row[0]) for row in connection.exec_driver_sql(_literal(sql)).all()]
        # An unset variable filters everything out, as in Grafana.
        values[variable.name] = found if variable.multi else found[:1] or [""]
    return values


def _run_sql(
    connection: Connection,
    dashboard: DashboardModel,
    query: PanelQuery,
    variables: Mapping[str, Sequence[str]],
    window: Range,
) -> PanelRows:
    sql = queries.expand_sql(query.text, variables, start=window.start, end=window.end)
    savepoint = connection.begin_nested()
    try:
        answer = connection.exec_driver_sql(_literal(sql))
        if query.series and "time" not in answer.keys():  # noqa: SIM118 - a result is no mapping
            return _result(dashboard, query, 0, f"a time series needs a column 'time', got {list(answer.keys())}")
        return _result(dashboard, query, len(answer.all()), "")
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        return _result(dashboard, query, 0, str(error.orig).splitlines()[0])
    finally:
        savepoint.rollback()


def _literal(sql: str) -> str:
    # The driver reads % as the start of a parameter.
    return sql.replace("%", "%%")


def _result(dashboard: DashboardModel, query: PanelQuery, rows: int, error: str) -> PanelRows:
    return PanelRows(dashboard=dashboard.uid, panel=query.panel, ref=query.ref, rows=rows, error=error)
