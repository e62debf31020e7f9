"""Reference pages and schemas of the documentation, generated from the code: `make docs` writes them."""

import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.metrics import MetricWrapperBase

from abtest import report_schema
from abtest.metrics import METRICS
from deploy.configuration import ALIASES, sections
from deploy.demo.summary import json_schema
from stream.schemas import json_schemas
from stream.setting_fields import as_text, keys, leaves, secrecy_of, value_at
from stream.settings import ProfiledSection

_CONFIGURATION = """\
# Configuration reference

Generated from the settings records by `make docs`; edit the docstrings of the records instead of this page.

A setting comes from, later wins: its default, one TOML file (`--config FILE`, else `SHELFWISE_CONFIG`, else
`shelfwise.toml` in the working directory), the environment (`SHELFWISE_SECTION__KEY`), a flag of the command or
`--set SECTION.KEY=VALUE`. The keys and defaults of `[model]` depend on `trainer.model` and `trainer.profile`, the
defaults of `[learning]` on the profile. A list is written `["image", "text"]` in TOML and `image,text` elsewhere. An
unknown key is an error that names the nearest known one. `shelfwise config show` prints every value with its origin.

    [kafka]
    broker = "kafka.example.org:9093"
    password_file = "/run/secrets/kafka"

A secret setting `x` also comes from the file named by `x_file`; its trailing line breaks are dropped. If both are set,
the command fails. Secrets are masked wherever settings are printed.

Three variables are no settings: `SHELFWISE_HOME` is the folder of everything that Shelfwise keeps on disk
(`.shelfwise`), `SHELFWISE_CONFIG` names the TOML file, `SHELFWISE_DATA` is the folder of research logs for replays.

Files that a command writes have mode 0600 and new folders 0700 under every umask: they name clients. Reports,
evaluations and dashboards have the rights that the umask gives. Folders and files that are there keep theirs.

Former names of settings still work, for example `kafka.port` for `local_kafka.port` and `trainer.rows_lr` for
`learning.rows_lr`.
"""

_METRICS = """\
# Metrics reference

Generated from the metrics of the processes by `make docs`; edit the help texts in the code instead of this page.

Every process answers Prometheus on `/metrics` of its own port. A histogram has the series `_bucket`, `_sum` and
`_count`. Every process also shows `shelfwise_build_info` with its version. `process_*` and `python_*` come
from the Prometheus client library.
`deploy/prometheus/rules.yml` holds the alerts; `docs/operations.md` describes what to do about each.
"""
_EXPERIMENT_METRICS = """\
## Experiment metrics

An experiment compares these numbers between its arms; `shelfwise abtest report` and the experiment's dashboard show
them. They are computed from the facts in the database and are no Prometheus metrics. See `docs/experiments.md`.
"""


