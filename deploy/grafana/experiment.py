"""Dashboard of one experiment, from PostgreSQL: status, lifts with intervals and p-values, traffic, versions."""

# The SQL consists of constants of this module; Grafana quotes the values of variables.
# ruff: noqa: S608

from deploy.grafana.model import Dashboard, Link, Panel, Query, Section, Variable, override
from deploy.grafana.rollout import ANNOTATIONS
from deploy.grafana.traffic import BY_ARM, BY_VERSION, IN_EXPERIMENT, OF_SITE

_OF_METRIC = f"{IN_EXPERIMENT} AND metric = ${{metric:sqlstring}} AND arm IN (${{arm:sqlstring}})"
_PERCENT = (("unit", "percentunit"), ("decimals", 2))
_P_VALUE = (("unit", "none"), ("decimals", 4))
_BY_CUPED = ("cuped_lift", "cuped_cs_lo", "cuped_cs_hi")
_DASHED = (("custom.lineStyle", {"fill": "dash", "dash": [4, 4]}),)
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
                    f" FROM traffic_minutes WHERE {IN_EXPERIMENT} HAVING count(*) > 0",
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
                    f' FROM v_health WHERE {IN_EXPERIMENT} ORDER BY "check", partial, time DESC',
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
            " are still open. A set that is no interval has no bounds. Columns of `cuped` hold the lift adjusted by the"
            " time before, where the plan declares it.",
            unit="short",
            kind="table",
            queries=(
                Query(
                    text="SELECT metric, arm, mean_control, mean, lift, cs_lo, cs_hi, cs_kind, cs_p, cuped_lift,"
                    " cuped_cs_lo, cuped_cs_hi, cuped_cs_p, cuped_variance_ratio, verdict, reason,"
                    f" n_control, n, partial, time FROM v_lift_latest WHERE {IN_EXPERIMENT}"
                    " ORDER BY partial, metric, arm",
                ),
            ),
            width=24,
            height=8,
            overrides=(
                *(override(name, _PERCENT) for name in ("lift", "cs_lo", "cs_hi", *_BY_CUPED, "cuped_variance_ratio")),
                *(override(name, _P_VALUE) for name in ("mean_control", "mean", "cs_p", "cuped_cs_p")),
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
                    f" time FROM v_looks WHERE {IN_EXPERIMENT} ORDER BY number, arm",
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
            " however often one reads it. Dashed: the same adjusted by the time before (CUPED), where the plan declares"
            " it.",
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
                Query(
                    text="SELECT time, cuped_cs_lo, cuped_lift, cuped_cs_hi FROM v_lift_timeseries"
                    f" WHERE {_OF_METRIC} AND $__timeFilter(time) AND NOT partial AND cuped_lift IS NOT NULL"
                    " ORDER BY time",
                    series=True,
                ),
            ),
            width=12,
            overrides=(
                override("cs_lo", _INVISIBLE),
                *(override(name, _DASHED) for name in _BY_CUPED),
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

EXPERIMENT = Dashboard(
    uid="shelfwise-experiment",
    title="Shelfwise: the experiment",
    description="Health, lifts with intervals and p-values, traffic and versions of one experiment.",
    source="postgres",
    sections=(_STATUS, _SCORES, BY_ARM, BY_VERSION, OF_SITE),
    variables=(
        Variable(name="experiment", label="Experiment", query="SELECT key FROM experiments ORDER BY created_ts DESC"),
        Variable(
            name="metric",
            label="Metric",
            query=f"SELECT DISTINCT metric FROM v_lift_timeseries WHERE {IN_EXPERIMENT} ORDER BY metric",
        ),
        Variable(
            name="arm",
            label="Arm",
            query=f"SELECT name FROM arms WHERE {IN_EXPERIMENT} AND NOT is_control ORDER BY number",
        ),
    ),
    links=(Link(title="The loop", url="/d/shelfwise-loop"),),
    annotations=ANNOTATIONS,
    since="now-30d",
    refresh="1m",
)
