import numpy as np
import pytest

from deploy.simulation.marketplace.observables import WIDTH, Shelf, item_name
from deploy.simulation.marketplace.settings import MarketplaceSettings
from deploy.simulation.marketplace.world import TYPES, Floats, World, draw
from stream.replicas.catalogue import Catalogue


def shop(**dials: float) -> tuple[World, Catalogue]:
    world = draw(MarketplaceSettings(seed=3, **dials))  # type: ignore[arg-type]
    shelf = Shelf(world)
    return world, Catalogue(shelf.item(j) for j in range(world.settings.items))


def explained(hidden: Floats, seen: Floats) -> float:
    """Share of the variance of `hidden` that a linear map of `seen` explains."""
    design = np.column_stack([seen, np.ones(len(seen))])
    fitted = design @ np.linalg.lstsq(design, hidden, rcond=None)[0]
    return float(1 - ((hidden - fitted) ** 2).sum() / ((hidden - hidden.mean(axis=0)) ** 2).sum())


def vectors(catalogue: Catalogue, numbers: list[int], modality: str) -> Floats:
    found = [catalogue.image(item_name(j)) if modality == "image" else catalogue.text(item_name(j)) for j in numbers]
    return np.array([vector for vector in found if vector is not None], dtype=np.float64)


def test_images_are_missing_at_the_configured_share() -> None:
    world, catalogue = shop(p_miss=0.2)
    missing = sum(catalogue.image(item_id) is None for item_id in catalogue) / len(catalogue)
    assert missing == pytest.approx(0.2, abs=5 * 0.4 / np.sqrt(world.settings.items))
    assert all(catalogue.text(item_id) is not None for item_id in catalogue)
    vectors = [vector for item_id in catalogue for vector in (catalogue.image(item_id), catalogue.text(item_id))]
    assert {vector.size for vector in vectors if vector is not None} == {WIDTH}


def test_all_images_missing() -> None:
    _, catalogue = shop(p_miss=1.0)
    assert all(catalogue[item_id].image_vec is None for item_id in catalogue)


def test_an_image_tells_the_look_and_noise_hides_it() -> None:
    shares = []
    for noise in (0.3, 1.0, 3.0):
        world, catalogue = shop(image_noise=noise, p_miss=0.0)
        everything = list(range(world.settings.items))
        shares.append(explained(world.items.look, vectors(catalogue, everything, "image")))
    assert shares[0] > 0.85
    assert shares[0] > shares[1] > shares[2]


def test_the_overlap_dial_moves_the_text_from_meaning_to_look() -> None:
    looks, meanings = [], []
    for mu in (0.0, 0.5, 1.0):
        world, catalogue = shop(mu=mu)
        text = vectors(catalogue, list(range(world.settings.items)), "text")
        looks.append(explained(world.items.look, text))
        meanings.append(explained(world.items.meaning, text))
    assert looks[0] < 0.05
    assert looks[0] < looks[1] < looks[2]
    assert meanings[0] > meanings[1] > meanings[2]


def test_launched_items_are_not_in_the_first_catalogue_and_have_sold_nothing() -> None:
    world, catalogue = shop(chi=0.3)
    shelf = Shelf(world)
    first = {item.item_id for item in shelf.items_at(world.settings.start_ts)}
    launched = set(catalogue) - first
    assert len(launched) / len(catalogue) == pytest.approx(0.3, abs=0.06)
    assert all(catalogue[item_id].sales_28d == 0 for item_id in launched)
    end_ts = world.settings.start_ts + int(world.settings.hours * 3_600_000)
    assert {item.item_id for item in shelf.items_at(end_ts)} == set(catalogue)


def test_records_carry_no_truth() -> None:
    world, catalogue = shop()
    record = catalogue[item_name(17)]
    assert record.updated_ts <= world.settings.start_ts + int(world.settings.hours * 3_600_000)
    assert set(record.attributes or {}) == {"rating", "promotion"}


def test_shuffled_images_stay_in_their_category_and_tell_nothing() -> None:
    world, catalogue = shop(p_miss=0.0)
    _, shuffled = shop(p_miss=0.0, shuffled_images=True)
    for items in world.by_category:
        numbers = items.tolist()
        before, after = vectors(catalogue, numbers, "image"), vectors(shuffled, numbers, "image")
        assert sorted(map(tuple, before.tolist())) == sorted(map(tuple, after.tolist()))
        assert not np.array_equal(before, after)
    everything = list(range(world.settings.items))
    assert explained(world.items.look, vectors(shuffled, everything, "image")) < 0.05
    np.testing.assert_array_equal(vectors(catalogue, everything, "text"), vectors(shuffled, everything, "text"))


def test_types_have_their_share_and_scales_of_their_own() -> None:
    world, catalogue = shop(other_types=0.4)
    kinds = np.array([TYPES.index(catalogue[item_name(j)].type) for j in range(world.settings.items)])
    np.testing.assert_array_equal(kinds, world.items.type)
    shares = np.bincount(kinds) / len(kinds)
    assert shares == pytest.approx([0.6, 0.4 / 3, 0.4 / 3, 0.4 / 3], abs=0.04)
    stars = Shelf(world).rating_J
    means = [stars[kinds == kind].mean() for kind in range(len(TYPES))]
    assert means == pytest.approx([3.8, 4.3, 3.0, 4.0], abs=0.12)
    for kind in range(len(TYPES)):
        own = kinds == kind
        assert np.corrcoef(stars[own], world.items.quality[own])[0, 1] > 0.5, "inside of a type stars tell quality"


def test_a_shop_of_products_is_the_same_as_without_types() -> None:
    plain, typed = draw(MarketplaceSettings(seed=3)), draw(MarketplaceSettings(seed=3, other_types=0.4))
    for name in ("quality", "log_price", "look", "launch_ts", "phase"):
        np.testing.assert_array_equal(getattr(plain.items, name), getattr(typed.items, name))
    assert not plain.items.type.any()
    assert not plain.items.type_worth.any()
    products = typed.items.type == 0
    assert not typed.items.type_worth[products].any()
    np.testing.assert_array_equal(Shelf(plain).rating_J[products], Shelf(typed).rating_J[products])
    assert len({round(worth, 6) for worth in typed.items.type_worth[~products].tolist()}) == 3 * 8
