from dataclasses import replace

import pytest

from abtest import looks, standing, validation
from abtest.experiment import Epoch
from abtest.plan import Plan
from abtest.queries import Facts
from abtest.results import ArmVerdict
from abtest.standing import Obstacle, Outlook
from stream.schemas.times import DAY_MS
from tests.abtest.test_looks import facts

EPOCH = Epoch(number=1, start_ts=0, end_ts=None, coverage=1.0, weights=(0.5, 0.5), dealt=(5_000, 5_000), sha256="")
WINDOWS_MS = 1_000 * (Plan().attribution_s + Plan().refund_s)


def at(found: Facts, matured_ts: int, *, end_ts: int | None = None) -> Facts:
    """Return the facts with windows closed up to a time."""
    changed = replace(found.data_range, matured_ts=matured_ts, settled_ts=matured_ts, end_ts=end_ts)
    return replace(found, data_range=changed)


def obstacle(found: Facts, plan: Plan) -> Obstacle | None:
    return standing.obstacle(validation.experiment_of(plan), found, ())


def test_too_few_buyers_are_a_reason_to_wait_and_after_the_end_an_invalid_experiment() -> None:
    found = facts(100)
    buyers = min(sample.buyers for sample in found.matured.values())
    assert 0 < buyers < 100
    assert obstacle(found, Plan()) == Obstacle(
        verdict="keep running", reason=f"too few buyers: {buyers} of at least 100 in the smallest arm"
    )
    ended = obstacle(at(found, 50, end_ts=50), Plan())
    assert ended is not None
    assert ended.verdict == "invalid"
    assert obstacle(found, Plan(min_buyers=buyers)) is None


def test_a_stopped_experiment_waits_for_its_last_windows() -> None:
    found = facts(2_000)
    waiting = obstacle(at(found, 40, end_ts=50), Plan())
    assert waiting == Obstacle(verdict="keep running", reason="attribution windows are still open")
    assert obstacle(at(found, 50, end_ts=50), Plan()) is None


def test_money_after_refunds_waits_for_the_refund_window() -> None:
    found = facts(2_000)
    ended = replace(found, data_range=replace(found.data_range, matured_ts=50, settled_ts=40, end_ts=50))
    waiting = obstacle(ended, Plan(primary="net_gmv", goals=("net_gmv",)))
    assert waiting == Obstacle(verdict="keep running", reason="refund windows are still open")
    assert obstacle(ended, Plan(primary="gmv")) is None


def test_the_last_look_stands_whatever_the_facts_say_later() -> None:
    experiment = validation.experiment_of(Plan())
    (look,) = looks.take(experiment, facts(2_000, buyers=(0.08, 0.2)), 1, [])
    late = Obstacle(verdict="invalid", reason="sample_ratio failed")
    (verdict,) = standing.arm_verdicts(experiment, facts(2_000), [look], late)
    assert verdict == ArmVerdict(arm="treatment", verdict="ship", reason=look.reason, is_last=True)


def test_the_experiment_runs_on_while_an_arm_does() -> None:
    decided = ArmVerdict(arm="a", verdict="ship", reason="higher", is_last=True)
    running = ArmVerdict(arm="b", verdict="keep running", reason="open")
    assert standing.overall([decided, running]) == ("keep running", "a: ship (higher); b: keep running (open)")
    lost = replace(decided, arm="b", verdict="do not ship", reason="lower")
    assert standing.overall([lost, decided])[0] == "ship"
    assert standing.overall([lost]) == ("do not ship", "lower")


def test_the_outlook_counts_the_clients_that_the_plan_lacks() -> None:
    found = at(facts(2_000), 4 * DAY_MS)
    experiment = validation.experiment_of(Plan(looks=2, clients=10_000))
    # 4,000 clients in 4 days: 6,000 more take 6 days, then the attribution window.
    expected = Outlook(until_ts=10 * DAY_MS + 1_000 * Plan().attribution_s, more_clients=6_000)
    assert standing.outlook(experiment, found) == expected


def test_the_outlook_of_planned_days_ends_with_them() -> None:
    found = at(facts(2_000), 4 * DAY_MS)
    experiment = validation.experiment_of(Plan(looks=2, days=7, primary="net_gmv", goals=("net_gmv",)))
    assert standing.outlook(experiment, found) == Outlook(until_ts=7 * DAY_MS + WINDOWS_MS, more_clients=3_000)


def test_the_outlook_counts_the_clients_until_there_are_buyers_enough() -> None:
    found = at(facts(100), DAY_MS)
    buyers = min(sample.buyers for sample in found.matured.values())
    more = standing.outlook(validation.experiment_of(Plan()), found).more_clients
    assert more == pytest.approx(200 * (100 / buyers - 1), abs=1)
    assert standing.outlook(validation.experiment_of(Plan()), facts(0)) == Outlook(until_ts=None, more_clients=None)


def test_a_stopped_experiment_needs_time_only() -> None:
    found = at(facts(100), DAY_MS, end_ts=2 * DAY_MS)
    expected = Outlook(until_ts=2 * DAY_MS + 1_000 * Plan().attribution_s, more_clients=0)
    assert standing.outlook(validation.experiment_of(Plan()), found) == expected
