"""The sessions of the batch oracle, against labels worked out by hand."""

from stream.operations.batch_join import EVIDENCE, LABELS, JoinedTables, join
from stream.operations.event_tables import event_tables
from tests.laws.join_log import SETTINGS, Event, Log, click, impression, purchase, reversal, send


def _join(*happened: Event) -> JoinedTables:
    records = Log.of(send(event) for event in happened).events()
    return join(event_tables({(each.topic, each.partition, each.offset): each for each in records}, set()), SETTINGS)


def test_labels_count_what_joined() -> None:
    order = purchase(1, None, ["item-1"], at_s=400)
    joined = _join(impression(1), click(1, 1, "item-1", at_s=5), order, reversal(order, 1, after_s=2_000))
    assert joined.evidence.schema == EVIDENCE
    assert joined.labels.schema == LABELS
    assert sorted(joined.evidence["kind"]) == ["click", "line", "line"]
    assert joined.labels.rows() == [("q1", 1, 1, 0, 1, 1, 500, 500, "EUR")]


def test_a_click_without_a_query_joins_the_newest_list_with_the_item() -> None:
    joined = _join(impression(1), impression(2, at_s=20), click(1, None, "item-1", at_s=30))
    assert joined.evidence["query_id"].to_list() == ["q2"]


def test_a_click_after_the_window_joins_only_a_labelled_list() -> None:
    late = click(2, 1, "item-2", at_s=SETTINGS.click_window_s + 1)
    assert _join(impression(1), late).evidence.height == 0
    assert _join(impression(1), click(1, 1, "item-1", at_s=5), late).evidence.height == 2
