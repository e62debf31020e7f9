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


def test_conversions_read_after_the_last_tick_are_reported_and_end_the_hold() -> None:
    log = Log.of([send(event) for event in (impression(1), click(1, 1, "item-1", at_s=5))])
    order = purchase(1, 1, ["item-1"], at_s=30)
    log.append(topics.CONVERSIONS, order.client_id.encode(), send(order).value, order.event_ts)
    for step in range(2):
        log.tick(START_TS + 100_000_000 + step * 60_000, 10_000 + step)
    join, outputs = Tables().join(), Outputs()
    for name in (topics.TICKS, topics.IMPRESSIONS, topics.CLICKS):
        outputs.take(join.apply(log.records[name]))
    before = progress_reports(outputs)[-1]
    assert before.watermark_ts == before.matured_ts == 0, "an order of these sessions is unread"
    outputs.take(join.apply(log.records[topics.CONVERSIONS]))
    last = progress_reports(outputs)[-1]
    assert last.counters == dict(join.counters)
    assert last.counters["order_lines"] == 1
    assert last.watermark_ts > START_TS + 2 * SETTINGS.attribution_s * 1_000
    assert last.matured_ts == last.watermark_ts - SETTINGS.attribution_s * 1_000
    assert len(progress_reports(outputs)) == len({(r.watermark_ts, r.matured_ts) for r in progress_reports(outputs)})


def test_orders_of_long_ago_delay_maturity_and_no_session() -> None:
    log = Log.of([send(event) for event in (impression(1), click(1, 1, "item-1", at_s=5))])
    join, outputs = Tables().join(), Outputs()
    for name in (topics.IMPRESSIONS, topics.CLICKS, topics.TICKS):
        outputs.take(join.apply(log.records[name]))
    before = progress_reports(outputs)[-1]
    late = purchase(1, 1, ["item-1"], at_s=30)
    log.append(topics.CONVERSIONS, late.client_id.encode(), send(late).value, join.now_ts)
    log.tick(join.now_ts + 60_000, 10_000)
    outputs.take(join.apply(log.records[topics.CONVERSIONS]))
    outputs.take(join.apply(log.records[topics.TICKS][-1:]))
    after = progress_reports(outputs)[-1]
    assert after.watermark_ts == before.watermark_ts + 60_000
    assert after.matured_ts == before.matured_ts
