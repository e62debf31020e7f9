"""Construction of one ranking service from its settings."""

import os
import socket
import time
from pathlib import Path

from abtest.store import ExperimentStore
from serving.metrics import Metrics
from serving.outbox.collector import Collector
from serving.outbox.delivery import Delivery
from serving.outbox.emitter import Emitter
from serving.outbox.spool import Spool
from serving.query_key import pepper
from serving.ranking import scorer
from serving.ranking.replicas import Follower
from serving.ranking.service import Parts, Service, Sources
from serving.ranking.versions import Updater, Versions
from serving.settings import ServingSettings
from stream import db
from stream.adapters import Options
from stream.broker.settings import Broker
from stream.replicas.catalogue import Catalogue
from stream.replicas.profiles import Profiles
from stream.schemas import topics
from trainer.versions.registry import Registry

SYSTEM = Sources(clock=time.monotonic, now_ms=lambda: time.time_ns() // 1_000_000, random_bytes=os.urandom)


def build(
    settings: ServingSettings,
    *,
    home: Path,
    broker: Broker | None,
    database_url: str | None,
    sources: Sources = SYSTEM,
) -> Service:
    """Return a service that is wired but not started.

    Args:
        settings: The section `serving`.
        home: Folder of everything Shelfwise keeps on disk.
        broker: Without one, impressions go to the spool, catalogue and profiles stay empty, and no event is accepted.
        database_url: Without one, versions and the experiment come from the local copies.
        sources: Time and chance.
    """
    own = home / "serving"
    key = pepper(settings, own, sources.random_bytes)
    engine = db.create(database_url) if database_url is not None else None
    metrics = Metrics()
    catalogue, profiles = Catalogue(), Profiles(settings.profiles_capacity)
    versions = Versions(metrics, max_bad_outputs=settings.max_bad_outputs)
    artifacts = Path(settings.artifacts) if settings.artifacts else home / "artifacts"
    scorer.use_one_thread()
    parts = Parts(
        catalogue=catalogue,
        profiles=profiles,
        followers=(
            Follower(broker, topics.ITEMS, catalogue, metrics),
            Follower(broker, topics.PROFILES, profiles, metrics),
        ),
        versions=versions,
        updater=Updater(
            Registry(engine) if engine is not None else None,
            versions,
            lambda address: scorer.load(artifacts, address, compiled=settings.compiled),
            metrics,
            pointers=own / "versions.json",
            clock=sources.clock,
        ),
        experiments=ExperimentStore(engine) if engine is not None else None,
        # Processes of one host share the home folder and tell their spools apart by port.
        emitter=Emitter(
            broker,
            Spool(own / f"spool-{settings.port}", settings.spool_bytes),
            metrics,
            queue_size=settings.queue_size,
            clock=sources.clock,
        ),
        collector=Collector(
            Delivery(broker, clock=sources.clock),
            metrics,
            options=Options(pepper=key),
            max_bytes=settings.collect_bytes,
            timeout_s=settings.collect_timeout_s,
            now_ms=sources.now_ms,
        ),
        metrics=metrics,
    )
    return Service(settings, parts, sources, home=own, pepper=key, host=socket.gethostname())
