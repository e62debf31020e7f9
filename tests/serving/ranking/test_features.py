import numpy as np
import pytest
from msgspec.structs import replace

from serving.ranking.features import FeatureBuilder, logged
from stream.replicas.catalogue import Catalogue
from stream.replicas.profiles import Profiles
from stream.schemas.events import Behaviour, ClickedPage, Profile
from stream.schemas.session import unpack
from tests.serving.world import START_MS, items, request
from trainer.features import CONTEXT_COLUMNS, FEATURE_SCHEMA, NUM_COLUMNS, item_f16, query_tokens


@pytest.fixture
def profiles() -> Profiles:
    made = Profiles()
    actions = ("click", "hover", "purchase")
    behaviours = [
        Behaviour(event_id=f"e-{k}", item_id=f"i-{k}", action=action, event_ts=START_MS - 1_500 * k)
        for k, action in enumerate(actions)
    ]
    pages = [ClickedPage(query_id=f"q-{k}", impression_ts=k, item_id=[f"i-{k}", "gone"]) for k in range(3)]
    made.put(Profile(client_id="c-1", behaviours=behaviours, pages=pages, updated_ts=START_MS))
    return made


def builder(profiles: Profiles, *, num_scored: int = 30) -> FeatureBuilder:
    return FeatureBuilder(Catalogue(items()), profiles, num_scored=num_scored, query_hash_key=b"key")


def test_a_price_is_the_requests_then_the_catalogues_then_zero(profiles: Profiles) -> None:
    asked = request(candidates=[{"item_id": "i-0", "price_minor": 5}, {"item_id": "i-1"}, {"item_id": "unknown"}])
    assert builder(profiles).prices(asked) == [5, items()[1].price_minor, 0]


def test_at_most_two_hundred_candidates_have_a_price(profiles: Profiles) -> None:
    assert len(builder(profiles).prices(request(num_candidates=201))) == 200


def test_the_history_is_that_of_the_client_at_the_time_of_the_query(profiles: Profiles) -> None:
    found = builder(profiles).build(request("c-1"), "q-1", START_MS, [1] * 30, [])
    assert found.history == profiles.history("c-1", START_MS)
    assert found.history.object_id == ["i-0", "i-2"]
    assert found.example.hist_type.tolist() == [2, 4]


def test_clicked_pages_reach_the_example_and_the_impression(profiles: Profiles) -> None:
    found = builder(profiles).build(request("c-1"), "q-1", START_MS, [1] * 30, [])
    pages = [["i-2", "gone"], ["i-1", "gone"], ["i-0", "gone"]]
    assert logged(found, [0]).history.pages == pages
    (own,) = found.example.page_entity
    by_name = dict(zip(found.example.item_ids, found.example.entity.tolist(), strict=True))
    assert own[:3, 0].tolist() == [by_name[name] for name, _ in pages]
    assert own[:3, 1].any()
    assert not own[3:].any()
    assert not own[:, 2:].any()


def test_the_model_sees_the_first_candidates_and_the_impression_all(profiles: Profiles) -> None:
    asked = request(num_candidates=5)
    prices = builder(profiles).prices(asked)
    found = builder(profiles, num_scored=2).build(asked, "q-1", START_MS, prices, [])
    assert list(found.example.item_ids) == ["i-0", "i-1"]
    expected = item_f16(items()[:5], prices)
    np.testing.assert_array_equal(found.items, expected)
    shown = logged(found, [4, 0])
    assert shown.schema == FEATURE_SCHEMA
    np.testing.assert_array_equal(unpack("item_f16", shown.item_f16).reshape(2, -1), expected[[4, 0]])
    assert shown.history == found.history


def test_a_type_is_the_requests_or_the_catalogues_or_product(profiles: Profiles) -> None:
    catalogue = Catalogue([replace(items()[0], type="card"), replace(items()[1], type="video"), items()[2]])
    typed = FeatureBuilder(catalogue, profiles, num_scored=30, query_hash_key=b"key")
    named = [{"item_id": "i-0"}, {"item_id": "i-1", "type": "product"}, {"item_id": "i-2"}, {"item_id": "unknown"}]
    assert typed.types(request(candidates=named)) == ["card", "product", "product", "product"]
    assert typed.types(request(candidates=named[1:])) == []
    many = [{"item_id": f"x-{number}", "type": "card"} for number in range(201)]
    assert len(typed.types(request(candidates=many))) == 200


def test_words_vector_path_and_types_reach_the_example_and_the_impression(profiles: Profiles) -> None:
    query = {"text": "Red shoes", "vector": [0.5, -2.0], "category": "root > k-0"}
    candidates = [{"item_id": "i-0"}, {"item_id": "i-1", "type": "video"}, {"item_id": "i-2", "type": "poll"}]
    asked = request(query=query, candidates=candidates)
    types = builder(profiles).types(asked)
    assert types == ["product", "video", "poll"]
    found = builder(profiles).build(asked, "q-1", START_MS, [1, 1, 1], types)
    words = query_tokens("red SHOES", b"key")
    assert found.example.token.tolist() == [[*words, *[0] * 6]]
    assert found.example.query_vector[0].tolist() == [0.5, -2.0]
    assert found.example.path == [("root", "k-0")]
    first = NUM_COLUMNS.index("type_sponsored")
    assert found.example.num[:, first : first + 4].tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
    context = unpack("context_f16", logged(found, [0]).context_f16)
    assert context[CONTEXT_COLUMNS.index("token_1") :].tolist() == [*words, *[0] * 6, 0.5, -2.0]
