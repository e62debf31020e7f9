"""Dashboard of the running loop, from Prometheus: join workers, trainers, serving and the sink of facts."""

from deploy.grafana.join import STREAM
from deploy.grafana.model import Dashboard, Link, Panel, Query, Section, Variable
from deploy.grafana.promql import EVENTS, STEP, quantiles, rate, share
from deploy.grafana.rollout import ANNOTATIONS, ROLLOUT

_TRAINER = '{lineage=~"$lineage"}'
_COLD = '{lineage=~"$lineage", row="cold"}'


_REQUESTS = "shelfwise_serving_requests_total"
_IMPRESSIONS = "shelfwise_serving_impressions_total"
_VERSION_CHANGES = "shelfwise_serving_version_changes_total"
_FALLBACK = '{fallback!~"|none|false|False|0"}'

_GLANCE = Section(
    title="At a glance",
    panels=(
        Panel(
            title="Processes answering",
            description="Scrape targets that answered the last scrape. If a process is missing, look at its log.",
            unit="short",
            kind="stat",
            queries=(Query(text='sum by (job) (up{job=~"shelfwise-.+"})', legend="{{job}}"),),
            width=6,
            height=4,
            thresholds=((0, "red"), (1, "green")),
        ),
        Panel(
            title="Events in",
            description="Impressions, clicks and conversions that the join reads, per second.",
            unit="eps",
            kind="stat",
            queries=(Query(text=f"sum({rate('shelfwise_join_events_total', EVENTS)})", legend="events"),),
            width=3,
            height=4,
        ),
        Panel(
            title="Sessions out",
            description="Joined sessions per second, corrections included.",
            unit="ops",
            kind="stat",
            queries=(Query(text=f"sum({rate('shelfwise_join_sessions_total')})", legend="sessions"),),
            width=3,
            height=4,
        ),
        Panel(
            title="Join lag",
            description="Records that wait in the input topics of the join. The number rises while a worker is slow"
            " or stopped.",
            unit="short",
            kind="stat",
            queries=(Query(text="sum(shelfwise_join_lag_offsets)", legend="records"),),
            width=3,
            height=4,
            thresholds=((0, "green"), (10_000, "orange"), (100_000, "red")),
        ),
        Panel(
            title="Ranking requests",
            description="Answered requests per second.",
            unit="reqps",
            kind="stat",
            queries=(Query(text=f"sum({rate(_REQUESTS)})", legend="requests"),),
            width=3,
            height=4,
        ),
        Panel(
            title="Fallback share",
            description="Share of answers in incoming order instead of ranked. Above 1 %, see the row Serving.",
            unit="percentunit",
            kind="stat",
            queries=(Query(text=share(rate(_REQUESTS, _FALLBACK), rate(_REQUESTS)), legend="fallback"),),
            width=3,
            height=4,
            thresholds=((0, "green"), (0.01, "red")),
        ),
        Panel(
            title="Newest version",
            description="Number of the newest published version of each lineage.",
            unit="none",
            kind="stat",
            queries=(Query(text=f"max by (lineage) (shelfwise_trainer_version{_TRAINER})", legend="{{lineage}}"),),
            width=3,
            height=4,
        ),
    ),
)

