"""Checks of the sample ratio: overall, at any time, and in parts of the clients that can hide in the whole.

What is settled before a client sees anything, such as the day of its first exposure, is a check. What serving did for
the first list, such as its version or a fallback, can differ because of the arm itself: such parts are diagnostics,
which warn and never block.

Source: docs/experiments.md, Sample ratio.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from abtest import sequential_srm
from abtest.experiment import Epoch, Experiment
from abtest.first_exposures import FirstExposures
from abtest.queries import Facts
from abtest.results import Check
from abtest.srm import SampleRatio, Strata, WorstCut, status_of, stratified, worst_cut

_MAX_LABEL = 60


def ratio_checks(experiment: Experiment, epochs: Sequence[Epoch], facts: Facts) -> tuple[Check, ...]:
    """Return the checks of the sample ratio against the buckets that each epoch has dealt.

    Parts of the clients have no check unless two of them have enough clients.
    """
    dealt = _Dealt(
        arms=tuple(arm.name for arm in experiment.arms), buckets={epoch.number: epoch.dealt for epoch in epochs}
    )
    cells = [cell for cell in facts.exposures if cell.arm in dealt.arms and cell.epoch in dealt.buckets]
    exposed, assigned = dealt.strata(cells), dealt.strata(cells, lambda cell: cell.assigned)
    overall = stratified(exposed)
    found = [
        dealt.check("sample_ratio", "exposed clients", overall),
        Check(
            check_name="sample_ratio_sequential",
            stat=sequential_srm.log_evidence(exposed),
            p=sequential_srm.p_value(exposed),
            status=status_of(sequential_srm.p_value(exposed)),
            detail=f"exposed clients, however often this is read: {dealt.shown(overall)}",
        ),
        dealt.check("sample_ratio_assigned", "clients assigned so far", stratified(assigned)),
        dealt.check("sample_ratio_analysed", "analysed clients", stratified(_analysed(dealt, facts))),
    ]
    parts: tuple[tuple[str, Mapping[str, Strata], bool], ...] = (
        ("sample_ratio_by_epoch", dealt.parts(cells, lambda cell: f"epoch {cell.epoch}"), True),
        ("sample_ratio_by_day", dealt.parts(cells, lambda cell: _day(cell.day_ts)), True),
        ("sample_ratio_by_version", _versions(dealt, experiment, cells), False),
        ("sample_ratio_by_fallback", dealt.parts(cells, _fallback), False),
    )
    for name, strata, may_block in parts:
        worst = worst_cut(strata)
        if worst is not None:
            found.append(_part_check(dealt, name, worst, may_block=may_block))
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dealt:
    """Arms of an experiment and the number of buckets that each epoch has dealt them."""

    arms: tuple[str, ...]
    buckets: Mapping[int, tuple[int, ...]]

    def strata(
        self, cells: Sequence[FirstExposures], number: Callable[[FirstExposures], int] = lambda cell: cell.exposed
    ) -> Strata:
        """Return clients by epoch and arm, with the buckets of the epoch."""
        counts = {epoch: [0] * len(self.arms) for epoch in sorted({cell.epoch for cell in cells})}
        for cell in cells:
            counts[cell.epoch][self.arms.index(cell.arm)] += number(cell)
        # Without clients the newest epoch still says which arms are planned.
        return [(found, self.buckets[epoch]) for epoch, found in counts.items()] or [
            ([0] * len(self.arms), self.buckets[max(self.buckets)])
        ]

    def parts(
        self, cells: Sequence[FirstExposures], label: Callable[[FirstExposures], str | None]
    ) -> dict[str, Strata]:
        """Return the strata of the clients of each label; a client without one belongs to no part."""
        grouped: dict[str, list[FirstExposures]] = {}
        for cell in cells:
            name = label(cell)
            if name is not None:
                grouped.setdefault(name, []).append(cell)
        return {name: self.strata(members) for name, members in grouped.items()}

    def shown(self, ratio: SampleRatio) -> str:
        """Return observed and expected clients in words."""
        return ", ".join(
            f"{arm} {observed} (expected {expected:.1f})"
            for arm, observed, expected in zip(self.arms, ratio.observed, ratio.expected, strict=True)
        )

    def check(self, name: str, clients: str, ratio: SampleRatio) -> Check:
        """Return the check of one test."""
        detail = f"{clients}: {self.shown(ratio)}" + (f"; {ratio.reason}" if ratio.reason else "")
        return Check(check_name=name, stat=ratio.stat, p=ratio.p, status=ratio.status, detail=detail)


def _analysed(dealt: _Dealt, facts: Facts) -> Strata:
    by_arm = [facts.matured[arm].by_epoch for arm in dealt.arms]
    return [
        ([found[epoch].n if epoch in found else 0 for found in by_arm], buckets)
        for epoch, buckets in sorted(dealt.buckets.items())
    ]


def _versions(dealt: _Dealt, experiment: Experiment, cells: Sequence[FirstExposures]) -> dict[str, Strata]:
    """Return the clients by version of their first list, compared between the arms that can serve it."""
    able: dict[str | None, set[str]] = {}
    for arm in experiment.arms:
        able.setdefault(arm.lineage, set()).add(arm.name)
    for cell in cells:
        able.setdefault(cell.lineage, set()).add(cell.arm)
    found: dict[str, Strata] = {}
    for lineage in sorted({cell.lineage for cell in cells if cell.lineage is not None}):
        rivals = [arm in able[lineage] for arm in dealt.arms]
        for name, strata in dealt.parts([cell for cell in cells if cell.lineage == lineage], _version).items():
            found[f"{lineage[:_MAX_LABEL]} {name}"] = [
                (observed, [number * is_rival for number, is_rival in zip(buckets, rivals, strict=True)])
                for observed, buckets in strata
            ]
    return found


def _version(cell: FirstExposures) -> str | None:
    return None if cell.version is None else f"version {cell.version[:_MAX_LABEL]}"


def _fallback(cell: FirstExposures) -> str:
    return "fallback" if cell.fell_back else "no fallback"


def _day(day_ts: int) -> str:
    return datetime.fromtimestamp(day_ts / 1_000, UTC).strftime("%Y-%m-%d")


def _part_check(dealt: _Dealt, name: str, worst: WorstCut, *, may_block: bool) -> Check:
    status = status_of(worst.p)
    detail = f"{worst.label} is the furthest of {worst.tested} (p times {worst.tested}): {dealt.shown(worst.ratio)}"
    if worst.untested:
        detail += f"; {worst.untested} with too few clients"
    if not may_block:
        detail += "; the arms themselves can cause this"
    return Check(
        check_name=name,
        stat=worst.ratio.stat,
        p=worst.p,
        status="alert" if status == "blocked" and not may_block else status,
        detail=detail,
    )
