"""Dashboard of one experiment, from PostgreSQL: status, lifts with intervals and p-values, traffic, versions."""

# The SQL consists of constants of this module; Grafana quotes the values of variables.
# ruff: noqa: S608

from deploy.grafana.model import Dashboard, Link, Panel, Query, Section, Variable, override
from deploy.grafana.rollout import ANNOTATIONS

_EXPERIMENT = "experiment = ${experiment:sqlstring}"
_OF_METRIC = f"{_EXPERIMENT} AND metric = ${{metric:sqlstring}} AND arm IN (${{arm:sqlstring}})"
_PERCENT = (("unit", "percentunit"), ("decimals", 2))
_P_VALUE = (("unit", "none"), ("decimals", 4))
_INVISIBLE = (("custom.lineWidth", 0), ("custom.fillOpacity", 0))


def _colours(*pairs: tuple[str, str]) -> tuple[tuple[str, object], ...]:
    options = {text: {"color": colour, "index": index, "text": text} for index, (text, colour) in enumerate(pairs)}
    return (
        ("mappings", [{"options": options, "type": "value"}]),
        ("custom.cellOptions", {"type": "color-text"}),
    )


# Lifts are grey: only the verdict takes the plan and the number of looks into account, so only it is green or red.
_VERDICT = _colours(("ship", "green"), ("do not ship", "red"), ("keep running", "text"), ("invalid", "orange"))
_HEALTH = _colours(("ok", "green"), ("alert", "orange"), ("blocked", "red"), ("undefined", "text"))


_CTR = "sum(clicks)::float8 / nullif(sum(items), 0)"
_CVR = "sum(orders)::float8 / nullif(sum(sessions), 0)"
_SOURCE = "coalesce(nullif(source, ''), 'unknown')"
_GMV = "sum(gmv_minor) / nullif(sum(sessions), 0)"


def _traffic(value: str, by: str, where: str = "") -> Query:
    return Query(
        text=f"SELECT $__timeGroup(time, '5m') AS time, {by} AS metric, {value} AS value"
        f" FROM v_traffic WHERE {where}$__timeFilter(time)"
        " GROUP BY 1, 2 ORDER BY 1, 2",
        series=True,
    )


def _per_arm(value: str, by: str = "arm") -> Query:
    return _traffic(value, by, f"{_EXPERIMENT} AND ")


_STATUS = Section(
    title="Status and health: read before the lifts",
    panels=(
        Panel(
            title="Plan",
            description="Status, layer and arms. An arm is a lineage or a fixed policy, not one version.",
            unit="string",
            kind="table",
            queries=(
                Query(
                    text="SELECT e.status, e.layer, a.name AS arm, coalesce(a.lineage, a.policy) AS ranks,"
                    " a.is_control AS control"
                    " FROM experiments e JOIN arms a ON a.experiment = e.key"
                    " WHERE e.key = ${experiment:sqlstring} ORDER BY a.number",
                ),
            ),
            width=8,
            height=6,
        ),
        Panel(
            title="Days with traffic",
            description="Days from the first to the last session of the experiment. Compare whole weeks.",
            unit="d",
            kind="stat",
            queries=(
                Query(
                    text="SELECT (max(minute_ts) - min(minute_ts)) / 86400000.0 AS days"
                    f" FROM traffic_minutes WHERE {_EXPERIMENT} HAVING count(*) > 0",
                ),
            ),
            width=4,
            height=6,
            decimals=2,
        ),
        Panel(
            title="Facts complete up to",
            description="Event time that all partitions of the sink have passed. The report covers nothing later.",
            unit="dateTimeAsIso",
            kind="stat",
            queries=(
                Query(text="SELECT min(watermark_ts) AS watermark FROM sink_offsets HAVING count(watermark_ts) > 0"),
            ),
            width=4,
            height=6,
        ),
        Panel(
            title="Health checks",
            description="Newest result of each check. A failed check of the sample ratio blocks every verdict.",
            unit="string",
            kind="table",
            queries=(
                Query(
                    text='SELECT DISTINCT ON ("check", partial) "check", status, p, stat, detail, partial, time'
                    f' FROM v_health WHERE {_EXPERIMENT} ORDER BY "check", partial, time DESC',
                ),
            ),
            width=8,
            height=6,
            overrides=(
                override("p", _P_VALUE),
                override("stat", _P_VALUE),
                override("status", _HEALTH),
                override("time", (("unit", "dateTimeAsIso"),)),
            ),
        ),
    ),
)

