"""A gated lineage in a database, with the reports of servers and the facts of the sink written by hand."""

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Engine, delete, insert

from abtest.tables import session_facts
from stream import db
from trainer.rollout import changes, judgement
from trainer.rollout.changes import Change
from trainer.rollout.slices import CANARY, CONTROL
from trainer.rollout.states import LineageView, VersionView
from trainer.rollout.store import RolloutStore
from trainer.rollout.tables import servers
from trainer.versions.registry import Registry

LINEAGE = "prm"
# Numbers of a version that passes gates 3 to 5.
GOOD: Mapping[str, float] = {
    judgement.LISTS: 5_000.0,
    judgement.LEAD: 0.03,
    f"{judgement.LEAD}_low": 0.02,
    f"{judgement.LEAD}_high": 0.04,
    judgement.LOSS: -0.01,
    f"{judgement.LOSS}_low": -0.02,
    f"{judgement.LOSS}_high": 0.0,
    judgement.PREDICTED: 1_000.0,
    judgement.OBSERVED: 1_000.0,
    judgement.SHADOW_LISTS: 5_000.0,
    judgement.CORRELATION: 0.97,
    judgement.CHURN: 0.05,
}
QUICK = {"mode": "gated", "canary_s": "1", "canary_queries": "100", "business_sessions": "100", "watch_s": "0"}


def address(number: int) -> str:
    """Return the address of a version."""
    return f"{number:064x}"


class ServedLineage:
    """A lineage whose servers and shoppers answer as they are told to.

    Args:
        engine: A database with the newest schema.
        name: Name of the lineage.
    """

    def __init__(self, engine: Engine, name: str = LINEAGE) -> None:
        self.engine = engine
        self.name = name
        self.registry = Registry(engine)
        self.store = RolloutStore(engine)

    def command(self, name: str, decide: Callable[[LineageView], Change]) -> None:
        """Execute a command of the user `ada`."""
        self.store.command(self.name, name, decide, user="ada", request_id=None, now_ms=2)

    def report(
        self,
        name: str = "a:8080",
        *,
        seen_ts: int = 10**15,
        ready: bool = True,
        loaded: Mapping[int, str] | None = None,
        counts: Mapping[str, Mapping[str, Any]] | None = None,
        lineage: str | None = None,
    ) -> None:
        """Write the row of a server; by default its report stays fresh."""
        states = {str(number): state for number, state in (loaded or {}).items()}
        row = {
            "name": name,
            "seen_ts": seen_ts,
            "ready": ready,
            "loaded": {lineage or self.name: states},
            "counts": dict(counts or {}),
        }
        with db.transaction(self.engine) as connection:
            connection.execute(delete(servers).where(servers.c.name == name))
            connection.execute(insert(servers).values(**row))

    def answers(self, canary: int, *, bad: int = 0, answered: int = 1_000) -> dict[str, dict[str, Any]]:
        """Return the counts of a canary and of its control slice."""
        counts = {"answered": answered, "fallbacks": {}, "bad": 0, "latency": {"0.01": answered}}
        return {f"{self.name}/{canary}/{CANARY}": counts | {"bad": bad}, f"{self.name}/{canary}/{CONTROL}": counts}

    def search(self, part: str | None, version: int | None, *, at_ts: int, clients: int = 150, orders: int = 1) -> None:
        """Let clients of a slice search once, click once and order."""
        with db.transaction(self.engine) as connection:
            connection.execute(
                insert(session_facts),
                [
                    {
                        "query_id": f"{part}-{version}-{at_ts}-{number}",
                        "revision": 0,
                        "client_id": f"{part}-{number}",
                        "lineage": self.name,
                        "version": None if version is None else str(version),
                        "slice": part,
                        "impression_ts": at_ts,
                        "watermark_ts": at_ts,
                        "currency": "EUR",
                        "n_items": 10,
                        "clicks": 1 + number % 2,
                        "carts": 0,
                        "orders": orders * (number % 2),
                        "units": 1,
                        "gross_minor": 100 * orders * (number % 2),
                        "refund_minor": 0,
                        "foreign_lines": 0,
                        "evidence": b"",
                    }
                    for number in range(clients)
                ],
            )

    def status_of(self, number: int) -> str:
        """Return the status of a version."""
        return self.version(number).status

    def version(self, number: int) -> VersionView:
        """Return a version."""
        found = self.store.view(self.name).get(number)
        assert found is not None
        return found


class GatedLineage(ServedLineage):
    """A lineage whose trainer, too, publishes when it is told to.

    Args:
        engine: A database with the newest schema.
        policy: Values of its policy.
    """

    def __init__(self, engine: Engine, policy: Mapping[str, str] = QUICK) -> None:
        super().__init__(engine)
        self.registry.ensure_lineage(LINEAGE, "prm", "tiny", "h" * 64)
        self.term = self.registry.leases.acquire(LINEAGE, "trainer", 0, 10**15)
        self.publish(1)
        self.registry.advance(LINEAGE, 1, self.term, to_status="live", why="test", now_ms=1)
        self.command("policy", lambda view: changes.set_policy(view, policy, "test"))

    def publish(self, number: int, **metrics: float) -> None:
        """Publish and verify a version that passes gates 3 to 5, but for the given numbers."""
        parent = address(number - 1) if number > 1 else None
        found = {**GOOD, **metrics}
        self.registry.publish(
            LINEAGE,
            number,
            address(number),
            parent=parent,
            term=self.term,
            metrics=found,
            offsets={},
            published_ts=number,
        )
        self.registry.advance(LINEAGE, number, self.term, to_status="verified", why="test", now_ms=number)
