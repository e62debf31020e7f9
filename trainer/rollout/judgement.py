"""The verdicts on the versions of a lineage: which gate applies to which status, and where its numbers come from.

Source: docs/rollout.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from abtest.metrics import COLUMNS
from abtest.moments import Moments
from trainer.rollout import gates
from trainer.rollout.gates import Interval, LabelCounts, Loads, Prequential, Shadow, SliceCounts
from trainer.rollout.policy import Policy
from trainer.rollout.slices import CANARY, CONTROL, LIVE
from trainer.rollout.states import LineageView, Verdict, Verdicts, VersionView

# Names of the numbers that a trainer publishes with a version, among the metrics of its manifest.
NORM_CHANGE: Final = "gate_norm_change"
LISTS: Final = "gate_lists"
LOSS: Final = "gate_loss"
LEAD: Final = "gate_lead"
HEADS: Final = "gate_heads"
PREDICTED: Final = "gate_predicted"
OBSERVED: Final = "gate_observed"
SHADOW_LISTS: Final = "gate_shadow_lists"
CORRELATION: Final = "gate_shadow_correlation"
CHURN: Final = "gate_shadow_churn"
_HISTORY: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The records of servers and of the sink on a lineage.

    Attributes:
        loads: Version to its state on the servers whose report is fresh.
        slices: Version and slice to the counts of its answers. The control slice of a canary stands under the number of
            the canary.
        facts: Slice to the moments of its clients' sums since the canary began, over `abtest.metrics.COLUMNS`.
        bucket_share: Share of all clients that the running experiments give the lineage; None without one.
        silent: Server to the time of its last report, of servers that were ready then and whose report is not fresh.
    """

    loads: Mapping[int, Loads] = field(default_factory=dict)
    slices: Mapping[tuple[int, str], SliceCounts] = field(default_factory=dict)
    facts: Mapping[str, Moments] = field(default_factory=dict)
    bucket_share: float | None = None
    silent: Mapping[str, int] = field(default_factory=dict)


def judge(view: LineageView, evidence: Evidence, policy: Policy) -> Verdicts:
    """Return the verdicts on the versions that gates apply to."""
    live = view.only("live")
    found: dict[int, Mapping[str, Verdict]] = {}
    for version in view.versions:
        if version.status in {"verified", "canary"}:
            own = before_canary(view, version, evidence, policy)
            if version.status == "canary":
                own |= _in_canary(version, live, evidence, policy)
            found[version.number] = own
    if live is not None:
        found[live.number] = _while_watched(view, live, evidence, policy)
    return found


def before_canary(view: LineageView, version: VersionView, evidence: Evidence, policy: Policy) -> dict[str, Verdict]:
    """Return the verdicts of gates 1 to 5 on a version."""
    has_live = view.only("live") is not None
    loads = evidence.loads.get(version.number, Loads())
    return {
        "integrity": gates.integrity(loads, version.metrics.get(NORM_CHANGE), _history(view, version), policy),
        "golden": gates.golden(loads),
        "prequential": gates.prequential(_prequential(version.metrics, has_live=has_live), policy),
        "calibration": gates.calibration(_labels(version.metrics), policy, has_head=version.metrics.get(HEADS) != 0.0),
        "shadow": gates.shadow(_shadow(version.metrics), _accepted(view, version), policy, has_live=has_live),
    }


def _in_canary(canary: VersionView, live: VersionView | None, evidence: Evidence, policy: Policy) -> dict[str, Verdict]:
    own = evidence.slices.get((canary.number, CANARY), SliceCounts())
    control = evidence.slices.get((canary.number, CONTROL), SliceCounts()) if live is not None else None
    nothing = Moments.empty(len(COLUMNS))
    return {
        "system": gates.system(own, control, policy),
        "business": gates.business(evidence.facts.get(CANARY, nothing), evidence.facts.get(CONTROL, nothing), policy),
    }


def _while_watched(view: LineageView, live: VersionView, evidence: Evidence, policy: Policy) -> dict[str, Verdict]:
    """Return the verdicts on a live version, whose control slice are the answers of the former one."""
    loads = evidence.loads.get(live.number, Loads())
    former = view.former
    before = evidence.slices.get((former.number, LIVE), SliceCounts()) if former is not None else None
    return {
        "integrity": gates.integrity(loads, None, (), policy),
        "golden": gates.golden(loads),
        "system": gates.system(evidence.slices.get((live.number, LIVE), SliceCounts()), before, policy),
    }


def _history(view: LineageView, version: VersionView) -> list[float]:
    found = [v.metrics[NORM_CHANGE] for v in view.versions if v.number < version.number and NORM_CHANGE in v.metrics]
    return found[-_HISTORY:]


def _accepted(view: LineageView, version: VersionView) -> list[Shadow]:
    """Return the changes of order that former versions brought which went live and were not taken back."""
    went_live = [
        each
        for each in view.versions
        if each.number < version.number
        and each.live_since is not None
        and each.status not in {"rolled_back", "quarantined"}
    ]
    return [found for each in went_live if (found := _shadow(each.metrics)) is not None][-_HISTORY:]


def _interval(metrics: Mapping[str, float], name: str) -> Interval | None:
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    if name not in metrics or low is None or high is None:
        return None
    return Interval(mean=metrics[name], low=low, high=high)


def _prequential(metrics: Mapping[str, float], *, has_live: bool) -> Prequential | None:
    lead, loss = _interval(metrics, LEAD), _interval(metrics, LOSS)
    if lead is None or LISTS not in metrics or (has_live and loss is None):
        return None
    return Prequential(num_lists=int(metrics[LISTS]), loss=loss if has_live else None, lead=lead)


def _labels(metrics: Mapping[str, float]) -> Sequence[LabelCounts]:
    """Return the sums of labels; those of a category have its name after a colon."""
    return [
        LabelCounts(
            category=name.removeprefix(PREDICTED).removeprefix(":"),
            predicted=predicted,
            observed=metrics[name.replace(PREDICTED, OBSERVED, 1)],
        )
        for name, predicted in metrics.items()
        if name.startswith(PREDICTED) and name.replace(PREDICTED, OBSERVED, 1) in metrics
    ]


def _shadow(metrics: Mapping[str, float]) -> Shadow | None:
    if not {SHADOW_LISTS, CORRELATION, CHURN} <= metrics.keys():
        return None
    return Shadow(num_lists=int(metrics[SHADOW_LISTS]), correlation=metrics[CORRELATION], churn=metrics[CHURN])