def configuration() -> str:
    """Return the page `docs/configuration.md`."""
    short = {path: variable for variable, path in ALIASES.items() if path}
    lines = [_CONFIGURATION]
    for section, kind in sections().items():
        lines += [f"## [{section}]", ""]
        if isinstance(kind, ProfiledSection):
            lines += _profiled(kind)
            continue
        declared = {name: (field, hint) for name, field, hint in leaves(kind)}
        lines += [_first_sentence(kind), ""]
        lines += ["| key | type | default | description |", "|---|---|---|---|"]
        for key, description in keys(kind).items():
            field, hint = declared.get(key, (None, None))
            shown = "" if field is None or secrecy_of(field) else _default(field.default)
            alias = short.get(f"{section}.{key}")
            note = f" Also `{alias}`." if alias else ""
            shape = _type(hint) if field is not None else "path"
            lines.append(f"| `{key}` | {shape} | {shown} | {_cell(description)}{note} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _profiled(section: ProfiledSection) -> list[str]:
    """Return the tables of a section whose defaults depend on `trainer.model` and `trainer.profile`."""
    lines: list[str] = []
    for variant, profiles in section.variants.items():
        kind = type(next(iter(profiles.values())))
        described = keys(kind)
        if len(section.variants) > 1:
            lines += [f"### {variant}", ""]
        lines += [_first_sentence(kind), ""]
        lines += [f"| key | type | {' | '.join(profiles)} | description |", "|---|---|" + "---|" * (len(profiles) + 1)]
        for key, _, hint in leaves(kind):
            shown = " | ".join(_default(value_at(record, key)) for record in profiles.values())
            lines.append(f"| `{key}` | {_type(hint)} | {shown} | {_cell(described[key])} |")
        lines.append("")
    return lines


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricEntry:
    """Prometheus metric of a process, as the process declares it.

    Attributes:
        name: Name on the metrics endpoint; that of a counter ends in `_total`.
        kind: Type of the metric.
        labels: Names of the labels.
        help: Help text.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


def prometheus_metrics() -> Mapping[str, list[MetricEntry]]:
    """Return the metrics of each process of Shelfwise, read from the objects that the process registers."""
    from abtest.sink import SinkMetrics
    from abtest.watch import WatchMetrics
    from serving.metrics import Metrics
    from stream.agents.metrics import JoinMetrics
    from trainer.metrics import families
    from trainer.rollout.metrics import RolloutMetrics

    sink, watcher, controller = CollectorRegistry(), CollectorRegistry(), CollectorRegistry()
    SinkMetrics(sink)
    WatchMetrics(watcher)
    RolloutMetrics(controller)
    return {
        "Joiner (`shelfwise stream worker`)": _registered(JoinMetrics().registry),
        "Trainer (`shelfwise trainer run`)": [_entry(family) for family in families().values()],
        "Serving (`shelfwise serving run`)": _registered(Metrics().registry),
        "Sink (`shelfwise abtest sink`)": _registered(sink),
        "Watcher (`shelfwise abtest watch`)": _registered(watcher),
        "Controller (`shelfwise rollout run`)": _registered(controller),
    }


def metrics() -> str:
    """Return the page `docs/metrics.md`."""
    lines = [_METRICS]
    for process, entries in prometheus_metrics().items():
        lines += [f"## {process}", "", "| metric | type | labels | meaning |", "|---|---|---|---|"]
        for entry in sorted(entries, key=lambda entry: entry.name):
            labels = ", ".join(f"`{label}`" for label in entry.labels)
            lines.append(f"| `{entry.name}` | {entry.kind} | {labels} | {_cell(entry.help)} |")
        lines.append("")
    lines += [_EXPERIMENT_METRICS, "| metric | title | definition |", "|---|---|---|"]
    lines += [f"| `{name}` | {metric.title} | {_cell(metric.definition)} |" for name, metric in METRICS.items()]
    return "\n".join(lines).rstrip() + "\n"


def write(folder: Path) -> list[Path]:
    """Write the pages and schemas into the folder of the documentation and return their paths."""
    written = []
    for page in (configuration, metrics):
        path = (folder / page.__name__).with_suffix(".md")
        path.write_text(page())
        written.append(path)
    written += json_schemas.write(folder / "schemas")
    summary = folder / "schemas" / "demo-summary.json"
    summary.write_bytes(_formatted(json_schema()))
    report = folder / "schemas" / "experiment-report.json"
    report.write_bytes(_formatted(report_schema.json_schema()))
    return [*written, summary, report]


def _formatted(schema: dict[str, object]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(schema), indent=2) + b"\n"


def _registered(registry: CollectorRegistry) -> list[MetricEntry]:
    # The registry has no public list of its metrics: `collect` leaves out the labels of those without a sample.
    collectors = registry._collector_to_names  # noqa: SLF001
    entries = [_entry(collector) for collector in collectors if isinstance(collector, MetricWrapperBase)]
    return [entry for entry in entries if entry.name.startswith("shelfwise_") and entry.kind != "info"]


def _entry(declared: MetricWrapperBase | Metric) -> MetricEntry:
    family = next(iter(declared.describe())) if isinstance(declared, MetricWrapperBase) else declared
    labels: tuple[str, ...] = tuple(declared._labelnames)  # type: ignore[union-attr]  # noqa: SLF001
    name = f"{family.name}_total" if family.type == "counter" else family.name
    return MetricEntry(name=name, kind=family.type, labels=labels, help=family.documentation.rstrip("."))


def _first_sentence(kind: type) -> str:
    return (kind.__doc__ or "").split("\n", 1)[0].strip()


def _default(value: object) -> str:
    return "" if value == "" else f"`{str(value).lower()}`" if isinstance(value, bool) else f"`{as_text(value)}`"


def _type(hint: object) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in typing.get_args(hint) if choice != "")
    if typing.get_origin(hint) is tuple:
        parts = typing.get_args(hint)
        return f"list of {_type(parts[0])}" if parts[-1] is Ellipsis else f"{len(parts)} of {_type(parts[0])}"
    if isinstance(hint, types.UnionType):
        return " or ".join(_type(part) for part in typing.get_args(hint))
    names: dict[object, str] = {str: "text", int: "integer", float: "number", bool: "`true` or `false`"}
    return names.get(hint, str(hint))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    for written in write(Path(sys.argv[1])):
        sys.stdout.write(f"wrote {written}\n")
