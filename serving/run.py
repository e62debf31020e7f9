"""Construction of one ranking service from its settings."""

import os
import socket
import time
from functools import partial
from pathlib import Path

from numpy.random import default_rng
from sqlalchemy import Engine

from abtest import pages
from abtest.store import ExperimentStore
from serving.annotation import AnnotationDesk
from serving.credentials import Credentials, CredentialWatch
from serving.experiments import ExperimentPages
from serving.metrics import Metrics
from serving.outbox.collector import Collector
from serving.outbox.delivery import Delivery
from serving.outbox.emitter import Emitter
from serving.outbox.spool import Spool
from serving.ranking import scorer
from serving.ranking.assignment import Assigner
from serving.ranking.context import scores_due_s
from serving.ranking.replicas import ReplicaUpdater
from serving.ranking.reports import AnswersByVersion, Reporter
from serving.ranking.service import Dependencies, Service, System
from serving.ranking.updater import VersionUpdater
from serving.ranking.versions import VersionManager
from serving.settings import ServingSettings
from serving.tokens import parse
from stream.adapters import Options
from stream.broker.settings import Broker
from stream.files import private_folder
from stream.replicas.catalogue import Catalogue
from stream.replicas.profiles import Profiles
from stream.schemas import topics
from stream.wall_clock import epoch_ms
from trainer.rollout import reports
from trainer.rollout.served_map import MapReader, Pointer

DATABASE_TIMEOUT_S = 2
"""The service answers from memory and from local copies, so a database that stalls is given up soon."""
SYSTEM = System(clock=time.monotonic, now_ms=epoch_ms, random_bytes=os.urandom, random=default_rng().random)


def build(
    settings: ServingSettings,
    *,
    home: Path,
    broker: Broker | None,
    engine: Engine | None,
    query_hash_key: bytes,
    client_id_key: bytes = b"",
    credentials: CredentialWatch | None = None,
    worker: int = 0,
    system: System = SYSTEM,
) -> Service:
    """Return a service with its components, not started.

    Args:
        settings: The section `serving`.
        home: Folder of everything that Shelfwise keeps on disk.
        broker: None sends impressions to the spool, leaves catalogue and profiles empty and refuses posted events.
        engine: None takes versions and the experiment from the local copies.
        query_hash_key: Key of the hash that replaces query texts.
        client_id_key: Key of the hash that replaces ids of clients, visits and accounts; empty = none.
        credentials: Tokens of callers and keys of versions; None takes the tokens of `settings`, and no keys.
        worker: Number of this process among those of one port, from 1; 0 if it is the only one.
        system: Clocks and random bytes.
    """
    folder = private_folder(home / "serving")
    metrics = Metrics(scores_due_s(0.0, settings.deadline_ms / 1_000))
    catalogue, profiles = Catalogue(), Profiles(settings.profiles_capacity)
    metrics.evicted_profiles.set_function(lambda: profiles.num_evicted)
    versions = VersionManager(metrics, max_bad_outputs=settings.max_bad_outputs)
    artifacts = Path(settings.artifacts) if settings.artifacts else home / "artifacts"
    watched = credentials or CredentialWatch(Credentials(tokens=parse(settings.tokens)))
    loader = scorer.Loader(
        artifacts,
        keys=lambda: watched.present.keys,
        runtime=_runtime(settings),
        count=metrics.count_candidates,
        full_precision=lambda lineage: metrics.full_precision.labels(lineage).inc(),
    )

    def load(lineage: str, pointer: Pointer) -> scorer.VersionScorer:
        found = loader.load(pointer.artifact)
        found.check_identity(lineage, pointer.number)
        return found

    def check(found: scorer.Scorer) -> None:
        if isinstance(found, scorer.VersionScorer):
            found.keep_spaces(catalogue)

    collector = Collector(
        Delivery(broker, clock=system.clock, random=system.random),
        metrics,
        options=Options(
            query_hash_key=query_hash_key,
            client_id_key=client_id_key,
            currency=settings.collect_currency or None,
        ),
        max_bytes=settings.collect_bytes,
        timeout_s=settings.collect_timeout_s,
        now_ms=system.now_ms,
    )
    dependencies = Dependencies(
        credentials=watched,
        catalogue=catalogue,
        catalogue_updater=ReplicaUpdater(broker, topics.ITEMS, catalogue, metrics, random=system.random),
        profiles=profiles,
        profiles_updater=ReplicaUpdater(broker, topics.PROFILES, profiles, metrics, random=system.random),
        assigner=Assigner(
            ExperimentStore(engine) if engine is not None else None,
            layer=settings.layer,
            default_lineage=settings.default_lineage or None,
            copy_path=folder / "experiment.json",
        ),
        versions=versions,
        version_updater=VersionUpdater(
            MapReader(engine) if engine is not None else None,
            versions,
            load,
            metrics,
            copy_path=folder / "map.json",
            clock=system.clock,
            check=check,
        ),
        emitter=Emitter(
            broker,
            Spool(folder / _spool_name(settings.port, worker), settings.spool_bytes, metrics),
            metrics,
            queue_size=settings.queue_size,
            clock=system.clock,
            random=system.random,
        ),
        collector=collector,
        reporter=Reporter(
            partial(reports.write, engine) if engine is not None else None,
            AnswersByVersion(metrics),
            name=f"{socket.gethostname()}:{settings.port}",
            now_ms=system.now_ms,
            clock=system.clock,
        ),
        pages=ExperimentPages(
            partial(pages.list_page, engine) if engine is not None else None,
            partial(pages.page, engine) if engine is not None else None,
        ),
        annotation=AnnotationDesk(
            Path(settings.annotation_pages) if settings.annotation_pages else None,
            collector.deliver,
            now_ms=system.now_ms,
        ),
        metrics=metrics,
        system=system,
    )
    return Service(
        settings,
        dependencies,
        query_hash_key=query_hash_key,
        client_id_key=client_id_key,
        host=socket.gethostname(),
        worker=worker,
    )


def _spool_name(port: int, worker: int) -> str:
    """Return the name of the spool: processes of one host share the home folder.

    The first worker takes that of an only process, so that nothing waits for ever after `serving.workers` was raised.
    """
    return f"spool-{port}" if worker <= 1 else f"spool-{port}-{worker}"


def _runtime(settings: ServingSettings) -> scorer.Runtime:
    """Return the runtime, and limit torch to one thread if it is the one."""
    runtime = scorer.runtime_of(settings)
    if settings.runtime == "onnx":
        return runtime
    from serving.ranking import torch_runtime

    torch_runtime.use_one_thread()
    return runtime
