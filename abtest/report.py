"""The report of an experiment: lifts with p-values and intervals, health first, and the caveats that hold for it.

All content comes from the facts, so that the same log gives the same report; `as_of` is the data's watermark.

Source: EXPERIMENTS.md 1, 3.8, 3.9 and 8.
"""

import math
from dataclasses import asdict, dataclass, replace

from sqlalchemy import Connection, Engine
from sqlalchemy.dialects import postgresql, sqlite

from abtest import inference, reading
from abtest.inference import Lift
from abtest.metrics import METRICS, Metric
from abtest.plan import Plan
from abtest.reading import ArmCounts, Facts
from abtest.srm import sample_ratio
from abtest.store import Arm, Epoch, Experiment, ExperimentStore
from abtest.tables import health, results
from stream import db

MULTI_ARM_ALERT = 0.001
WANTED_POWER = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One health check: `ok`, `alert`, `blocked` or `undefined`; a blocked one refuses the verdict."""

    check: str
    stat: float | None
    p: float | None
    status: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One arm's metric against the control; for the control itself only its value.

    Attributes:
        value: The arm's mean or ratio; money in minor units.
        p_adj: p adjusted by Holm over all goals and arms; None outside of that family.
        mde: Relative lift that would have been found with 80 % power.
        power: Chance to find the planned lift; None without one.
        exaggeration: By how much a significant result would overstate the planned lift on average.
        reading: What the numbers say, in one sentence.
    """

    metric: str
    arm: str
    method: str
    n: int
    n_control: int
    value: float | None
    value_control: float | None
    lift: Lift
    p_adj: float | None = None
    mde: float | None = None
    power: float | None = None
    exaggeration: float | None = None
    verdict: str | None = None
    reason: str | None = None
    reading: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that is shown about an experiment.

    Attributes:
        as_of: Data watermark, epoch milliseconds; 0 while nothing is known.
        matured_ts: Sessions up to here have closed attribution windows.
        partial: Sessions with open windows count too: labels are still arriving, no verdict is given.
        verdict: `win`, `loss`, `inconclusive` or `refused`.
        verdict_reason: Why it is refused, or what decided.
    """

    experiment: str
    layer: str
    status: str
    spec_hash: str
    plan: Plan
    arms: tuple[Arm, ...]
    epochs: tuple[Epoch, ...]
    as_of: int
    matured_ts: int | None
    partial: bool
    currency: str | None
    counts: tuple[ArmCounts, ...]
    checks: tuple[Check, ...]
    results: tuple[Result, ...]
    verdict: str
    verdict_reason: str
    caveats: tuple[str, ...]

    @property
    def blocked(self) -> bool:
        """Whether a health check refuses the verdict."""
        return any(check.status == "blocked" for check in self.checks)

    @property
    def control(self) -> str:
        """Name of the control arm."""
        return next(arm.name for arm in self.arms if arm.is_control)

    def result(self, metric: str, arm: str) -> Result:
        """Return the result of one metric and arm."""
        return next(entry for entry in self.results if entry.metric == metric and entry.arm == arm)


def report(engine: Engine, experiment: str, *, partial: bool | None = None) -> Report:
    """Compute the report of an experiment and append it to `results` and `health`.

    Args:
        engine: A database with the newest schema.
        experiment: Key of the experiment.
        partial: Count sessions with open attribution windows too; None does so only while there are no others.

    Guarantees: repeated at the same watermark it replaces its own rows; a reader sees all of its rows or none.

    Raises:
        ConfigError: If there is no such experiment.
        StoreError: If the database is unreachable or refused.
    """
    store = ExperimentStore(engine)
    planned, epochs = store.get(experiment), store.epochs(experiment)
    # One snapshot for all queries, while the sink goes on writing; SQLite gives one by itself.
    snapshot = engine.execution_options(isolation_level="REPEATABLE READ") if _is_postgres(engine) else engine
    with db.transaction(snapshot) as connection:
        facts = reading.read(connection, planned, partial=partial)
    found = evaluate(planned, epochs, facts)
    with db.transaction(engine) as connection:
        _store(connection, found)
    return found


def evaluate(experiment: Experiment, epochs: tuple[Epoch, ...], facts: Facts) -> Report:
    """Return the report that follows from the facts; pure."""
    checks = _checks(epochs, facts)
    as_of = facts.reach.watermark_ts if facts.reach.watermark_ts is not None else facts.reach.last_ts or 0
    currency = experiment.plan.currency or (facts.currencies[0] if len(facts.currencies) == 1 else None)
    mixed = set(facts.currencies) - {currency} != set() or any(count.foreign_lines for count in facts.counts)
    found = tuple(
        result
        for metric in METRICS.values()
        for result in _metric_results(metric, experiment, facts, undefined=metric.is_money and mixed)
    )
    found = _adjusted(found, experiment.plan)
    looks = {*facts.looks, *(() if facts.partial else (as_of,))}
    refusal = _refusal(experiment, epochs, facts, checks, num_looks=len(looks))
    found = tuple(_decided(result, experiment, found, refusal) for result in found)
    verdict, reason = _overall(found, experiment, refusal)
    return Report(
        experiment=experiment.key,
        layer=experiment.layer,
        status=experiment.status,
        spec_hash=experiment.spec_hash,
        plan=experiment.plan,
        arms=experiment.arms,
        epochs=epochs,
        as_of=as_of,
        matured_ts=facts.reach.matured_ts,
        partial=facts.partial,
        currency=currency,
        counts=facts.counts,
        checks=checks,
        results=found,
        verdict=verdict,
        verdict_reason=reason,
        caveats=_caveats(experiment, facts, found, num_looks=len(looks)),
    )


def _checks(epochs: tuple[Epoch, ...], facts: Facts) -> tuple[Check, ...]:
    exposed = [count.exposed for count in facts.counts]
    ratio = sample_ratio(exposed, epochs[-1].weights)
    shown = ", ".join(
        f"{count.arm} {count.exposed} (expected {expected:.1f})"
        for count, expected in zip(facts.counts, ratio.expected, strict=True)
    )
    multi, total = sum(count.multi_arm for count in facts.counts), sum(exposed)
    share = multi / total if total else 0.0
    return (
        Check(
            check="sample_ratio",
            stat=ratio.stat,
            p=ratio.p,
            status=ratio.status,
            detail=f"exposed clients: {shown}" + (f"; {ratio.reason}" if ratio.reason else ""),
        ),
        Check(
            check="multi_arm",
            stat=share,
            p=None,
            status="alert" if share > MULTI_ARM_ALERT else "ok",
            detail=f"{multi} of {total} clients were seen in more than one arm and are left out",
        ),
        Check(
            check="unknown_arm",
            stat=float(facts.stray),
            p=None,
            status="blocked" if facts.stray else "ok",
            detail=f"{facts.stray} clients were exposed to arms that the plan does not have",
        ),
        Check(
            check="maturity",
            stat=float(facts.open_sessions),
            p=None,
            status="alert" if facts.partial else "ok",
            detail="sessions with open attribution windows count too"
            if facts.partial
            else f"{facts.open_sessions} sessions with open attribution windows are left out",
        ),
        Check(
            check="fallback",
            stat=_fallback_share(facts),
            p=None,
            status="ok",
            detail=", ".join(f"{count.arm} {count.fallbacks} of {count.sessions}" for count in facts.counts)
            + " sessions in the incoming order",
        ),
    )


def _fallback_share(facts: Facts) -> float | None:
    sessions = sum(count.sessions for count in facts.counts)
    return sum(count.fallbacks for count in facts.counts) / sessions if sessions else None


def _metric_results(metric: Metric, experiment: Experiment, facts: Facts, *, undefined: bool) -> list[Result]:
    control = experiment.control.name
    base = metric.estimate(facts.moments[control])
    found: list[Result] = []
    for arm in experiment.arms:
        estimate = metric.estimate(facts.moments[arm.name])
        lift = Lift() if arm.is_control else inference.compare(base, estimate, experiment.plan.alpha)
        if undefined:
            lift = Lift(reason="mixed_currency")
        se = lift.lift_se
        planned = experiment.plan.mde
        found.append(
            Result(
                metric=metric.name,
                arm=arm.name,
                method="mean" if metric.denominator is None else "ratio",
                n=estimate.n,
                n_control=base.n,
                value=None if undefined else estimate.value,
                value_control=None if undefined else base.value,
                lift=lift,
                mde=inference.smallest_effect(se, experiment.plan.alpha, WANTED_POWER) if se else None,
                power=inference.power(planned, se, experiment.plan.alpha) if se and planned else None,
                exaggeration=inference.exaggeration(planned, se, experiment.plan.alpha) if se and planned else None,
                reason=lift.reason or (estimate.reason if arm.is_control else None),
            )
        )
    return found


def _adjusted(found: tuple[Result, ...], plan: Plan) -> tuple[Result, ...]:
    family = [entry for entry in found if entry.metric in plan.goals and entry.lift.p is not None]
    p_values = inference.holm([entry.lift.p for entry in family if entry.lift.p is not None])
    adjusted = {(entry.metric, entry.arm): p for entry, p in zip(family, p_values, strict=True)}
    return tuple(replace(entry, p_adj=adjusted.get((entry.metric, entry.arm))) for entry in found)


def _refusal(
    experiment: Experiment, epochs: tuple[Epoch, ...], facts: Facts, checks: tuple[Check, ...], *, num_looks: int
) -> str | None:
    blocked = [check.check for check in checks if check.status == "blocked"]
    if blocked:
        return f"{' and '.join(blocked)} failed: the arms cannot be compared"
    if len({(epoch.weights, epoch.coverage) for epoch in epochs}) > 1:
        return "the allocation changed between epochs: pooled numbers are biased"
    if experiment.plan.primary is None:
        return "no primary metric was declared"
    if facts.partial:
        return "attribution windows are still open"
    if num_looks > experiment.plan.looks:
        return f"look {num_looks} of {experiment.plan.looks} declared: p-values of unplanned looks are too small"
    return None


def _decided(entry: Result, experiment: Experiment, found: tuple[Result, ...], refusal: str | None) -> Result:
    told = replace(entry, reading=_reading(entry))
    if entry.metric != experiment.plan.primary or entry.arm == experiment.control.name:
        return told
    if refusal is not None:
        return replace(told, verdict="refused", reason=refusal)
    tested = [other for other in found if other.metric == entry.metric and other.lift.p is not None]
    if entry not in tested:
        return replace(told, verdict="refused", reason=entry.reason)
    # The primary is tested alone, over all arms; the goals' adjusted p is shown beside it.
    p_values = inference.holm([other.lift.p for other in tested if other.lift.p is not None])
    p = p_values[tested.index(entry)]
    if p >= experiment.plan.alpha:
        return replace(told, verdict="inconclusive")
    return replace(told, verdict="win" if (entry.lift.diff or 0.0) > 0.0 else "loss")


def _overall(found: tuple[Result, ...], experiment: Experiment, refusal: str | None) -> tuple[str, str]:
    if refusal is not None:
        return "refused", refusal
    decided = [entry for entry in found if entry.verdict is not None]
    verdicts = {entry.verdict for entry in decided}
    title = METRICS[experiment.plan.primary or ""].title
    by_arm = "; ".join(f"{entry.arm}: {entry.verdict}" for entry in decided)
    for verdict in ("win", "loss", "inconclusive"):
        if verdict in verdicts:
            return verdict, f"{title} (primary): {by_arm}"
    return "refused", f"{title} (primary) is undefined: {', '.join(sorted({e.reason or '?' for e in decided}))}"


def _reading(entry: Result) -> str:
    lift = entry.lift
    title = METRICS[entry.metric].title
    if lift.p is None or lift.lift is None:
        return f"{title}: undefined ({entry.reason})" if entry.reason else ""
    if lift.kind != "interval" or lift.lo is None or lift.hi is None:
        return f"{title}: the control is too close to zero for bounds on the lift"
    bounds = f"{lift.lo:+.2%} to {lift.hi:+.2%}"
    if lift.lo <= 0.0 <= lift.hi:
        return f"{title}: no evidence of a change; lifts outside {bounds} are excluded"
    return f"{title}: {'higher' if lift.lift > 0.0 else 'lower'}; lifts outside {bounds} are excluded"


def _caveats(experiment: Experiment, facts: Facts, found: tuple[Result, ...], *, num_looks: int) -> tuple[str, ...]:
    plan = experiment.plan
    notes: list[str] = []
    if facts.partial:
        notes.append("Partial: labels of sessions with open attribution windows are still arriving.")
    if plan.primary is None:
        notes.append("No primary metric was declared: all p-values are exploratory.")
    elif len(plan.goals) > 1:
        notes.append(
            f"{METRICS[plan.primary].title} is the one primary metric; p-values of the {len(plan.goals)} goals are "
            "also given adjusted by Holm, and none of the others decides."
        )
    notes.append(
        f"Fixed-horizon p-values, look {num_looks} of {plan.looks} declared: they hold for the declared looks only."
    )
    for entry in found:
        if entry.metric != plan.primary or entry.mde is None:
            continue
        notes.append(f"{METRICS[entry.metric].title}, {entry.arm}: 80 % power needs a lift of {entry.mde:.2%}.")
        if plan.mde is not None and entry.power is not None and entry.power < WANTED_POWER:
            notes.append(
                f"{METRICS[entry.metric].title}, {entry.arm}: power {entry.power:.0%} against the planned lift of "
                f"{plan.mde:.2%}; a significant result would overstate it {entry.exaggeration:.1f} times on average."
            )
    if len({arm.lineage for arm in experiment.arms if arm.lineage}) > 1:
        notes.append(
            "Lineages that train on the sessions of all arms learn from each other, which biases the lift "
            "(arXiv 2309.07107, 2310.17496)."
        )
    if len(facts.currencies) > 1 or any(count.foreign_lines for count in facts.counts):
        notes.append(f"Money in several currencies ({', '.join(facts.currencies)}) is not added up.")
    return tuple(notes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decomposition:
    """Log lifts: GMV per client = sessions per client x orders per session x money per order."""

    arm: str
    gmv: float
    sessions: float
    cvr: float
    aov: float


def decomposition(found: Report) -> tuple[Decomposition, ...]:
    """Return by how much each factor moved GMV, in log points that add up; arms without all factors are left out."""
    parts: list[Decomposition] = []
    for arm in (entry.name for entry in found.arms if not entry.is_control):
        logs = [_log_lift(found.result(name, arm)) for name in ("gmv", "sessions_per_client", "cvr", "aov")]
        gmv, sessions, cvr, aov = logs
        if gmv is not None and sessions is not None and cvr is not None and aov is not None:
            parts.append(Decomposition(arm=arm, gmv=gmv, sessions=sessions, cvr=cvr, aov=aov))
    return tuple(parts)


def _log_lift(entry: Result) -> float | None:
    if not entry.value or not entry.value_control:
        return None
    return math.log(entry.value / entry.value_control)


def _store(connection: Connection, found: Report) -> None:
    key = {"experiment": found.experiment, "as_of": found.as_of, "partial": found.partial}
    rows = [
        {
            **key,
            "metric": entry.metric,
            "arm": entry.arm,
            "segment": "",
            "method": entry.method,
            "n": entry.n,
            "n_control": entry.n_control,
            "mean": entry.value,
            "mean_control": entry.value_control,
            "diff": entry.lift.diff,
            "se": entry.lift.se,
            "df": entry.lift.df,
            "lift": entry.lift.lift,
            "lift_se": entry.lift.lift_se,
            "lo": entry.lift.lo,
            "hi": entry.lift.hi,
            "set_kind": entry.lift.kind,
            "p_fixed": entry.lift.p,
            "p_adj": entry.p_adj,
            "power": entry.power,
            "mde": entry.mde,
            "verdict": entry.verdict,
            "reason": entry.reason,
            "spec_hash": found.spec_hash,
        }
        for entry in found.results
    ]
    checks = [
        {**key, "check_name": check.check, **{k: v for k, v in asdict(check).items() if k != "check"}}
        for check in found.checks
    ]
    for table, content in ((results, rows), (health, checks)):
        insert = postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)
        unique = ("experiment", "as_of", "metric", "arm", "segment", "method", "partial")
        named = unique if table is results else ("experiment", "as_of", "check_name", "partial")
        kept = ({column.name for column in table.c} - {*named, "id"}) & set(content[0])
        connection.execute(
            insert.on_conflict_do_update(
                index_elements=list(named), set_={name: insert.excluded[name] for name in sorted(kept)}
            ),
            content,
        )


def _is_postgres(engine: Engine) -> bool:
    return engine.dialect.name == "postgresql"