_TRAIN = Section(
    title="Trainer: learning from sessions",
    panels=(
        Panel(
            title="Sessions learned",
            description="Sessions per second that each lineage has learned from.",
            unit="ops",
            kind="timeseries",
            queries=(
                Query(
                    text=f"sum by (lineage) ({rate('shelfwise_trainer_sessions_total', _TRAINER)})",
                    legend="{{lineage}}",
                ),
            ),
        ),
        Panel(
            title="Prequential AUC on clicks",
            description="AUC within lists, since the newest version: of the weights just before they learn a list"
            " (arrival), as served, and, of the lists served, by the version before the newest one (former) and by the"
            " incoming order (incoming).",
            unit="none",
            kind="timeseries",
            queries=(
                Query(
                    text='shelfwise_trainer_prequential{lineage=~"$lineage", label="click", metric="auc"}',
                    legend="{{lineage}} {{series}}",
                ),
            ),
            decimals=3,
        ),
        Panel(
            title="Prequential AUC on orders",
            description="The same on the items that were bought until the session closed.",
            unit="none",
            kind="timeseries",
            queries=(
                Query(
                    text='shelfwise_trainer_prequential{lineage=~"$lineage", label="order", metric="auc"}',
                    legend="{{lineage}} {{series}}",
                ),
            ),
            decimals=3,
        ),
        Panel(
            title="Prequential MRR",
            description="Mean reciprocal rank of the first clicked item, before the model learns from the list.",
            unit="none",
            kind="timeseries",
            queries=(
                Query(
                    text='shelfwise_trainer_prequential{lineage=~"$lineage", label="click", metric="mrr"}',
                    legend="{{lineage}} {{series}}",
                ),
            ),
            decimals=3,
        ),
        Panel(
            title="Prequential log loss",
            description="Log loss of the click probability, on each batch before the model learns from it. Lower is"
            " better.",
            unit="none",
            kind="timeseries",
            queries=(
                Query(
                    text='shelfwise_trainer_prequential{lineage=~"$lineage", label="click", metric="log_loss"}',
                    legend="{{lineage}} {{series}}",
                ),
            ),
            decimals=3,
        ),
        Panel(
            title="Loss by part",
            description="Training loss of the last batch and its parts.",
            unit="none",
            kind="timeseries",
            queries=(Query(text=f"shelfwise_trainer_loss{_TRAINER}", legend="{{lineage}} {{part}}"),),
            decimals=3,
        ),
        Panel(
            title="Versions published",
            description="Number of the newest version of each lineage. Each step is one publication.",
            unit="none",
            kind="timeseries",
            queries=(Query(text=f"max by (lineage) (shelfwise_trainer_version{_TRAINER})", legend="{{lineage}}"),),
            low=0,
        ),
        Panel(
            title="Publications and skips",
            description="Versions published, and batches or records skipped by reason, within the rate interval"
            " (four scrapes or more).",
            unit="short",
            kind="timeseries",
            queries=(
                Query(
                    text=f"sum by (lineage) (increase(shelfwise_trainer_published_total{_TRAINER}{STEP}))",
                    legend="{{lineage}} published",
                ),
                Query(
                    text=f"sum by (lineage, reason) (increase(shelfwise_trainer_skipped_total{_TRAINER}{STEP}))",
                    legend="{{lineage}} skipped: {{reason}}",
                ),
            ),
            low=0,
        ),
        Panel(
            title="Candidates on the cold row",
            description="Share of the candidates whose item, shop, brand or category has no embedding row of its own. A"
            " share that stays high asks for more rows: model.vocabulary.",
            unit="percentunit",
            kind="timeseries",
            queries=(
                Query(
                    text=f"sum by (lineage, table) ({rate('shelfwise_trainer_candidates_total', _COLD)})"
                    f" / sum by (lineage, table) ({rate('shelfwise_trainer_candidates_total', _TRAINER)})",
                    legend="{{lineage}} {{table}}",
                ),
                Query(
                    text="sum by (table) (" + rate("shelfwise_serving_candidates_total", '{row="cold"}') + ")"
                    f" / sum by (table) ({rate('shelfwise_serving_candidates_total')})",
                    legend="serving {{table}}",
                ),
            ),
            low=0,
        ),
        Panel(
            title="Weights of the modalities",
            description="Mean weight of images and texts in the fusion of ARMMT, over the queries learned since the"
            " newest version, by query category. Other models have none.",
            unit="none",
            kind="timeseries",
            queries=(
                Query(
                    text=f"shelfwise_trainer_modality_weight{_TRAINER}",
                    legend="{{lineage}} {{unit}} {{modality}} {{category}}",
                ),
            ),
            low=0,
            decimals=2,
        ),
        Panel(
            title="Learned up to",
            description="Event time up to which the lineage has learned. A flat line during traffic means that the"
            " trainer is stopped.",
            unit="dateTimeAsIso",
            kind="timeseries",
            queries=(
                Query(text=f"shelfwise_trainer_watermark_timestamp_seconds{_TRAINER} * 1000", legend="{{lineage}}"),
            ),
        ),
        Panel(
            title="Checkpoint age",
            description="Seconds since the last checkpoint. After a crash the trainer repeats this much.",
            unit="s",
            kind="timeseries",
            queries=(Query(text=f"shelfwise_trainer_checkpoint_age_seconds{_TRAINER}", legend="{{lineage}}"),),
            low=0,
        ),
    ),
)

