"""Panels of traffic from the counts by minute: of an experiment by arm and by version, and of the whole site."""

# The SQL consists of constants of this module; Grafana quotes the values of variables.
# ruff: noqa: S608

from deploy.grafana.model import Panel, Query, Section, override

IN_EXPERIMENT = "experiment = ${experiment:sqlstring}"
"""Condition of the rows of the chosen experiment."""
_CTR = "sum(clicks)::float8 / nullif(sum(items), 0)"
_CVR = "sum(orders)::float8 / nullif(sum(sessions), 0)"
_GMV = "sum(gmv_minor) / nullif(sum(sessions), 0)"
_SOURCE = "coalesce(nullif(source, ''), 'unknown')"


def _traffic(value: str, by: str, where: str = "") -> Query:
    return Query(
        text=f"SELECT $__timeGroup(time, '5m') AS time, {by} AS metric, {value} AS value"
        f" FROM v_traffic WHERE {where}$__timeFilter(time)"
        " GROUP BY 1, 2 ORDER BY 1, 2",
        series=True,
    )


def _per_arm(value: str, by: str = "arm") -> Query:
    return _traffic(value, by, f"{IN_EXPERIMENT} AND ")


BY_ARM = Section(
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
                    f" count(*) FILTER (WHERE multi_arm) AS two_arms FROM exposures WHERE {IN_EXPERIMENT}"
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
                    f" WHERE {IN_EXPERIMENT}) exposed WHERE $__timeFilter(time) GROUP BY 1, 2 ORDER BY 1, 2",
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
            " check of the sample ratio counts clients.",
            unit="percentunit",
            kind="timeseries",
            queries=(
                Query(
                    text="SELECT $__timeGroup(time, '5m') AS time, arm AS metric,"
                    " sum(sessions)::float8 / sum(sum(sessions)) OVER (PARTITION BY $__timeGroup(time, '5m')) AS value"
                    f" FROM v_traffic WHERE {IN_EXPERIMENT} AND $__timeFilter(time) GROUP BY 1, 2 ORDER BY 1, 2",
                    series=True,
                ),
            ),
            low=0,
            high=1,
            width=12,
        ),
    ),
)

BY_VERSION = Section(
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
                    f" WHERE t.{IN_EXPERIMENT}) ranked WHERE $__timeFilter(time) GROUP BY 1, 2 ORDER BY 1, 2",
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

OF_SITE = Section(
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
