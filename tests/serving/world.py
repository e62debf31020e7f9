"""A small shop for serving tests: items, versions from real models, an experiment, a service without a broker."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from sqlalchemy import Engine

from abtest.experiment import Arm
from abtest.store import ExperimentStore
from serving import run
from serving.credentials import CredentialWatch
from serving.metrics import Metrics
from serving.outbox.spool import Spool
from serving.ranking import scorer
from serving.ranking.context import AnswerIdentity, RankContext
from serving.ranking.service import Service, System
from serving.ranking.versions import LineageVersions, ServedVersion
from serving.schemas import RankRequest, decode
from serving.settings import ServingSettings
from stream import db
from stream.replicas.catalogue import Catalogue
from stream.schemas.events import Impression, Item
from tests.trainer.lists import hashes
from trainer.features import (
    SCHEMAS,
    ExampleBuilder,
    Examples,
    collate,
    context_f16,
    example_from_request,
    item_f16,
    query_tokens,
    request_list,
)
from trainer.features.id_maps import IdMaps
from trainer.models import MODELS, ModelConfig, architecture_hash, encode_config
from trainer.versions import artifact, writing
from trainer.versions.int8 import Limits
from trainer.versions.registry import Registry
from trainer.versions.signature import NO_KEYS, VersionKeys

import abtest.tables  # isort: skip  # noqa: F401 - registers tables on the metadata
import trainer.versions.tables  # isort: skip  # noqa: F401 - registers tables on the metadata

WIDTH = 16
NUM_ITEMS = 60
START_MS = 1_767_225_600_000


def items() -> list[Item]:
    """Return the shop's items."""
    rng = np.random.default_rng(7)
    return [
        Item(
            item_id=f"i-{number}",
            title=f"item {number}",
            brand_id=f"b-{number % 5}",
            shop_id=f"s-{number % 3}",
            category_ids=["root", f"k-{number % 2}"],
            price_minor=int(rng.integers(100, 90_000)),
            currency="EUR",
            sales_28d=int(rng.integers(0, 500)),
            image_vec=rng.standard_normal(WIDTH).astype("<f2").tobytes() if number % 4 else None,
            text_vec=rng.standard_normal(WIDTH).astype("<f2").tobytes(),
            image_model="image-1",
            text_model="text-1",
            updated_ts=START_MS,
            attributes={"rating": float(rng.uniform(1, 5))},
        )
        for number in range(NUM_ITEMS)
    ]


def configuration(model: str, profile: str) -> ModelConfig:
    """Return a model's configuration for this shop's vectors."""
    config = MODELS[model].profiles[profile]
    values = encode_config(config) | {"vector_width": WIDTH}
    return msgspec.convert(values, type(config))


def manifest(lineage: str, number: int, model: str, config: ModelConfig, id_maps: IdMaps) -> artifact.Manifest:
    """Return the manifest of a version without training."""
    return artifact.Manifest(
        lineage=lineage,
        version=number,
        parent=None,
        term=1,
        model=model,
        profile="tiny",
        config=encode_config(config),
        learning={},
        architecture=architecture_hash(model, config),
        feature_schema=SCHEMAS[config.feature_schema].sha256,
        image_space="image-1",
        text_space="text-1",
        cursors={},
        boundary_ts=0,
        metrics={},
        capacities={name: table.capacity for name, table in id_maps.by_name().items()},
        num_sessions=0,
        code_version="test",
    )


