"""Progress of a running demo, from the metrics of its processes and from the database."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sqlalchemy import Engine, select

from abtest.tables import sink_offsets
from deploy.demo.processes import Ports
from deploy.demo.scrape import Samples, ScrapeError, scrape
from stream import db
from stream.broker.offsets import end_offsets
from stream.broker.settings import Broker
from stream.errors import BusError
from stream.schemas import topics
from stream.schemas.session import CLOSE

PROGRESS_S = 5.0


@dataclass(slots=True)
class ProgressLines:
    """One line of progress every five seconds.

    Attributes:
        monotonic_s: Clock.
        report: Called with each line.
        reported_at_s: Time of the last line, or of the start.
    """

    monotonic_s: Callable[[], float]
    report: Callable[[str], None]
    reported_at_s: float

    def take(self, ports: Ports) -> None:
        """Report where the processes are, if a line is due."""
        now_s = self.monotonic_s()
        if now_s - self.reported_at_s < PROGRESS_S:
            return
        self.reported_at_s = now_s
        served, joined = _scrape_or_nothing(ports.serving), _scrape_or_nothing(ports.joiner)
        trained = [
            f"{lineage} v{_scrape_or_nothing(port).total('shelfwise_trainer_version'):.0f}"
            for lineage, port in ports.trainers.items()
        ]
        self.report(
            f"searches {served.total('shelfwise_serving_requests_total'):,.0f}, "
            f"sessions {joined.total('shelfwise_join_sessions_total', reason=CLOSE):,.0f}, "
            f"join lag {joined.total('shelfwise_join_lag_offsets'):,.0f}, versions {', '.join(trained)}"
        )


def is_drained(broker: Broker, engine: Engine, ports: Ports, *, settled_ts: int, matured_ts: int) -> bool:
    """Return whether the sink has stored the whole log and every lineage has learned it.

    Args:
        broker: Broker of the log; while it is gone, nothing is drained.
        engine: Database of the sink.
        ports: Ports of the trainers.
        settled_ts: Watermark of a trainer that has learned everything.
        matured_ts: Maturity of a sink that has stored everything.
    """
    try:
        is_stored = _sink_is_through(broker, engine, matured_ts)
    except BusError:
        return False
    return is_stored and all(watermark_ms(port) >= settled_ts for port in ports.trainers.values())


def swaps(ports: Ports, lineages: Iterable[str]) -> dict[str, int]:
    """Return how often serving has changed the version of each lineage."""
    samples = _scrape_or_nothing(ports.serving)
    return {
        lineage: int(samples.total("shelfwise_serving_version_changes_total", lineage=lineage)) for lineage in lineages
    }


def watermark_ms(port: int) -> int:
    """Return the watermark of the trainer on a port, 0 while it does not answer."""
    return round(_scrape_or_nothing(port).total("shelfwise_trainer_watermark_timestamp_seconds") * 1_000)


def _sink_is_through(broker: Broker, engine: Engine, matured_ts: int) -> bool:
    ends = {partition: offset for (_, partition), offset in end_offsets(broker, [topics.SESSIONS]).items()}
    columns = (sink_offsets.c.partition, sink_offsets.c.next_offset, sink_offsets.c.matured_ts)
    with db.read(engine) as connection:
        rows = connection.execute(select(*columns).where(sink_offsets.c.topic == topics.SESSIONS)).all()
    through = {row.partition for row in rows if row.next_offset >= ends[row.partition]}
    # Unread conversions hold back the maturity, but not the watermark.
    mature = {row.partition for row in rows if (row.matured_ts or 0) >= matured_ts}
    return through == mature == set(ends)


def _scrape_or_nothing(port: int) -> Samples:
    try:
        return scrape(port)
    except ScrapeError:
        return Samples(())
