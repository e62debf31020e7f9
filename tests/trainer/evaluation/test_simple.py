import numpy as np

from tests.trainer.evaluation import logs
from trainer.evaluation import simple


def test_each_ranker_orders_by_what_its_name_says() -> None:
    lists = logs.lists(20)
    sessions = {session.query_id: session for session in logs.sessions(20)}
    displayed, incoming, last, cheapest = (
        simple.scores(name, lists, 0) for name in ("displayed order", "incoming order", "last touched", "cheapest")
    )
    touched = 0
    for row, each in enumerate(lists):
        session = sessions[each.example.query_id]
        names = np.array(each.example.item_ids)
        assert names[np.argsort(-displayed[row])].tolist() == session.item_id
        ranks = session.column("rank_in")
        assert names[np.argsort(-incoming[row])].tolist() == [session.item_id[at] for at in np.argsort(ranks)]
        price = dict(zip(session.item_id, session.column("price_minor").tolist(), strict=True))
        assert names[np.argmax(cheapest[row])] == min(price, key=lambda name, price=price: price[name])  # type: ignore[misc]
        # The newest behaviour on an item of the list, else the displayed order.
        newest = next((name for name in session.hist_item if name in price), None)
        touched += newest is not None
        rest = [name for name in session.item_id if name != newest]
        expected = rest if newest is None else [newest, *rest]
        assert names[np.argsort(-last[row])].tolist() == expected
    assert 5 < touched < 20


def test_chance_depends_on_the_seed_alone() -> None:
    lists = logs.lists(3)
    assert (simple.scores("random", lists, 1) == simple.scores("random", lists, 1)).all()
    assert (simple.scores("random", lists, 1) != simple.scores("random", lists, 2)).any()


def test_an_order_that_is_the_incoming_one_is_no_other_row() -> None:
    lists = logs.lists(2)
    assert simple.is_reordered(lists)
    assert not simple.is_reordered([logs.shortened(each, [int(np.argmin(each.example.index))]) for each in lists])
