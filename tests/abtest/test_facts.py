import pytest
from hypothesis import given
from hypothesis import strategies as st

from abtest import facts
from abtest.facts import Fact
from tests.harness.sessions import click, make_session, purchase, refund

LINES = (
    purchase("t1", 3, 500, quantity=2),
    purchase("t2", 4, 250),
    purchase("t3", 5, 999, currency="USD"),
    refund("t1", 3, 500),
)
EVENTS = (click("e1", 3), click("e2", 3), click("e3", 4))
copies = st.builds(
    lambda revision, events, lines: facts.fact_of(
        make_session("q1", "c1", revision=revision, events=events, lines=lines)
    ),
    st.integers(0, 2),
    st.sets(st.sampled_from(range(len(EVENTS)))).map(lambda chosen: [EVENTS[index] for index in sorted(chosen)]),
    st.sets(st.sampled_from(range(len(LINES)))).map(lambda chosen: [LINES[index] for index in sorted(chosen)]),
)


def test_items_count_once_and_money_in_another_currency_in_no_sum() -> None:
    counted = facts.outcome(facts.fact_of(make_session("q1", "c1", events=list(EVENTS), lines=list(LINES))))
    assert (counted.clicks, counted.carts, counted.units) == (2, 0, 3)
    assert counted.transactions == ("t1", "t2", "t3")
    assert (counted.gross_minor, counted.refund_minor, counted.foreign_lines) == (750, 500, 1)


@given(copies, copies, copies)
def test_merging_is_a_union(first: Fact, second: Fact, third: Fact) -> None:
    def counts(fact: Fact) -> tuple[object, ...]:
        return fact.revision, facts.outcome(fact), facts.encode_evidence(fact)

    merged = facts.merge(first, second)
    assert counts(merged) == counts(facts.merge(second, first))
    assert facts.merge(first, first) == first
    assert counts(facts.merge(merged, third)) == counts(facts.merge(first, facts.merge(second, third)))


def test_facts_of_two_queries_do_not_merge() -> None:
    first, second = (facts.fact_of(make_session(query, "c1")) for query in ("q1", "q2"))
    with pytest.raises(ValueError, match="'q1' and 'q2'"):
        facts.merge(first, second)


@given(copies)
def test_evidence_round_trips(fact: Fact) -> None:
    bare = facts.fact_of(make_session("q1", "c1", revision=fact.revision))
    assert facts.with_evidence(bare, facts.encode_evidence(fact)) == fact


def test_text_that_a_database_refuses_is_replaced() -> None:
    fact = facts.fact_of(make_session("q\0", "c\0", lines=[purchase("t\0", 1, 5)]))
    assert (fact.query_id, fact.client_id, fact.lines[0].transaction_id) == ("q\ufffd", "c\ufffd", "t\ufffd")


def test_a_line_is_returned_at_most_once() -> None:
    lines = [purchase("t1", 3, 750), refund("t1", 3, 500), refund("t1", 3, 750, refund_id="all lines")]
    assert facts.outcome(facts.fact_of(make_session("q1", "c1", lines=lines))).refund_minor == 750