_SCORES = Section(
    title="Lifts against the control arm",
    panels=(
        Panel(
            title="Scorecard",
            description="Newest lift of every metric and arm, with its confidence sequence and always-valid p. The"
            " colour belongs to the verdict of the looks; a lift has no colour. `partial` counts sessions whose windows"
            " are still open.",
            unit="short",
            kind="table",
            queries=(
                Query(
                    text="SELECT metric, arm, mean_control, mean, lift, cs_lo, cs_hi, cs_p, verdict, reason,"
                    f" n_control, n, partial, time FROM v_lift_latest WHERE {_EXPERIMENT}"
                    " ORDER BY partial, metric, arm",
                ),
            ),
            width=24,
            height=8,
            overrides=(
                *(override(name, _PERCENT) for name in ("lift", "cs_lo", "cs_hi")),
                *(override(name, _P_VALUE) for name in ("mean_control", "mean", "cs_p")),
                override("verdict", _VERDICT),
                override("time", (("unit", "dateTimeAsIso"),)),
            ),
        ),
        Panel(
            title="Looks",
            description="Looks that the owner took: fraction of the plan, error spent, boundary, and the verdict of"
            " each arm. Its set of lifts is at the level of the boundary.",
            unit="short",
            kind="table",
            queries=(
                Query(
                    text="SELECT number, arm, metric, fraction, spent, boundary, z, p, lift, lo, hi, verdict, reason,"
                    f" time FROM v_looks WHERE {_EXPERIMENT} ORDER BY number, arm",
                ),
            ),
            width=24,
            height=6,
            overrides=(
                *(override(name, _PERCENT) for name in ("fraction", "lift", "lo", "hi")),
                *(override(name, _P_VALUE) for name in ("spent", "p")),
                override("verdict", _VERDICT),
                override("time", (("unit", "dateTimeAsIso"),)),
            ),
        ),
        Panel(
            title="Lift over time",
            description="Lift of the chosen metric and arm at each report, with its confidence sequence, which holds"
            " however often one reads it.",
            unit="percentunit",
            kind="timeseries",
            queries=(
                Query(
                    text="SELECT time, cs_lo, lift, cs_hi FROM v_lift_timeseries"
                    f" WHERE {_OF_METRIC} AND $__timeFilter(time) AND NOT partial ORDER BY time",
                    series=True,
                ),
                Query(
                    text='SELECT time, lift AS "lift, windows open" FROM v_lift_timeseries'
                    f" WHERE {_OF_METRIC} AND $__timeFilter(time) AND partial ORDER BY time",
                    series=True,
                ),
            ),
            width=12,
            overrides=(
                override("cs_lo", _INVISIBLE),
                override(
                    "cs_hi", (("custom.lineWidth", 0), ("custom.fillBelowTo", "cs_lo"), ("custom.fillOpacity", 20))
                ),
            ),
        ),
        Panel(
            title="p over time",
            description="Always-valid p-values at each report, from the confidence sequence.",
            unit="none",
            kind="timeseries",
            queries=(
                Query(
                    text="SELECT time, cs_p FROM v_lift_timeseries"
                    f" WHERE {_OF_METRIC} AND $__timeFilter(time) ORDER BY time",
                    series=True,
                ),
            ),
            width=12,
            low=0,
            high=1,
        ),
    ),
)

