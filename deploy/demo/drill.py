"""The drill of a demo: one version learns flipped labels, the gates refuse it, and the trainer recovers.

The demo plays the user of the rollout: it sets a policy that suits its size, puts the first version live, which
`trainer.hold_lists` has judged, names the version of the drill, and releases the lineage after a rollback. All else is
done by trainer and controller.

Source: docs/rollout.md, "Drills".
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from sqlalchemy import Engine

from deploy.demo import drill_story
from deploy.demo.summary import Drill, VersionTruth
from stream.errors import ConfigError, StoreError
from trainer.rollout import changes, judgement, policy
from trainer.rollout.changes import Change
from trainer.rollout.states import LineageView
from trainer.rollout.store import RolloutStore

POLICY: Mapping[str, object] = {
    "mode": "gated",
    "on_rejection": "skip",
    "on_rollback": "skip",
    # Some hundred lists between two versions, of which few have an order; the limits of gate 5 are the default.
    "prequential_lists": 20,
    "max_loss": 0.3,
    "max_lag": 0.05,
    "calibration_labels": 60,
    "calibration_low": 0.6,
    "calibration_high": 1.6,
    "shadow_lists": 50,
    # A version each five seconds, on a machine that is busy.
    "canary_share": 0.3,
    "canary_share_of_all": 0.3,
    "canary_s": 1,
    "canary_queries": 20,
    "p99_ratio": 4.0,
    "watch_s": 0,
    # Simulated time is not the clock's, so no session counts as one of the canary's.
    "business_sessions": 0,
}
"""Policy of the lineage; the other values are the defaults."""
_USER: Final = "demo"
_HOLD_S: Final = 3_600
"""Seconds of a canary until the drill is decided: the live version keeps its lists, by which gates 3 to 5 judge."""


class DemoDrill:
    """The drill of one lineage while the demo runs.

    Args:
        engine: Database of the rollout.
        lineage: Lineage of the drill.
        report: Called with one line for each step.
        now_ms: Epoch milliseconds.
    """

    def __init__(self, engine: Engine, lineage: str, report: Callable[[str], None], now_ms: Callable[[], int]) -> None:
        self._store = RolloutStore(engine)
        self._lineage = lineage
        self._report = report
        self._now_ms = now_ms
        self._told = 0
        self._steps: list[str] = []

    def begin(self) -> None:
        """Set the policy of the lineage, whose trainer has started."""
        self._command("policy", lambda view: changes.set_policy(view, POLICY, "gates for a shop of this size"))

    def look(self) -> None:
        """Tell the new events, and do what a user has to.

        What the database does not answer, or the controller has changed meanwhile, is left to the next look.
        """
        with suppress(StoreError, ConfigError):
            self._act(self._store.view(self._lineage))
            self._tell()

    def outcome(self, truths: list[VersionTruth]) -> Drill:
        """Return what became of the version with flipped labels.

        Args:
            truths: The lists that each version ranked.
        """
        self._tell()
        events = self._store.history(self._lineage)
        return drill_story.outcome(self._store.view(self._lineage), events, self._steps, truths)

    def _act(self, view: LineageView) -> None:
        if view.frozen is not None:
            self._command("resume", lambda now: changes.resume(now, "the drill goes on"))
        elif view.only("verified") is not None and all(each.live_since is None for each in view.versions):
            why = "shuffled lists have said twice that it ranks better than the incoming order"
            self._command("promote", lambda now: changes.promote(now, None, why))
        elif _is_time(view):
            # The trainer reads the policy when it publishes the version that it learns now.
            number = view.versions[-1].number + 2
            why = f"a drill: version {number} learns flipped labels, and no canary goes live before it is decided"
            given = {"drill_version": number, "canary_s": _HOLD_S}
            self._command("policy", lambda now: changes.set_policy(now, given, why))
        elif _is_decided(view):
            again = {"canary_s": POLICY["canary_s"]}
            self._command("policy", lambda now: changes.set_policy(now, again, "the drill is decided"))

    def _tell(self) -> None:
        view = self._store.view(self._lineage)
        for event in self._store.history(self._lineage):
            if event.id > self._told:
                self._told = event.id
                line = drill_story.line(event, view)
                if line is not None:
                    self._steps.append(line)
                    self._report(line)

    def _command(self, name: str, decide: Callable[[LineageView], Change]) -> None:
        self._store.command(self._lineage, name, decide, user=_USER, request_id=None, now_ms=self._now_ms())


def _is_time(view: LineageView) -> bool:
    """Return whether gate 5 can see a drill now: the newest version was compared with the live one on some lists.

    A drill for a version that the trainer had begun to learn before is made up for.
    """
    if not view.versions or any(drill_story.is_drill(view, each.number) for each in view.versions):
        return False
    newest = view.versions[-1]
    return newest.number >= policy.of(view.policy).drill_version and newest.metrics.get(judgement.SHADOW_LISTS, 0) > 0


def _is_decided(view: LineageView) -> bool:
    """Return whether canaries still wait for a drill that is over."""
    bad = view.get(policy.of(view.policy).drill_version)
    is_over = bad is not None and bad.status not in {"published", "verified", "canary"}
    return is_over and policy.of(view.policy).canary_s == _HOLD_S
