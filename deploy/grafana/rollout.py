"""Rollout on dashboards: panels of what serves and what moves it, and the annotations of moves and ramps."""

from deploy.grafana.model import Json, Panel, Query, Section, datasource
from deploy.grafana.promql import STEP, rate

_LINEAGE = '{lineage=~"$lineage"}'
_ANSWERS = "shelfwise_serving_version_requests_total"
_FALLBACK = '{lineage=~"$lineage", fallback!="none"}'
_GATES: Json = {
    "options": {
        "-1": {"color": "red", "index": 2, "text": "fail"},
        "0": {"color": "text", "index": 1, "text": "wait"},
        "1": {"color": "green", "index": 0, "text": "pass"},
    },
    "type": "value",
}
_VERDICT: Json = {
    "matcher": {"id": "byRegexp", "options": ".*"},
    "properties": [{"id": "mappings", "value": [_GATES]}],
}

ROLLOUT = Section(
    title="Rollout: versions, gates and moves",
    panels=(
        Panel(
            title="Live and canary",
            description="Versions that are live or canary, by the controller. A line begins with the move to that"
            " status and ends with the next one.",
            unit="none",
            kind="state-timeline",
            queries=(Query(text=f"shelfwise_rollout_state{_LINEAGE}", legend="{{lineage}} {{version}} {{status}}"),),
        ),
        Panel(
            title="Canary share",
            description="Share of the lineage's clients that its canary serves; 0 without a canary.",
            unit="percentunit",
            kind="timeseries",
            queries=(Query(text=f"shelfwise_rollout_canary_share{_LINEAGE}", legend="{{lineage}}"),),
            low=0,
        ),
        Panel(
            title="Gates",
            description="Verdict of each gate on the version on its way. `shelfwise rollout status` prints the"
            " numbers.",
            unit="none",
            kind="state-timeline",
            queries=(Query(text=f"shelfwise_rollout_gate{_LINEAGE}", legend="{{lineage}} {{gate}}"),),
            overrides=(_VERDICT,),
        ),
        Panel(
            title="Moves",
            description="Moves of the controller by the status that the version gets, within the rate interval (four"
            " scrapes or more). The annotations show those of users and trainers too.",
            unit="short",
            kind="timeseries",
            queries=(
                Query(
                    text=f"sum by (lineage, to_status) (increase(shelfwise_rollout_moves_total{_LINEAGE}{STEP}))",
                    legend="{{lineage}} {{to_status}}",
                ),
            ),
            low=0,
        ),
        Panel(
            title="Locks and servers behind",
            description="1 while a lineage is pinned, frozen or killed, and the number of servers that do not have its"
            " live version.",
            unit="short",
            kind="timeseries",
            queries=(
                Query(text=f"shelfwise_rollout_locked{_LINEAGE}", legend="{{lineage}} locked"),
                Query(text=f"shelfwise_rollout_servers_behind{_LINEAGE}", legend="{{lineage}} servers behind"),
            ),
            low=0,
        ),
        Panel(
            title="Fallbacks by slice",
            description="Share of answers in incoming order for the canary, its control slice and the others (live)."
            " A canary above its control slice fails the gate system.",
            unit="percentunit",
            kind="timeseries",
            queries=(
                Query(
                    text=f"(sum by (lineage, slice) ({rate(_ANSWERS, _FALLBACK)})"
                    f" or 0 * sum by (lineage, slice) ({rate(_ANSWERS, _LINEAGE)}))"
                    f" / sum by (lineage, slice) ({rate(_ANSWERS, _LINEAGE)})",
                    legend="{{lineage}} {{slice}}",
                ),
            ),
            low=0,
        ),
        Panel(
            title="Artifact age",
            description="Time since the live version was published. It grows while no version is promoted.",
            unit="s",
            kind="timeseries",
            queries=(
                Query(
                    text=f"time() - shelfwise_rollout_live_published_timestamp_seconds{_LINEAGE}",
                    legend="{{lineage}}",
                ),
            ),
            low=0,
        ),
        Panel(
            title="Freshness",
            description="Time from an impression until a version that learned from it was verified, p50 and p95 of the"
            " lists of the newest version.",
            unit="s",
            kind="timeseries",
            queries=(Query(text=f"shelfwise_trainer_freshness_seconds{_LINEAGE}", legend="{{lineage}} {{quantile}}"),),
            low=0,
        ),
        Panel(
            title="Map age",
            description="Time since serving last read experiment and versions, the largest of all processes. Above"
            " 30 s the alert fires: moves do not arrive.",
            unit="s",
            kind="timeseries",
            queries=(Query(text="max(shelfwise_serving_map_age_seconds)", legend="oldest map"),),
            low=0,
        ),
        Panel(
            title="Planned ramps",
            description="Share of all clients in an experiment whose ramp is planned.",
            unit="percentunit",
            kind="timeseries",
            queries=(Query(text="shelfwise_rollout_ramp_share", legend="{{experiment}}"),),
            low=0,
        ),
        Panel(
            title="Frozen ramps",
            description="1 while a planned ramp is frozen; `shelfwise abtest ramps` names the cause.",
            unit="short",
            kind="timeseries",
            queries=(Query(text="shelfwise_rollout_ramp_frozen", legend="{{experiment}}"),),
            low=0,
        ),
        Panel(
            title="Breakers",
            description="1 while a breaker keeps a trainer from learning and publishing.",
            unit="short",
            kind="timeseries",
            queries=(Query(text=f"shelfwise_trainer_breaker_open{_LINEAGE}", legend="{{lineage}} {{breaker}}"),),
            low=0,
        ),
    ),
)


def _annotation(name: str, colour: str, text: str, tags: str, table: str) -> Json:
    rows = f"SELECT to_timestamp(event_ts / 1000.0) AS time, {text} AS text, {tags} AS tags FROM {table}"  # noqa: S608 - constants of this module
    return {
        "datasource": datasource("postgres"),
        "enable": True,
        "hide": False,
        "iconColor": colour,
        "name": name,
        "target": {
            "datasource": datasource("postgres"),
            "editorMode": "code",
            "format": "table",
            "rawQuery": True,
            "rawSql": f"SELECT time, text, tags FROM ({rows}) happened WHERE $__timeFilter(time) ORDER BY time",  # noqa: S608 - constants of this module
            "refId": name,
        },
    }


ANNOTATIONS = (
    _annotation(
        "Rollouts",
        "blue",
        "lineage || ' ' || coalesce(version::text, '') || ': ' || to_status || ', ' || why",
        "lineage || ',' || to_status",
        "rollout_events",
    ),
    _annotation(
        "Ramps",
        "purple",
        "experiment || ': ' || event || ', ' || share || ' of all clients, ' || why",
        "experiment || ',' || event",
        "ramp_events",
    ),
)
