"""The laws of admission, by a simulation of arrivals at one server."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.ranking.admission import Admission, Decision, ServiceTime
from serving.ranking.waiting import WaitingLists

DUE_S = 0.027
BUDGET = 0.05
SERVICE_S = 0.004


@dataclass(frozen=True)
class Listed:
    """A list of the simulation: its times, and the seconds that it takes."""

    arrival_s: float
    due_s: float
    is_tried: bool
    service_s: float


@dataclass
class Run:
    """Counts of a simulated run.

    Attributes:
        decided: Requests by decision.
        waits_s: Seconds from each arrival to its scores, of scored lists.
        num_expired: Lists that were admitted and not scored.
    """

    decided: Counter[Decision] = field(default_factory=Counter)
    waits_s: list[float] = field(default_factory=list)
    num_expired: int = 0


def simulate(
    arrivals_s: np.ndarray, services_s: np.ndarray, *, shed_s: float = 0.0003, admission: Admission | None = None
) -> Run:
    """Run one server on arrivals with service times; an answer in incoming order costs `shed_s`."""
    control, found = admission or Admission(budget=BUDGET), Run()
    waiting = WaitingLists[Listed](256)
    running: Listed | None = None
    ends_s = np.inf

    def begin(now_s: float) -> None:
        nonlocal running, ends_s
        running, expired = waiting.take(now_s, control.mean_s)
        found.num_expired += len(expired)
        if running is not None:
            control.started(now_s)
            ends_s = now_s + running.service_s

    for now_s, service_s in [*zip(arrivals_s, services_s, strict=True), (np.inf, 0.0)]:
        while ends_s <= now_s and running is not None:
            control.finished(ends_s)
            found.waits_s.append(ends_s - running.arrival_s)
            begun_s, ends_s = ends_s, np.inf
            begin(begun_s)
        if now_s == np.inf:
            break
        admitted = control.admit(now_s + DUE_S, len(waiting), now_s)
        decision = control.decide(now_s + DUE_S, len(waiting), now_s)
        assert decision is admitted
        found.decided[decision] += 1
        if decision is Decision.INCOMING_ORDER:
            control.spent(shed_s)
        elif decision is Decision.SCORE:
            waiting.put(Listed(now_s, now_s + DUE_S, control.is_idle(len(waiting)), service_s))
            if running is None:
                begin(now_s)
    return found


def poisson(rate: float, seconds: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.exponential(1 / rate, size=int(rate * seconds)))


def services(num: int, seed: int, spread: float = 0.2) -> np.ndarray:
    drawn = np.random.default_rng([1, seed]).gamma(1 / spread**2, SERVICE_S * spread**2, size=num)
    return np.asarray(drawn)


# Ten times as many lists as the next lower load, which go through the same lines.
VERY_HIGH = pytest.param(50.0, marks=pytest.mark.no_cover)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("load", "most_shed"), [(0.3, 0.0), (0.5, 0.005), (0.7, 0.03)])
def test_below_capacity_almost_every_list_is_scored(load: float, most_shed: float, seed: int) -> None:
    at = poisson(load / SERVICE_S, 20, seed)
    found = simulate(at, services(len(at), seed))
    assert 1 - found.decided[Decision.SCORE] / len(at) <= most_shed


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("load", [2.0, 5.0, VERY_HIGH])
def test_above_capacity_the_server_is_busy_with_lists_that_are_in_time(load: float, seed: int) -> None:
    at = poisson(load / SERVICE_S, 10, seed)
    found = simulate(at, services(len(at), seed))
    assert len(found.waits_s) / (10 / SERVICE_S) > 0.97
    # A list is admitted only when it can be scored in time, and then it is.
    assert np.mean(np.array(found.waits_s) <= DUE_S) > 0.97
    assert found.num_expired / len(found.waits_s) < (0.12 if load <= 5 else 0.2)


@pytest.mark.parametrize("load", [1.05, 2.0, 5.0, VERY_HIGH])
def test_answers_in_incoming_order_take_no_more_than_their_budget(load: float) -> None:
    at = poisson(load / SERVICE_S, 10, 1)
    found = simulate(at, services(len(at), 1), shed_s=0.0003)
    assert found.decided[Decision.INCOMING_ORDER] * 0.0003 <= BUDGET * 10 + 0.021
    if load == 1.05:
        assert found.decided[Decision.REFUSE] == 0
    elif load > 2:
        assert found.decided[Decision.REFUSE] > found.decided[Decision.INCOMING_ORDER] > 0


def test_lists_that_can_be_scored_are_never_refused_for_lack_of_budget() -> None:
    control = Admission(budget=0.0)
    control.spent(1e9)
    assert control.decide(DUE_S, 0, 0.0) is Decision.SCORE


def test_a_budget_that_was_exceeded_recovers() -> None:
    control = Admission(budget=BUDGET)
    control.started(0.0)
    assert control.decide(0.5 + DUE_S, 9, 0.5) is Decision.INCOMING_ORDER
    control.spent(1e9)
    assert control.decide(0.5 + DUE_S, 9, 0.5) is Decision.REFUSE
    assert control.decide(1.0 + DUE_S, 9, 1.0) is Decision.INCOMING_ORDER


def busy(*, budget: float = BUDGET) -> Admission:
    """Return an admission that knows the time of a list and that of an answer in incoming order."""
    control = Admission(budget=budget)
    control.started(0.0)
    control.finished(SERVICE_S)
    control.spent(0.001)
    return control


def test_a_batch_of_headers_is_admitted_as_if_each_were_in_the_queue() -> None:
    control = busy()
    found = Counter(control.admit(1.0 + DUE_S, 0, 1.0) for _ in range(400))
    # Four of 4 ms, and a margin of one, end within 27 ms; the credit that is left of a burst, 19 ms, pays 19 answers.
    assert 4 <= found[Decision.SCORE] <= 6
    assert found[Decision.INCOMING_ORDER] == 19
    assert found[Decision.REFUSE] == 400 - found[Decision.SCORE] - 19


def test_a_batch_before_the_first_measured_answer_is_bounded_too() -> None:
    control = Admission(budget=BUDGET)
    control.started(0.0)
    control.finished(SERVICE_S)
    found = Counter(control.admit(1.0 + DUE_S, 0, 1.0) for _ in range(400))
    assert 0 < found[Decision.INCOMING_ORDER] <= 40


def test_a_request_that_comes_to_the_queue_is_expected_no_longer() -> None:
    control = busy()
    due_s = [1.0 + DUE_S + number / 1e6 for number in range(40)]
    decisions = [control.admit(due, 0, 1.0) for due in due_s]
    for number, (due, decision) in enumerate(zip(due_s, decisions, strict=True)):
        if decision is not Decision.REFUSE:
            assert control.decide(due, 0, 1.0) in {Decision.SCORE, decision}, number
    assert control.admit(1.0 + DUE_S, 0, 1.0) is Decision.SCORE
    # One that is not expected takes the place of no other.
    control.decide(9.0, 0, 1.0)
    found = Counter(control.admit(1.0 + DUE_S, 0, 1.0) for _ in range(40))
    assert found[Decision.SCORE] == decisions.count(Decision.SCORE) - 1


def test_requests_without_a_body_are_forgotten_when_they_are_due() -> None:
    control = busy(budget=0.0)
    for _ in range(400):
        control.admit(1.0 + DUE_S, 0, 1.0)
    assert control.admit(1.001 + DUE_S, 0, 1.001) is Decision.REFUSE
    assert control.admit(1.1 + DUE_S, 0, 1.1) is Decision.SCORE


def test_while_nothing_is_scored_a_batch_is_answered_as_far_as_time_allows() -> None:
    control = busy(budget=0.0)
    found = Counter(control.admit_unscored(1.0 + DUE_S, 1.0) for _ in range(400))
    # Each takes 4 ms with HTTP, and 27 ms are left.
    assert found == {Decision.INCOMING_ORDER: 7, Decision.REFUSE: 393}
    assert control.admit_unscored(1.0, 1.1) is Decision.REFUSE


def test_a_request_that_is_too_old_is_refused() -> None:
    control = Admission(budget=BUDGET)
    assert control.decide(DUE_S, 0, DUE_S + 0.001) is Decision.REFUSE
    assert control.decide(DUE_S, 0, DUE_S) is Decision.SCORE


def test_after_overload_the_next_lists_are_scored() -> None:
    control = Admission(budget=BUDGET)
    at = poisson(5 / SERVICE_S, 2, 1)
    simulate(at, services(len(at), 1), admission=control)
    later = at[-1] + 1.0 + poisson(0.2 / SERVICE_S, 2, 2)
    found = simulate(later, np.full(len(later), SERVICE_S), admission=control)
    assert found.decided == {Decision.SCORE: len(later)}


def test_a_model_that_was_too_slow_is_tried_again() -> None:
    control = Admission(budget=BUDGET)
    at = np.arange(1, 40) * 0.2
    slow = np.where(np.arange(1, 40) < 20, 0.15, SERVICE_S)
    found = simulate(at, slow, admission=control)
    assert found.decided == {Decision.SCORE: 39}
    busy = at[-1] + 1.0 + poisson(0.5 / SERVICE_S, 5, 3)
    again = simulate(busy, np.full(len(busy), SERVICE_S), admission=control)
    assert again.decided[Decision.SCORE] / len(busy) > 0.97


def test_a_list_beyond_its_expected_time_keeps_others_out() -> None:
    control = Admission(budget=1.0)
    for start_s in (0.0, 1.0, 2.0, 3.0, 4.0, 5.0):
        control.started(start_s)
        control.finished(start_s + SERVICE_S)
    control.started(10.0)
    assert control.decide(10.001 + DUE_S, 0, 10.001) is Decision.SCORE
    assert control.decide(10.05 + DUE_S, 0, 10.05) is Decision.INCOMING_ORDER


@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=50))
def test_the_smoothed_time_stays_within_what_was_seen(seconds: list[float]) -> None:
    time = ServiceTime()
    assert time.most_s(3) == 0.0
    for one in seconds:
        time.add(one)
    assert min(seconds) - 1e-9 <= time.mean_s <= max(seconds) + 1e-9
    assert time.most_s(2) >= 2 * time.mean_s


def test_the_smoothed_time_follows_a_change() -> None:
    time = ServiceTime()
    for _ in range(50):
        time.add(0.004)
    for _ in range(50):
        time.add(0.012)
    assert time.mean_s == pytest.approx(0.012, rel=0.01)
    assert time.most_s(1) == pytest.approx(0.012, rel=0.05)
