"""Progress records: counters, maturity and intervals."""

from stream.schemas import session, topics
from stream.schemas.session import Progress
from tests.laws.join_log import (
    PARTITION,
    SETTINGS,
    START_TS,
    Log,
    Outputs,
    Tables,
    click,
    impression,
    purchase,
    send,
)
from tests.stream.join.runs import progress_reports, run_events


def test_progress_is_reported_with_counters_and_maturity() -> None:
    result = run_events([impression(1), click(1, 1, "item-1", at_s=5)])
    records = [session.decode(r.value or b"") for r in result.outputs.records if r.topic == topics.SESSIONS]
    reports = [record for record in records if isinstance(record, Progress)]
    watermarks = [report.watermark_ts for report in reports]
    assert watermarks == sorted(watermarks)
    last = reports[-1]
    assert last.counters == dict(result.join.counters)
    assert last.matured_ts == last.watermark_ts - SETTINGS.attribution_s * 1_000
    assert last.partition == PARTITION


def test_conversions_read_after_the_last_tick_are_reported_and_hold_maturity() -> None:
    log = Log.of([send(event) for event in (impression(1), click(1, 1, "item-1", at_s=5))])
    order = purchase(1, 1, ["item-1"], at_s=30)
    log.append(topics.CONVERSIONS, order.client_id.encode(), send(order).value, order.event_ts)
    for step in range(2):
        log.tick(START_TS + 100_000_000 + step * 60_000, 10_000 + step)
    join, outputs = Tables().join(), Outputs()
    for name in (topics.TICKS, topics.IMPRESSIONS, topics.CLICKS):
        outputs.take(join.apply(log.records[name]))
    before = progress_reports(outputs)[-1]
    assert before.watermark_ts > START_TS + 2 * SETTINGS.attribution_s * 1_000
    assert before.matured_ts == 0, "an order of these sessions may still be unread"
    outputs.take(join.apply(log.records[topics.CONVERSIONS]))
    last = progress_reports(outputs)[-1]
    assert last.counters == dict(join.counters)
    assert last.counters["order_lines"] == 1
    assert last.matured_ts == last.watermark_ts - SETTINGS.attribution_s * 1_000
    assert len(progress_reports(outputs)) == len({(r.watermark_ts, r.matured_ts) for r in progress_reports(outputs)})