def publish(
    folder: Path,
    lineage: str,
    number: int,
    *,
    model: str = "mlp",
    seed: int | None = None,
    profile: str = "tiny",
    with_graph: bool = False,
    int8: Limits | None = None,
    keys: VersionKeys = NO_KEYS,
) -> str:
    """Write a version with weights drawn from `seed` (the number by default) and return its address."""
    config = configuration(model, profile)
    params = MODELS[model].init(config, number if seed is None else seed)
    capacities = {name.removeprefix("rows."): len(rows) for name, rows in params.items() if name.startswith("rows.")}
    id_maps = IdMaps.empty(capacities, min_sightings=1)
    for item in items():
        id_maps.item.observe(hashes([item.item_id]))
        id_maps.category.observe(hashes(item.category_ids))
    for table in id_maps.by_name().values():
        table.at_boundary(0)
    shop = Catalogue(items())
    examples = [
        example_from_request(
            query_id=f"golden-{start}",
            item_ids=[f"i-{(start + k) % NUM_ITEMS}" for k in range(30)],
            items=item_f16([shop.get(f"i-{(start + k) % NUM_ITEMS}") for k in range(30)]),
            context=context_f16(event_ts=START_MS),
            history=None,
            category=None,
            catalogue=shop,
        )
        for start in range(4)
    ]
    golden = collate(
        Examples.of(examples),
        id_maps,
        width=WIDTH,
        history=config.history,
        pages=config.num_pages,
        schema=config.feature_schema,
    )
    head = manifest(lineage, number, model, config, id_maps)
    return writing.publish(folder, head, params, id_maps, golden, with_graph=with_graph, int8=int8, keys=keys)


def publish_delta(folder: Path, base: str, number: int, *, rows: Sequence[int], keys: VersionKeys = NO_KEYS) -> str:
    """Write version `number` with other values in these rows of items than the version `base`; return its address."""
    full = artifact.load(folder, base)
    changed = {table: np.zeros(0, np.int64) for table in full.id_maps.by_name()} | {"item": np.array(sorted(rows))}
    full.params["rows.item"][changed["item"]] += number
    head = msgspec.structs.replace(full.manifest, version=number, parent=base, base=base)
    return writing.publish(
        folder,
        head,
        full.params,
        full.id_maps,
        full.golden,
        changed=changed,
        with_graph=full.graph is not None,
        keys=keys,
    )


class StubScorer:
    """A scorer that returns what a function says, in place of a model."""

    runtime = "stub"

    def __init__(self, answer: Callable[[int], Sequence[float]] = lambda n: [1.0] * n) -> None:
        self._answer = answer
        self.num_calls = 0

    def score(self, example: Examples) -> Sequence[float]:
        """Return the function's scores for the number of items."""
        self.num_calls += 1
        return self._answer(len(example.item_ids))


def answering(lineage: str, scorer: StubScorer, number: int = 1) -> LineageVersions:
    """Return a lineage whose only version scores as the scorer says."""
    version = ServedVersion(lineage=lineage, number=number, artifact=f"{number:064x}", scorer=scorer)
    return LineageVersions(lineage=lineage, ranked=(version,))


class World:
    """A shop: registry and experiments in SQLite unless a database is named, artifacts in a folder."""

    def __init__(self, home: Path, url: str | None = None) -> None:
        self.home = home
        self.url = f"sqlite:///{home / 'shelfwise.db'}" if url is None else url
        self.engine = db.create(self.url)
        db.metadata.create_all(self.engine)
        self.registry = Registry(self.engine)
        self.experiments = ExperimentStore(self.engine)
        self.artifacts = home / "artifacts"
        self._terms: dict[str, int] = {}

    def go_live(
        self,
        lineage: str,
        number: int,
        *,
        model: str = "mlp",
        seed: int | None = None,
        profile: str = "tiny",
        base: str | None = None,
        with_graph: bool = False,
        int8: Limits | None = None,
        keys: VersionKeys = NO_KEYS,
    ) -> str:
        """Publish a version, or a delta of `base`, and make it live; returns its address."""
        if lineage not in self._terms:
            self.registry.ensure_lineage(
                lineage, model, profile, architecture_hash(model, configuration(model, profile))
            )
            self._terms[lineage] = self.registry.leases.acquire(lineage, "test", START_MS, 1_000_000)
        term = self._terms[lineage]
        if base is None:
            address = publish(
                self.artifacts,
                lineage,
                number,
                model=model,
                seed=seed,
                profile=profile,
                with_graph=with_graph,
                int8=int8,
                keys=keys,
            )
        else:
            address = publish_delta(self.artifacts, base, number, rows=[number])
        self.registry.publish(
            lineage, number, address, parent=None, term=term, metrics={}, offsets={}, published_ts=START_MS
        )
        self.registry.advance(lineage, number, term, to_status="verified", why="test", now_ms=START_MS)
        self.registry.advance(lineage, number, term, to_status="live", why="test", now_ms=START_MS)
        return address

    def experiment(self, key: str = "exp-1", arms: Sequence[Arm] | None = None) -> None:
        """Start an experiment, by default of the lineages `base` and `armmt`."""
        chosen = arms or (
            Arm(name="control", lineage="base", is_control=True),
            Arm(name="treatment", lineage="armmt"),
        )
        self.experiments.create(key=key, arms=chosen, now_ts=START_MS, salt="ranker-2026q1")

    def service(
        self,
        settings: ServingSettings | None = None,
        system: System | None = None,
        engine: Engine | None = None,
        credentials: CredentialWatch | None = None,
    ) -> Service:
        """Return a service on this world, without a broker, that knows the shop's items."""
        built = run.build(
            settings or ServingSettings(deadline_ms=60_000.0, poll_s=0.05),
            home=self.home,
            broker=None,
            engine=engine or db.create(self.url),
            query_hash_key=b"key",
            credentials=credentials,
            system=system or run.SYSTEM,
        )
        for item in items():
            built.catalogue.put(item)
        return built


