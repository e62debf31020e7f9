from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from stream.broker.producer import Producer
from stream.broker.reader import Reader
from stream.broker.settings import Broker
from stream.errors import ArtifactError
from stream.replicas.catalogue import Catalogue, publish, titles
from stream.schemas import topics
from stream.schemas.events import Item, encode


@dataclass(frozen=True)
class StoredRecord:
    key: bytes | None
    value: bytes | None
    offset: int
    topic: str = topics.ITEMS
    partition: int = 0
    timestamp: int = 0
    headers: Sequence[tuple[str, bytes]] = field(default_factory=list)


def item(number: int, **fields: object) -> Item:
    known: dict[str, object] = {
        "item_id": f"item-{number}",
        "title": "a thing",
        "price_minor": 100 * number,
        "currency": "EUR",
        "updated_ts": 1,
    }
    return Item(**{**known, **fields})  # type: ignore[arg-type]


def vector(*values: float) -> bytes:
    return np.array(values, dtype="<f2").tobytes()


def test_vectors_are_decoded_as_float16() -> None:
    catalogue = Catalogue(
        [item(1, image_vec=vector(0.5, -2), image_model="a", text_vec=vector(1, 2, 3), text_model="b")]
    )
    image, text = catalogue.image("item-1"), catalogue.text("item-1")
    assert image is not None
    assert text is not None
    assert image.dtype == np.float16
    assert image.tolist() == [0.5, -2.0]
    assert text.tolist() == [1.0, 2.0, 3.0]


def test_a_vector_of_another_space_counts_as_missing() -> None:
    catalogue = Catalogue(
        [item(1, image_vec=vector(1, 2), image_model="old"), item(2, image_vec=vector(3, 4), image_model="new")],
        image_space="new",
    )
    assert catalogue.image("item-1") is None
    assert catalogue.image("item-2") is not None
    assert len(catalogue) == 2


def test_the_first_space_is_adopted_when_none_is_named() -> None:
    catalogue = Catalogue(
        [item(1, text_vec=vector(1, 2), text_model="a"), item(2, text_vec=vector(1, 2), text_model="b")]
    )
    assert catalogue.text_space == "a"
    assert catalogue.text("item-2") is None


def test_the_space_of_most_items_wins_and_all_are_decoded_again() -> None:
    former = [item(n, text_vec=vector(1, 2), text_model="old", image_vec=vector(5), image_model="i") for n in range(3)]
    catalogue = Catalogue(former)
    records = [catalogue[each.item_id] for each in former]
    for n in range(2):
        catalogue.put(item(n, text_vec=vector(3, 4), text_model="new", image_vec=vector(5), image_model="i"))
    assert catalogue.spaces == ("i", "new")
    found = [catalogue.text(f"item-{n}") for n in range(3)]
    assert [None if each is None else each.tolist() for each in found] == [[3, 4], [3, 4], None]
    # A reader that keeps vectors by record sees that they are others now.
    assert all(catalogue[each.item_id] is not record for each, record in zip(former, records, strict=True))
    assert all(catalogue.image(f"item-{n}") is not None for n in range(3))


def test_a_space_that_a_model_learned_in_is_kept_and_another_is_refused_by_name() -> None:
    items = [item(n, text_vec=vector(1, 2), text_model="a") for n in range(3)]
    catalogue = Catalogue(items)
    catalogue.keep_spaces(None, "a")
    with pytest.raises(ArtifactError, match="text vectors: vectors of the space a are in use, and not of b"):
        catalogue.keep_spaces(None, "b")
    for n in range(2):
        catalogue.put(item(n, text_vec=vector(1, 2), text_model="b"))
    assert catalogue.spaces == (None, "a")
    with pytest.raises(ArtifactError, match="2 items have vectors of the space b, and 1 of a"):
        catalogue.keep_spaces(None, "a")


def test_a_model_of_the_commoner_space_takes_it() -> None:
    catalogue = Catalogue(item(n, image_vec=vector(1, 2), image_model="ab"[n % 2]) for n in range(4))
    assert catalogue.image_space == "a"
    catalogue.keep_spaces("b", None)
    assert [catalogue.image(f"item-{n}") is not None for n in range(4)] == [False, True, False, True]


@pytest.mark.parametrize("damaged", [b"", b"\x01", vector(1, float("nan")), vector(1, 2, 3)])
def test_a_damaged_vector_counts_as_missing(damaged: bytes) -> None:
    catalogue = Catalogue(
        [item(1, image_vec=vector(1, 2), image_model="a"), item(2, image_vec=damaged, image_model="a")]
    )
    assert catalogue.image("item-2") is None
    assert catalogue["item-2"].price_minor == 200


def test_records_replace_and_delete_and_move_the_position() -> None:
    first, second = item(1, image_vec=vector(1, 2), image_model="a"), item(2)
    records = [
        StoredRecord(b"item-1", encode(first), 0),
        StoredRecord(b"item-2", encode(second), 1),
        StoredRecord(b"item-1", encode(item(1, price_minor=7)), 2),
        StoredRecord(b"item-2", None, 3),
        StoredRecord(b"item-3", b"{}", 4),
    ]
    catalogue = Catalogue.from_records(records)
    assert list(catalogue) == ["item-1"]
    assert catalogue["item-1"].price_minor == 7
    assert catalogue.image("item-1") is None
    assert catalogue.positions == {(topics.ITEMS, 0): 5}
    assert catalogue.num_rejected == 1
    catalogue.apply(records)
    assert list(catalogue) == ["item-1"]


@pytest.mark.kafka
def test_published_items_are_loaded_and_followed(kafka_broker: Broker) -> None:
    with Producer(kafka_broker) as producer:
        publish(producer, [item(n, item_id=f"loaded-{n}") for n in range(20)])
    catalogue = Catalogue.load(kafka_broker)
    assert {f"loaded-{n}" for n in range(20)} <= set(catalogue)
    with Producer(kafka_broker) as producer:
        producer.send(topics.ITEMS, key=b"loaded-3", value=None)
        producer.flush()
    with Reader(kafka_broker, catalogue.positions) as reader:
        for _ in range(20):
            if catalogue.apply(reader.poll()):
                break
    assert "loaded-3" not in catalogue


def test_titles_of_a_few_items_are_the_newest_and_deleted_items_have_none() -> None:
    records = [
        *(StoredRecord(f"item-{n}".encode(), encode(item(n, title=f"first {n}")), n) for n in range(4)),
        StoredRecord(b"item-0", encode(item(0, title="second")), 4),
        StoredRecord(b"item-1", None, 5),
        StoredRecord(b"item-2", b"{", 6),
    ]
    assert titles(records, {"item-0", "item-1", "item-2", "item-9"}) == {"item-0": "second"}
