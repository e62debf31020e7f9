"""Closing summary of a demo: events by outcome, facts, versions and the lift table."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import msgspec
from sqlalchemy import Engine, func, select

from abtest.page import page_html
from abtest.report import Report, decide
from abtest.tables import session_facts
from deploy.demo import drill_story, truth_report
from deploy.demo.arms import Arm
from deploy.demo.drill import DemoDrill
from deploy.demo.freshness import AppendTimes, freshness_of
from deploy.demo.summary import Conservation, DemoSummary, LiftRow, LineageSummary, closes
from stream import db
from stream.broker.offsets import beginning_offsets
from stream.broker.reader import read_to_end
from stream.broker.settings import Broker
from stream.errors import BusError
from stream.join.settings import JoinSettings
from stream.operations.recount import recount
from stream.schemas import session, topics
from stream.schemas.outcomes import OUTCOMES
from stream.schemas.records import Record
from stream.schemas.session import Progress, Session
from trainer.versions.registry import Registry


def gather(
    *,
    broker: Broker,
    engine: Engine,
    experiment: str,
    arms: Sequence[Arm],
    join: JoinSettings,
    home: Path,
    seed: int,
    simulated: Mapping[str, object],
    swaps: Mapping[str, int],
    drill: DemoDrill | None,
) -> DemoSummary:
    """Return the summary of a drained demo without its seconds, and write the HTML report into `home`.

    Args:
        broker: Broker of the topics, which are read from their beginning.
        engine: Database of the facts, the experiment and the registry.
        experiment: Key of the experiment.
        arms: Its arms.
        join: Windows, for the recount.
        home: Folder of the demo.
        seed: Seed of the run.
        simulated: Summary of the shoppers.
        swaps: Number of versions that serving loaded, by lineage.
        drill: The drill; None without one.
    """
    query_ids: set[str] = set()
    counters: dict[int, Mapping[str, int]] = {}
    appended = AppendTimes()
    for record in read_to_end(broker, topics.SESSIONS):
        content = session.decode(record.value or b"")
        if isinstance(content, Session):
            query_ids.add(content.query_id)
            appended.add(record.partition, record.offset, record.timestamp)
        elif isinstance(content, Progress):
            counters[content.partition] = content.counters
    # The plan of a demo has one look, at its end.
    found = decide(engine, experiment)
    html = home / "report.html"
    truth = truth_report.truth_of(simulated["truth"], arms)
    drilled = None if drill is None else drill.outcome(truth.versions)
    appendix = truth_report.section(truth, start_ts=found.epochs[0].start_ts)
    html.write_text(page_html(found, appendix=appendix + drill_story.section(drilled)))
    versions = Registry(engine).versions()
    with db.read(engine) as connection:
        in_sql = connection.execute(
            select(func.count()).select_from(session_facts).where(session_facts.c.experiment == experiment)
        ).scalar_one()
    return DemoSummary(
        shelfwise=version("shelfwise"),
        broker=f"{'memory@' if broker.memory else ''}{broker.bootstrap}",
        seed=seed,
        searches=int(str(simulated["queries"])),
        simulated_hours=round(float(str(simulated["simulated_s"])) / 3_600, 3),
        conservation=_conservation(broker, join, counters),
        sessions_in_topic=len(query_ids),
        sessions_in_sql=in_sql,
        versions=[
            LineageSummary(
                lineage=arm.lineage,
                arm=arm.name,
                published=sum(v.lineage == arm.lineage for v in versions),
                served=swaps.get(arm.lineage, 0),
                freshness=freshness_of((v for v in versions if v.lineage == arm.lineage), appended),
            )
            for arm in arms
            if arm.lineage is not None
        ],
        experiment=experiment,
        lifts=[
            _lift(found, metric, arm.name) for arm in arms if arm.name != found.control for metric in found.plan.goals
        ],
        truth=truth,
        drill=drilled,
        sample_ratio_p=next((check.p for check in found.checks if check.check_name == "sample_ratio"), None),
        report_html=str(html),
        seconds={},
    )


def encode(summary: DemoSummary) -> bytes:
    """Return indented JSON."""
    return msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n"


def _conservation(broker: Broker, join: JoinSettings, counters: Mapping[int, Mapping[str, int]]) -> Conservation:
    counted = recount(_event_records(broker), join)
    by_recount = {outcome: getattr(counted, outcome) for outcome in OUTCOMES}
    by_counters = {outcome: sum(c.get(outcome, 0) for c in counters.values()) for outcome in OUTCOMES}
    by_recount["open"] = counted.open + counted.lost
    by_counters["open"] = sum(c.get("produced", 0) for c in counters.values()) - sum(by_counters.values())
    return Conservation(
        produced=counted.produced,
        by_counters=by_counters,
        by_recount=by_recount,
        closed=closes(counted.produced, by_counters, by_recount) and counted.lost == 0,
    )


def _event_records(broker: Broker) -> Iterator[Record]:
    names = (*topics.EVENT_TOPICS, topics.SESSIONS, topics.UNJOINED, topics.DEAD_LETTERS)
    for (name, partition), first in beginning_offsets(broker, names).items():
        if first > 0:
            raise BusError(
                f"{name}-{partition} has lost its first {first} records, so that the events cannot be recounted "
                "(the memory broker keeps 5 MiB per partition: run fewer searches)"
            )
    return chain.from_iterable(read_to_end(broker, name) for name in names)


def _lift(found: Report, metric: str, arm: str) -> LiftRow:
    entry = found.result(metric, arm)
    return LiftRow(
        metric=metric,
        arm=arm,
        control=entry.mean_control,
        treatment=entry.mean,
        lift=entry.lift,
        lo=entry.lo,
        hi=entry.hi,
        p=entry.p_fixed,
    )