_TRAFFIC = Section(
    title="Traffic and outcomes by arm",
    panels=(
        Panel(
            title="Exposed clients",
            description="Clients by the arm of their first impression, and clients seen in two arms, which the"
            " analysis leaves out.",
            unit="short",
            kind="barchart",
            queries=(
                Query(
                    text="SELECT arm, count(*) FILTER (WHERE NOT multi_arm) AS clients,"
                    f" count(*) FILTER (WHERE multi_arm) AS two_arms FROM exposures WHERE {_EXPERIMENT}"
                    " GROUP BY arm ORDER BY arm",
                ),
            ),
        ),
        Panel(
            title="Clients exposed so far",
            description="Cumulative clients by arm. Shares other than the planned ones mean a sample ratio mismatch.",
            unit="short",
            kind="timeseries",
            queries=(
                Query(
                    text="SELECT $__timeGroup(time, '5m') AS time, arm AS metric,"
                    " sum(count(*)) OVER (PARTITION BY arm ORDER BY $__timeGroup(time, '5m')) AS value"
                    " FROM (SELECT to_timestamp(first_ts / 1000.0) AS time, arm FROM exposures"
                    f" WHERE {_EXPERIMENT}) exposed WHERE $__timeFilter(time) GROUP BY 1, 2 ORDER BY 1, 2",
                    series=True,
                ),
            ),
            low=0,
        ),
        Panel(
            title="Sessions",
            description="Sessions per 5 minutes of event time.",
            unit="short",
            kind="timeseries",
            queries=(_per_arm("sum(sessions)"),),
            low=0,
        ),
        Panel(
            title="CTR",
            description="Clicked items over shown items. For the significance of a difference see the scorecard.",
            unit="percentunit",
            kind="timeseries",
            queries=(_per_arm(_CTR),),
            decimals=2,
        ),
        Panel(
            title="CVR",
            description="Orders over sessions. Recent points rise until the attribution windows close.",
            unit="percentunit",
            kind="timeseries",
            queries=(_per_arm(_CVR),),
            decimals=2,
        ),
        Panel(
            title="GMV per session",
            description="Gross merchandise value per session of each currency in its minor units, before refunds.",
            unit="short",
            kind="timeseries",
            queries=(_per_arm(_GMV, "arm || ' ' || currency"),),
        ),
        Panel(
            title="Fallback share by arm",
            description="Share of sessions answered in incoming order. They count in the assigned arm.",
            unit="percentunit",
            kind="timeseries",
            queries=(_per_arm("sum(fallbacks)::float8 / nullif(sum(sessions), 0)"),),
            low=0,
            width=12,
        ),
        Panel(
            title="Share of sessions",
            description="Share of the experiment's sessions in each arm. Clients are randomised, not sessions: the"
            " check"
            " of the sample ratio counts clients.",
            unit="percentunit",
            kind="timeseries",
            queries=(
                Query(
                    text="SELECT $__timeGroup(time, '5m') AS time, arm AS metric,"
                    " sum(sessions)::float8 / sum(sum(sessions)) OVER (PARTITION BY $__timeGroup(time, '5m')) AS value"
                    f" FROM v_traffic WHERE {_EXPERIMENT} AND $__timeFilter(time) GROUP BY 1, 2 ORDER BY 1, 2",
                    series=True,
                ),
            ),
            low=0,
            high=1,
            width=12,
        ),
    ),
)