def spooled(world: World) -> list[Impression]:
    """Take all impressions out of the spool of a service that ran without a broker."""
    spool = Spool(world.home / "serving" / "spool-8080", 1 << 26, Metrics())
    found = []
    while batch := spool.oldest():
        found += [msgspec.json.decode(value, type=Impression) for _, value in batch[1]]
        spool.discard(batch[0])
    return found


_numbers = itertools.count(1)


def body(client_id: str = "c-1", *, num_candidates: int = 30, **changes: object) -> dict[str, object]:
    """Return a valid request as plain values."""
    return {
        "client_id": client_id,
        "query_id": f"q-{next(_numbers)}",
        "query": {"text": "red shoes", "page": 1, "total_hits": 200},
        "currency": "EUR",
        "candidates": [{"item_id": f"i-{number}"} for number in range(num_candidates)],
        "client": {"age_band": "25-34", "gender": "female"},
        **changes,
    }


def request(client_id: str = "c-1", **changes: object) -> RankRequest:
    """Return a valid request."""
    num = changes.pop("num_candidates", 30)
    assert isinstance(num, int)
    return decode(msgspec.json.encode(body(client_id, num_candidates=num, **changes)))


def context(asked: RankRequest, **filled: Any) -> RankContext:
    """Return the context of a request, with fields that earlier steps would have filled."""
    identity = AnswerIdentity(event_id="e-1", event_ts=START_MS, query_id=asked.query_id or "q-1", query_hash="h")
    return RankContext(**{"request": asked, "arrival_s": 0.0, "deadline_s": 60.0, "identity": identity, **filled})


def scores_of(world: World, address: str, asked: RankRequest, shop: Catalogue) -> dict[str, float]:
    """Return each item's score, computed apart from the service, by the version at `address`."""
    example = example_of(asked, shop)
    version = scorer.VersionScorer(artifact.load(world.artifacts, address))
    return dict(zip(example.item_ids, version.score(example), strict=True))


def example_of(asked: RankRequest, shop: Catalogue) -> Examples:
    """Return the example of a request from a client without a history."""
    ids = [candidate.item_id for candidate in asked.candidates]
    request = request_list(
        query_id=asked.query_id or "",
        item_ids=ids,
        items=item_f16([shop.get(item_id) for item_id in ids]),
        context=context_f16(
            event_ts=asked.event_ts or 0,
            page=asked.query.page,
            total_hits=asked.query.total_hits,
            age_band=asked.client.age_band if asked.client else None,
            gender=asked.client.gender if asked.client else None,
            tokens=query_tokens(asked.query.text or "", b"key"),
        ),
        history=None,
        category=asked.query.category,
    )
    return ExampleBuilder(shop).from_request(request)
