"""A version is a delta where a full version of the same settings is near enough."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.serving.world import publish, publish_delta
from trainer.versions import artifact, writing
from trainer.versions.base_choice import BaseChoice
from trainer.versions.signature import NO_KEYS, VersionKeys
from trainer.versions.table_delta import Slots

RULE = BaseChoice(max_share=0.25, keep_versions=3, rows_dtype="float32")


@pytest.fixture
def base(tmp_path: Path) -> str:
    return publish(tmp_path, "base", 1)


def chosen(
    folder: Path,
    base: str,
    address: str | None,
    *,
    rule: BaseChoice = RULE,
    share: float = 0.2,
    version: int = 2,
    **values: object,
) -> Slots | None:
    """Return what the next version holds, if this share of the rows has changed since the boundary of version 1."""
    known = artifact.read_manifest(folder, base)
    head = msgspec.structs.replace(known, version=version, **values)
    num_changed = round(share * sum(head.capacities.values()))

    def changed_since(boundary_ts: int) -> Slots:
        assert boundary_ts == known.boundary_ts
        return {"item": np.arange(num_changed), "shop": np.arange(0)}

    return rule.changed(folder, address, head, changed_since)


def test_few_changed_rows_are_a_delta_of_the_full_version(tmp_path: Path, base: str) -> None:
    found = chosen(tmp_path, base, base)
    assert found is not None
    assert len(found["item"]) > 2
    assert chosen(tmp_path, base, base, share=0.3) is None
    assert chosen(tmp_path, base, base, version=3) is not None
    assert chosen(tmp_path, base, base, version=4) is None, "the next three versions retire the first"


@pytest.mark.parametrize(
    "values",
    [
        {"config": {"d": 4}},
        {"learning": {"lr": 0.5}},
        {"capacities": {"item": 900}},
        {"code_version": "next"},
        {"lineage": "other"},
        {"rule": replace(RULE, rows_dtype="float16")},
        {"rule": replace(RULE, max_share=0.0), "share": 0.0},
    ],
    ids="-".join,
)
def test_another_setting_or_release_asks_for_a_full_version(
    tmp_path: Path, base: str, values: dict[str, object]
) -> None:
    assert chosen(tmp_path, base, base, **values) is None  # type: ignore[arg-type] # fields by name


def test_a_full_version_that_is_unknown_damaged_or_no_full_one_asks_for_another(tmp_path: Path, base: str) -> None:
    delta = publish_delta(tmp_path, base, 2, rows=[5])
    for address in (None, "0" * 64, delta):
        assert chosen(tmp_path, base, address) is None
    damaged = publish(tmp_path, "base", 2)
    (tmp_path / damaged / "manifest.json").write_text("{}")
    assert chosen(tmp_path, base, damaged) is None


def test_a_full_version_that_is_not_signed_asks_for_one_that_is(tmp_path: Path) -> None:
    keys = VersionKeys((bytes(32), b"1" * 32))
    for signer, is_base in ((NO_KEYS, False), (VersionKeys(keys.keys[1:]), False), (keys, True)):
        address = publish(tmp_path, "base", 1, keys=signer)
        assert (chosen(tmp_path, address, address, rule=replace(RULE, keys=keys)) is not None) is is_base


def test_settings_agree_in_the_form_in_which_they_are_written(tmp_path: Path, base: str) -> None:
    full = artifact.load(tmp_path, base)
    head = msgspec.structs.replace(full.manifest, learning={"examination": (1.0, 0.5)})
    curved = writing.publish(tmp_path, head, full.params, full.id_maps, full.golden)
    assert chosen(tmp_path, base, curved, learning={"examination": (1.0, 0.5)}) is not None
    assert chosen(tmp_path, base, curved, learning={"examination": (1.0, 0.6)}) is None