_VERSIONS = Section(
    title="Versions inside the arms",
    panels=(
        Panel(
            title="Versions",
            description="Versions of the lineages in this experiment, and the number of sessions ranked by each.",
            unit="short",
            kind="table",
            queries=(
                Query(
                    text="SELECT v.lineage, v.version, v.status, v.sessions, v.time FROM v_versions v"
                    " WHERE v.lineage IN (SELECT lineage FROM arms WHERE experiment = ${experiment:sqlstring})"
                    " ORDER BY v.time DESC, v.lineage LIMIT 100",
                ),
            ),
            width=12,
            overrides=(override("version", (("unit", "none"),)), override("time", (("unit", "dateTimeAsIso"),))),
        ),
        Panel(
            title="Version on traffic by event time",
            description="Newest version in the sessions of each 5 minutes, by lineage. Arms should be of equal age.",
            unit="none",
            kind="state-timeline",
            queries=(
                Query(
                    text="SELECT $__timeGroup(time, '5m') AS time, lineage AS metric, max(version) AS value"
                    " FROM (SELECT t.time, v.lineage, v.version"
                    " FROM v_traffic t JOIN versions v ON v.lineage = t.lineage"
                    " AND CAST(v.version AS TEXT) = t.version"
                    f" WHERE t.{_EXPERIMENT}) ranked WHERE $__timeFilter(time) GROUP BY 1, 2 ORDER BY 1, 2",
                    series=True,
                ),
            ),
            width=12,
        ),
        Panel(
            title="CTR by version",
            description="Clicked items over shown items of each version's sessions in this experiment.",
            unit="percentunit",
            kind="timeseries",
            queries=(_per_arm(_CTR, "lineage || ' ' || version"),),
            decimals=2,
            width=12,
        ),
        Panel(
            title="CVR by version",
            description="Orders over sessions of each version. Recent points rise until the attribution windows close.",
            unit="percentunit",
            kind="timeseries",
            queries=(_per_arm(_CVR, "lineage || ' ' || version"),),
            decimals=2,
            width=12,
        ),
    ),
)

_SITE = Section(
    title="The whole site: all sessions, in an experiment or in none",
    panels=(
        Panel(
            title="Site: sessions",
            description="Sessions per 5 minutes of event time, by the program that wrote the impressions.",
            unit="short",
            kind="timeseries",
            queries=(_traffic("sum(sessions)", _SOURCE),),
            low=0,
            width=6,
        ),
        Panel(
            title="Site: CTR",
            description="Clicked items over shown items, by the program that wrote the impressions.",
            unit="percentunit",
            kind="timeseries",
            queries=(_traffic(_CTR, _SOURCE),),
            decimals=2,
            width=6,
        ),
        Panel(
            title="Site: CVR",
            description="Orders over sessions, by the program that wrote the impressions. Recent points rise until the"
            " attribution windows close.",
            unit="percentunit",
            kind="timeseries",
            queries=(_traffic(_CVR, _SOURCE),),
            decimals=2,
            width=6,
        ),
        Panel(
            title="Site: GMV per session",
            description="Gross merchandise value per session of each currency in its minor units, before refunds.",
            unit="short",
            kind="timeseries",
            queries=(_traffic(_GMV, "currency"),),
            width=6,
        ),
    ),
)

EXPERIMENT = Dashboard(
    uid="shelfwise-experiment",
    title="Shelfwise: the experiment",
    description="Health, lifts with intervals and p-values, traffic and versions of one experiment.",
    source="postgres",
    sections=(_STATUS, _SCORES, _TRAFFIC, _VERSIONS, _SITE),
    variables=(
        Variable(name="experiment", label="Experiment", query="SELECT key FROM experiments ORDER BY created_ts DESC"),
        Variable(
            name="metric",
            label="Metric",
            query=f"SELECT DISTINCT metric FROM v_lift_timeseries WHERE {_EXPERIMENT} ORDER BY metric",
        ),
        Variable(
            name="arm",
            label="Arm",
            query=f"SELECT name FROM arms WHERE {_EXPERIMENT} AND NOT is_control ORDER BY number",
        ),
    ),
    links=(Link(title="The loop", url="/d/shelfwise-loop"),),
    annotations=ANNOTATIONS,
    since="now-30d",
    refresh="1m",
)
