"""Labels of revisions."""

from tests.trainer.lists import catalogue, served
from trainer.features import example_from_session, final_labels, stream_labels

KNOWN = catalogue()


def test_revisions_train_only_what_is_new() -> None:
    served_list = served(2, KNOWN, n=6)
    session = served_list.session(range(6), orders=[1], clicks=[1, 2], gross_minor=500)
    assert stream_labels(session).conv.tolist() == [0, 1, 0, 0, 0, 0]
    first = example_from_session(session, KNOWN)
    assert first.conv.tolist() == [0, 1, 0, 0, 0, 0]
    assert first.click.tolist() == [0, 1, 1, 0, 0, 0]
    assert (first.money.sum(), first.click_weight) == (500, 1)
    session = served_list.session(
        range(6), orders=[1, 3], clicks=[1, 2], revision=1, reason="conversion", changed=[3], gross_minor=500
    )
    later = example_from_session(session, KNOWN)
    assert later.conv.tolist() == [0, 0, 0, 1, 0, 0]
    assert (later.money.sum(), later.click_weight) == (500, 0)
    refund = stream_labels(
        served_list.session(range(6), orders=[1, 3], revision=2, reason="refund", changed=[1], gross_minor=500)
    )
    assert not refund.conv.size
    assert final_labels(session).conv.tolist() == [0, 1, 0, 1, 0, 0]