_SERVE = Section(
    title="Serving: ranking requests",
    panels=(
        Panel(
            title="Requests by arm",
            description="Answered requests per second in each arm of the experiment.",
            unit="reqps",
            kind="timeseries",
            queries=(Query(text=f"sum by (arm) ({rate(_REQUESTS)})", legend="{{arm}}"),),
        ),
        Panel(
            title="Latency",
            description="Quantiles of the time from request to answer, over all arms.",
            unit="s",
            kind="timeseries",
            queries=quantiles("shelfwise_serving_latency_seconds"),
            low=0,
        ),
        Panel(
            title="p99 latency by arm",
            description="The 99 % quantile by arm. A slower arm makes the comparison of the arms unfair.",
            unit="s",
            kind="timeseries",
            queries=quantiles("shelfwise_serving_latency_seconds", "arm", " {{arm}}")[-1:],
            low=0,
        ),
        Panel(
            title="Answers by fallback",
            description="Answers per second by fallback reason. Fallbacks count in the assigned arm.",
            unit="reqps",
            kind="timeseries",
            queries=(Query(text=f"sum by (fallback) ({rate(_REQUESTS)})", legend="{{fallback}}"),),
            stack=True,
        ),
        Panel(
            title="Version on traffic",
            description="Version of each lineage that serving scores with.",
            unit="none",
            kind="state-timeline",
            queries=(
                Query(text='max by (lineage) (shelfwise_serving_version{lineage=~"$lineage"})', legend="{{lineage}}"),
            ),
        ),
        Panel(
            title="Version changes",
            description="Versions that serving loaded within the rate interval (four scrapes or more).",
            unit="short",
            kind="timeseries",
            queries=(
                Query(
                    text=f'sum by (lineage) (increase({_VERSION_CHANGES}{{lineage=~"$lineage"}}{STEP}))',
                    legend="{{lineage}}",
                ),
            ),
            low=0,
        ),
        Panel(
            title="Impressions by state",
            description="Impression events emitted, delivered to Kafka, spooled to disk while Kafka is unavailable,"
            " or dropped.",
            unit="eps",
            kind="timeseries",
            queries=(Query(text=f"sum by (state) ({rate(_IMPRESSIONS)})", legend="{{state}}"),),
            width=12,
        ),
        Panel(
            title="Impressions not delivered",
            description="Impressions emitted minus impressions delivered, within the rate interval. Near zero while"
            " Kafka answers.",
            unit="short",
            kind="timeseries",
            queries=(
                Query(
                    text=f'sum(increase({_IMPRESSIONS}{{state="emitted"}}{STEP}))'
                    f' - (sum(increase({_IMPRESSIONS}{{state="delivered"}}{STEP})) or vector(0))',
                    legend="waiting",
                ),
            ),
            width=12,
        ),
        Panel(
            title="Events collected",
            description="Events that shoppers' devices sent to the collector, by outcome.",
            unit="eps",
            kind="timeseries",
            queries=(
                Query(text=f"sum by (outcome) ({rate('shelfwise_serving_collected_total')})", legend="{{outcome}}"),
            ),
            stack=True,
        ),
    ),
)

_FACTS = Section(
    title="Facts: sessions to SQL",
    panels=(
        Panel(
            title="Sessions written",
            description="Sessions per second that the sink writes as facts.",
            unit="ops",
            kind="timeseries",
            queries=(Query(text=f"sum({rate('shelfwise_sink_sessions_total')})", legend="sessions"),),
            width=12,
        ),
        Panel(
            title="Sink lag",
            description="Sessions that wait in the topic, over all partitions. The report does not contain them yet.",
            unit="short",
            kind="timeseries",
            queries=(Query(text="sum(shelfwise_sink_lag_offsets)", legend="sessions"),),
            low=0,
            width=12,
        ),
    ),
)

LOOP = Dashboard(
    uid="shelfwise-loop",
    title="Shelfwise: the loop",
    description="Events in, sessions joined, lineages trained, versions on traffic, facts written.",
    source="prometheus",
    sections=(_GLANCE, STREAM, _TRAIN, ROLLOUT, _SERVE, _FACTS),
    variables=(
        Variable(name="lineage", label="Lineage", query="label_values(shelfwise_trainer_version, lineage)", many=True),
    ),
    links=(Link(title="The experiment", url="/d/shelfwise-experiment"),),
    annotations=ANNOTATIONS,
)
