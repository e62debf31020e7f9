from sqlalchemy import Engine

from abtest import timeline
from abtest.plan import Plan
from abtest.report import report
from abtest.timeline import MAX_POINTS, LiftAt, NewClients
from stream import db
from stream.schemas.times import DAY_MS
from tests.harness.generated_facts import append, fill, generate
from tests.harness.sessions import make_session


def test_clients_count_on_the_day_of_their_first_exposure(store_engine: Engine) -> None:
    shown = [
        ("a", "control", 10),
        ("a", "control", DAY_MS + 10),
        ("b", "treatment", DAY_MS),
        ("c", "control", 3 * DAY_MS),
    ]
    fill(store_engine, [make_session(f"{who}{at}", who, arm=arm, impression_ts=at) for who, arm, at in shown])
    with db.read(store_engine) as connection:
        found = timeline.read(connection, "first", up_to_ts=2 * DAY_MS)
    assert found.clients == (
        NewClients(day_ts=0, arm="control", clients=1),
        NewClients(day_ts=DAY_MS, arm="treatment", clients=1),
    )


def test_lifts_of_former_reports_are_kept_in_their_order(store_engine: Engine) -> None:
    sessions, _ = generate(seed=19)
    fill(store_engine, sessions[:500], plan=Plan(min_buyers=5), matured_ts=5_000)
    first = report(store_engine, "first")
    append(store_engine, sessions[500:], matured_ts=9_000, watermark_ts=2_000_000)
    second = report(store_engine, "first")
    points = [point for point in second.timeline.lifts if (point.metric, point.arm) == ("cvr", "treatment")]
    assert [point.as_of for point in points] == [first.as_of, 2_000_000]
    assert [point.lift for point in points] == [found.result("cvr", "treatment").lift for found in (first, second)]
    assert first.timeline.lifts == tuple(p for p in second.timeline.lifts if p.as_of == first.as_of)


def test_many_points_are_thinned_and_keep_their_ends() -> None:
    points = [LiftAt(as_of=at, metric="cvr", arm="a", lift=0.0, cs_lo=-1.0, cs_hi=1.0) for at in range(1_000)]
    found = timeline.thinned(points)
    assert len(found) == MAX_POINTS
    assert (found[0], found[-1]) == (points[0], points[-1])
    assert found == sorted(found, key=lambda point: point.as_of)
    assert timeline.thinned(points[:MAX_POINTS]) == points[:MAX_POINTS]
